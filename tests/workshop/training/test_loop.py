"""Whole runs of a few steps: what they write, that they learn, and that stopping changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import DISCRIMINATOR, GENERATOR, PYRAMID, UNET, data_config, training_config, write_people

from deformgan.commands.main import main
from deformgan.errors import InputError, QualityError, UsageError
from deformgan.models.load import load_discriminator, load_generator, load_model
from deformgan.networks import build
from deformgan.networks.base import reduced
from deformgan.workshop.datasets.subjects import load_subjects
from deformgan.workshop.training import samples
from deformgan.workshop.training.config import Stage, TrainingConfig
from deformgan.workshop.training.data import PairDataset
from deformgan.workshop.training.loop import learning_rate, train
from deformgan.workshop.training.objective import LossWeights
from deformgan.workshop.training.pairs import HeldPairs, KeptPairs
from deformgan.workshop.training.predict import stage_fields
from deformgan.workshop.training.record import read_metrics
from deformgan.workshop.training.run import Run

accelerate_state = pytest.importorskip("accelerate.state")

ADVERSARIAL: dict[str, Any] = {
    "network": UNET,
    "generator": GENERATOR,
    "discriminator": DISCRIMINATOR,
    "loss": LossWeights(window=3),
    "batch": 1,
}


class StoppedError(Exception):
    """What a run is killed with."""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run as in a process of its own, without TensorBoard, whose import takes seconds."""
    accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a small run's time."""
    monkeypatch.setattr(samples, "save_samples", lambda *_: None)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture
def config(people: Path) -> TrainingConfig:
    return training_config(data_config(people, people / "cache"))


def stop_at(step: int) -> Callable[[int, int, dict[str, float]], None]:
    def progress(done: int, steps: int, metrics: dict[str, float]) -> None:
        if done == step:
            raise StoppedError

    return progress


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{p.name}/{k}": v for p in sorted(folder.glob("*.safetensors")) for k, v in load_file(p).items()}


def without_time(rows: Any) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "memory_mb")} for row in rows]


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize(
    "changes",
    [
        {"validation": ("two",), "validation_pairs": 2},
        {"precision": "bf16"},
        ADVERSARIAL,
        {**ADVERSARIAL, "precision": "bf16", "schedule": "constant"},
        {"pairs": 3},
    ],
    ids=["T", "T in bf16", "T, G and D", "T, G and D in bf16", "three pairs"],
)
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    config: TrainingConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = replace(config, **changes)
    train(config, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(config, tmp_path / "parts", stop_at(3))  # a step after the checkpoint: that one is done again
    assert not (tmp_path / "parts" / "model").exists()
    train(config, tmp_path / "parts")
    for folder in ("checkpoint", "model"):
        whole, parts = (tensors(tmp_path / run / folder) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert without_time(read_metrics(tmp_path / "whole")) == without_time(read_metrics(tmp_path / "parts"))
    assert load_model(tmp_path / "whole" / "model").sha256 == load_model(tmp_path / "parts" / "model").sha256
    translator = load_generator(tmp_path / "whole" / "model")
    assert (translator is None) == (config.generator is None)


def test_a_run_leaves_everything_it_promises(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, validation=("two",), validation_pairs=4)
    seen: list[tuple[int, int]] = []
    model = train(config, tmp_path / "run", lambda step, steps, _: seen.append((step, steps)))
    assert model == tmp_path / "run" / "model"
    assert seen == [(n, 4) for n in range(1, 5)]
    rows = list(read_metrics(tmp_path / "run"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["t_loss"] > 0 and row["seconds"] > 0 for row in rows)
    validated = {"initial", "error", "error_small", "error_large", "rmse", "dice", "folding"}
    for row in rows:
        found = {name[4:] for name in row if name.startswith("val_")}
        assert found == (validated if row["step"] in (2, 4) else set())
    pictures = sorted((tmp_path / "run" / "samples").iterdir())
    assert [p.name for p in pictures] == ["step-000002.png", "step-000004.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
    assert not (tmp_path / "run" / "tensorboard").exists()
    loaded = load_model(model)
    assert loaded.grid_shape == (32, 32, 32)
    assert loaded.spacing == 6.0
    assert loaded.config["training"]["steps_done"] == 4
    field = loaded.predict(*torch.rand(2, 1, 1, 32, 32, 32))
    assert field.shape == (1, 3, 16, 16, 16)


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_a_trained_unet_is_run_at_the_resolution_it_was_trained_at(
    config: TrainingConfig, tmp_path: Path, scale: float
) -> None:
    config = replace(config, network=UNET, scale=scale, steps=1)
    model = load_model(train(config, tmp_path / "run"))
    images = torch.rand(2, 1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = [reduced(i, 2) for i in images] if scale == 0.5 else list(images)
    with torch.no_grad():
        expected = stage_fields(model.network, *seen, scale)[-1]
    assert torch.equal(model.predict(*images, precision="fp32"), expected)


@pytest.mark.usefixtures("_no_pictures")
def test_validation_sees_the_same_pairs_at_every_pass(config: TrainingConfig, tmp_path: Path) -> None:
    train(replace(config, validation=("two",), validation_pairs=2), tmp_path / "run")
    first, second = (row["val_initial"] for row in read_metrics(tmp_path / "run") if "val_initial" in row)
    assert first == second > 0


def test_the_known_field_is_learned(config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair, again and again: a few steps bring its error well down."""
    draw = PairDataset.__getitem__
    monkeypatch.setattr(PairDataset, "__getitem__", lambda self, index: draw(self, 0))
    train(replace(config, steps=40, batch=1, learning_rate=0.001), tmp_path / "run")
    errors = [row["t_field_error"] for row in read_metrics(tmp_path / "run")]
    assert errors[-1] < 0.5 * errors[0]


def test_a_run_does_not_depend_on_whether_its_data_were_cached(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, data=replace(config.data, cache=str(tmp_path / "cache"), synthetic=0.7), steps=2)
    for name in ("first", "second"):
        train(config, tmp_path / name)
    first, second = (without_time(read_metrics(tmp_path / name)) for name in ("first", "second"))
    assert first == second


def test_field_errors_are_in_voxels_of_the_working_grid(config: TrainingConfig, tmp_path: Path) -> None:
    """The same pairs at either resolution have about the same error in the end."""
    errors = []
    for scale in (1.0, 0.5):
        changed = replace(config, scale=scale, steps=1, network={**UNET, "velocity": False})
        train(changed, tmp_path / str(scale))
        errors.append(next(read_metrics(tmp_path / str(scale)))["t_field_error"])
    assert errors[0] == pytest.approx(errors[1], rel=0.15)


def test_a_finished_run_has_nothing_left_to_do(config: TrainingConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    before = tensors(tmp_path / "run" / "model")
    train(config, tmp_path / "run", stop_at(0))
    assert all(torch.equal(before[name], value) for name, value in tensors(tmp_path / "run" / "model").items())
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_processes_that_make_pairs_change_nothing(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, steps=2)
    for workers in (0, 1):
        train(replace(config, workers=workers), tmp_path / str(workers))
    alone, helped = (without_time(read_metrics(tmp_path / str(workers))) for workers in (0, 1))
    assert alone == helped


@pytest.mark.parametrize(
    "changes", [{"seed": 2}, {"steps": 8}, {"learning_rate": 0.1}, {"network": {**PYRAMID, "stage_width": 16}}]
)
def test_a_run_of_other_settings_is_not_gone_on_with(
    config: TrainingConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(replace(config, steps=2, checkpoint_every=1), tmp_path / "run")
    with pytest.raises(UsageError, match=rf"other settings: {next(iter(changes))}"):
        train(replace(config, checkpoint_every=1, **{"steps": 2, **changes}), tmp_path / "run")


def test_where_the_data_lie_and_how_often_it_reports_may_change(
    config: TrainingConfig, tmp_path: Path, people: Path
) -> None:
    """Also a configuration made in Python goes on where one read from a file stopped: a tuple is as good as a list."""
    with pytest.raises(StoppedError):
        train(config, tmp_path / "run", stop_at(2))
    (tmp_path / "moved").symlink_to(people)
    data = replace(config.data, root=str(tmp_path / "moved"), cache=str(tmp_path / "cache"))
    network = {**PYRAMID, "widths": tuple(PYRAMID["widths"])}
    steps: list[int] = []
    changed = replace(config, data=data, network=network, validate_every=3, checkpoint_every=1)
    train(changed, tmp_path / "run", lambda step, *_: steps.append(step))
    assert steps == [3, 4]


def test_a_network_that_cannot_be_is_refused(config: TrainingConfig, tmp_path: Path) -> None:
    for network in ({"kind": "resnet"}, {**PYRAMID, "colour": "red"}, {**PYRAMID, "widths": [7, 7, 7]}):
        with pytest.raises(UsageError, match="network that cannot be"):
            train(replace(config, network=network), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_may_start_from_weights(config: TrainingConfig, tmp_path: Path) -> None:
    """With hardly any learning they stay what they were."""
    first = train(config, tmp_path / "first")
    tuned = replace(config, start_from=str(first), learning_rate=1e-9, steps=2)
    train(tuned, tmp_path / "tuned")
    before, after = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("first", "tuned"))
    for name in before:
        torch.testing.assert_close(before[name], after[name], atol=1e-6, rtol=0)
    with pytest.raises(UsageError, match=r"weights .* are of another network"):
        train(replace(tuned, network={**PYRAMID, "stage_width": 16}), tmp_path / "other")
    with pytest.raises(UsageError, match="no weights named"):
        train(replace(tuned, start_from="nothing"), tmp_path / "other")


def test_a_damaged_checkpoint_is_refused(config: TrainingConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    (tmp_path / "run" / "checkpoint" / "T.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="does not fit"):
        train(config, tmp_path / "run")


def test_a_configuration_may_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        train(tmp_path / "none.toml", tmp_path / "run")


def test_tensorboard_gets_the_same_numbers(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder, self.scalars, self.closed = folder, {}, False
            boards.append(self)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars[name, step] = value

        def close(self) -> None:
            self.closed = True

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type(sys)("tensorboard"))
    monkeypatch.setattr(sys.modules["torch.utils.tensorboard"], "SummaryWriter", SummaryWriter, raising=False)
    train(config, tmp_path / "run")
    (board,) = boards
    assert board.folder == str(tmp_path / "run" / "tensorboard")
    assert board.closed
    for row in read_metrics(tmp_path / "run"):
        assert board.scalars["t/loss", row["step"]] == row["t_loss"]


def test_metrics_survive_a_kill_in_the_middle_of_a_line(config: TrainingConfig, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(config, tmp_path / "run", stop_at(3))
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2]
    train(config, tmp_path / "run")
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainingConfig("x", UNET, loss=LossWeights("lcc"), steps=100, learning_rate=2.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[5] == 2.0
    assert rates[5 + 95 // 2] == pytest.approx(0.01 * 2 + 0.99, abs=0.03)  # half way down
    assert rates[-1] == pytest.approx(0.02, abs=0.001)
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert {learning_rate(replace(config, schedule="constant"), step) for step in (0, 50, 99)} == {2.0}
    assert learning_rate(replace(config, steps=1), 0) == 2.0


def test_the_learning_rate_goes_by_the_steps_in_which_t_learns() -> None:
    stages = (
        Stage(0.5, 60, train=("D", "G")),
        Stage(0.5, 40),
        Stage(1, 30, train=("D",)),
        Stage(1, 60),
    )
    config = TrainingConfig("x", UNET, GENERATOR, DISCRIMINATOR, stages=stages, schedule="cosine", learning_rate=2.0)
    alone = replace(config, stages=(), steps=100)
    for step, learned in ((0, 0), (60, 0), (75, 15), (100, 40), (120, 40), (130, 40), (189, 99)):
        assert learning_rate(config, step) == learning_rate(alone, learned)


@pytest.mark.usefixtures("_no_pictures")
def test_a_time_limit_ends_a_run_that_the_next_call_goes_on_with(config: TrainingConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "whole")
    folder = train(config, tmp_path / "slices", minutes=1e-6)
    assert load_model(folder).config["training"]["steps_done"] == 1
    for done in (2, 3, 4, 4):
        train(config, tmp_path / "slices", minutes=1e-6)
        assert load_model(folder).config["training"]["steps_done"] == done
    whole, slices = tensors(tmp_path / "whole" / "model"), tensors(folder)
    assert all(torch.equal(whole[name], slices[name]) for name in whole)


@pytest.mark.usefixtures("_no_pictures")
def test_a_run_starts_from_the_generator_of_another(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, **ADVERSARIAL, steps=1)
    taught = train(config, tmp_path / "taught")
    translator = load_generator(taught)
    assert translator is not None
    known = load_discriminator(taught)
    assert known is not None
    run = Run.begin(replace(config, generator_from=str(taught), adversarial_rate=3e-4), tmp_path / "next")
    for role, states in (("G", translator.network.state_dict()), ("D", known)):
        begun = run.networks[role].state_dict()
        assert all(torch.equal(begun[name], tensor) for name, tensor in states.items())
    rates = {role: optimizer.param_groups[0]["lr"] for role, optimizer in run.optimizers.items()}
    assert rates == {"T": config.learning_rate, "G": 3e-4, "D": 3e-4}
    (taught / "discriminator.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"discriminator .* is damaged"):
        Run.begin(replace(config, generator_from=str(taught)), tmp_path / "next")
    (taught / "discriminator.safetensors").unlink()
    Run.begin(replace(config, generator_from=str(taught)), tmp_path / "next")
    (taught / "generator.safetensors").unlink()
    with pytest.raises(UsageError, match="hold no generator"):
        Run.begin(replace(config, generator_from=str(taught)), tmp_path / "next")


def test_pairs_that_are_held_are_drawn_again_and_again(config: TrainingConfig) -> None:
    pairs = PairDataset(load_subjects(config.data, ("one", "two")), config.data, config.augmentation, 0.5, 3, 4)
    held = HeldPairs(pairs, 60, 5)
    assert len(held) == 60
    for item in ("fixed", "moving", "mask", "field"):
        for i in range(4):
            torch.testing.assert_close(held[i][item], pairs[i][item], atol=0.01, rtol=0)
    fields = {tuple(held[i]["field"].flatten().tolist()) for i in range(60)}
    assert len(fields) == 4
    assert torch.equal(HeldPairs(pairs, 60, 5)[37]["field"], held[37]["field"])


def as_toml(values: dict[str, Any], table: str = "") -> str:
    plain = [f"{k} = {json.dumps(v)}" for k, v in values.items() if v is not None and not isinstance(v, dict)]
    inner = [as_toml(v, f"{table}.{k}".lstrip(".")) for k, v in values.items() if isinstance(v, dict)]
    return "\n".join([f"[{table}]" if table else "", *plain, *inner])


def test_the_command_takes_the_data_from_elsewhere(
    config: TrainingConfig, tmp_path: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--data`` stands in for ``root``, and the answer is the last step's numbers."""
    config = replace(config, steps=1, data=replace(config.data, root="/nowhere", cache=str(tmp_path / "cache")))
    (tmp_path / "c.toml").write_text(as_toml(config.to_dict()), encoding="utf-8")
    words = ["train", str(tmp_path / "c.toml"), "-o", str(tmp_path / "run"), "--threads", "1", "--json"]
    assert main(words) == 3
    assert "/nowhere/one holds 0 of the contrasts" in capsys.readouterr().err.replace("\n", " ")
    accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
    assert main([*words, "--data", str(people)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["step"], answer["model"]) == (1, str(tmp_path / "run" / "model"))
    assert load_model(tmp_path / "run" / "model").config["training"]["data"]["root"] == str(people)


def test_the_command_with_data_but_without_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(tmp_path / "none.toml"), "-o", str(tmp_path / "run"), "--data", str(tmp_path)]
    assert main(words) == 3
    assert "cannot read the configuration" in capsys.readouterr().err


STAGES = (Stage(0.25, 2, 2), Stage(0.5, 2, 1), Stage(1, 1, 1))


def test_a_run_in_stages_stopped_between_them_ends_as_one_that_was_not(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, **ADVERSARIAL, stages=STAGES, checkpoint_every=1)
    assert (config.steps, config.scale, config.batch) == (5, 1, 1)
    train(config, tmp_path / "whole")
    for step in (2, 4):
        with pytest.raises(StoppedError):
            train(config, tmp_path / "parts", stop_at(step))
    train(config, tmp_path / "parts")
    whole, parts = (tensors(tmp_path / run / "checkpoint") for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = list(read_metrics(tmp_path / "whole"))
    assert [row["scale"] for row in rows] == [0.25, 0.25, 0.5, 0.5, 1]
    assert load_model(tmp_path / "whole" / "model").reduction == 1
    assert [load_model(tmp_path / "parts" / "stages" / scale).reduction for scale in ("0.25", "0.5")] == [4, 2]


def test_vectors_grow_with_the_grid(config: TrainingConfig) -> None:
    network = build(UNET)
    before = network.unet.head.weight.clone()  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(network.parameters())
    optimizer.state[network.unet.head.weight] = {"step": 1}  # type: ignore[union-attr]
    Run(config, Path(), None, {"T": network}, {"T": optimizer}).enter_stage(2.0)
    assert torch.equal(network.unet.head.weight, 2 * before)  # type: ignore[union-attr]
    assert not optimizer.state


def test_stages_go_from_coarse_to_fine() -> None:
    with pytest.raises(UsageError, match="do not rise"):
        TrainingConfig("x", UNET, loss=LossWeights("lg"), stages=(Stage(1, 1), Stage(0.5, 1)))
    with pytest.raises(UsageError, match="reads images at a resolution"):
        TrainingConfig("x", PYRAMID, loss=LossWeights("lg"), stages=STAGES)


def test_snapshots_hold_what_the_networks_were(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, **ADVERSARIAL, snapshots=(1, 4))
    train(config, tmp_path)
    folders = sorted((tmp_path / "snapshots").iterdir())
    assert [f.name for f in folders] == ["step-000001", "step-000004"]
    kept = {name: load_file(folders[-1] / f"{name}.safetensors") for name in "TG"}
    last = {name: load_file(tmp_path / "checkpoint" / f"{name}.safetensors") for name in "TG"}
    assert all(torch.equal(kept[n][key], last[n][key]) for n in "TG" for key in last[n])
    described = json.loads((folders[0] / "config.json").read_text())
    assert described["step"] == 1
    assert build(described["G"]).load_state_dict(load_file(folders[0] / "G.safetensors"))


def test_validation_says_how_well_edges_agree(config: TrainingConfig, tmp_path: Path) -> None:
    train(replace(config, **ADVERSARIAL, validation=("two",), validation_pairs=2), tmp_path)
    rows = [row for row in read_metrics(tmp_path) if "val_edges" in row]
    assert rows
    assert all(0 < row["val_edges"] <= 1 for row in rows)


def test_kept_pairs_are_made_once_and_read_back_the_same(config: TrainingConfig, tmp_path: Path) -> None:
    subjects = load_subjects(config.data, config.data.patients, config.data.label_maps)
    pairs = PairDataset(subjects, config.data, config.augmentation, 0.5, 3, 4)
    kept = KeptPairs(pairs, tmp_path)
    first, again = kept[2], KeptPairs(pairs, tmp_path)[2]
    assert all(torch.equal(first[name], again[name]) for name in first)
    exact = pairs[2]
    assert torch.allclose(first["moving"], exact["moving"], atol=0.5 / 255 + 1e-6)
    assert torch.allclose(first["field"], exact["field"], rtol=1e-3, atol=1e-3)
    (file,) = kept.folder.iterdir()
    stamp = file.stat().st_mtime_ns
    kept[2]
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(b"rubbish")
    assert torch.equal(kept[2]["moving"], first["moving"])
    others = (
        PairDataset(subjects, config.data, config.augmentation, scale, seed, 4) for scale, seed in ((0.25, 3), (0.5, 4))
    )
    assert len({KeptPairs(other, tmp_path).folder for other in others} | {kept.folder}) == 3


@pytest.mark.usefixtures("_no_pictures")
def test_a_stage_trains_the_networks_it_names(config: TrainingConfig, tmp_path: Path) -> None:
    stages = (Stage(0.5, 2, 1, ("D", "G"), misalignment=2.0), Stage(0.5, 2, 1, ("T",)))
    snapshots = (1, 2, 4)
    config = replace(config, **ADVERSARIAL, stages=stages, snapshots=snapshots, schedule="constant")
    train(config, tmp_path / "run")
    at = {step: tensors(tmp_path / "run" / "snapshots" / f"step-{step:06d}") for step in snapshots}
    for name, before, after, changed in (("T", 1, 2, False), ("G", 1, 2, True), ("T", 2, 4, True), ("G", 2, 4, False)):
        same = [torch.equal(at[before][key], at[after][key]) for key in at[before] if key.startswith(f"{name}.")]
        assert same
        assert all(same) != changed, (name, before, after)
    rows = list(read_metrics(tmp_path / "run"))
    assert [{"g_loss", "t_loss"} & set(row) for row in rows] == [{"g_loss"}] * 2 + [{"t_loss"}] * 2


@pytest.mark.usefixtures("_no_pictures")
def test_t_does_not_learn_through_a_generator_that_fails_the_gate(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, **ADVERSARIAL, validation=("two",), validation_pairs=2, gate=1.01)
    with pytest.raises(QualityError, match="in 101%"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    passing = replace(config, gate=0.0)
    train(passing, tmp_path / "open")
    last = list(read_metrics(tmp_path / "open"))[-1]
    assert 0 <= last["val_gate"] <= 1
    assert last["val_gate"] == pytest.approx(sum(last[f"val_gate_{size}"] for size in "1248") / 4)


def test_stages_that_cannot_be_are_refused() -> None:
    for wrong in ({"train": ()}, {"train": ("T", "T")}, {"misalignment": -1.0}):
        with pytest.raises(UsageError):
            Stage(0.5, 2, **wrong)
