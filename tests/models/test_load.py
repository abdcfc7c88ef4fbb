"""Weights: a round trip, and every way they can be damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CONFIG, write_tiny_model

from deformgan.errors import InputError, UsageError
from deformgan.models import device
from deformgan.models import load as models
from deformgan.models.device import pick_precision
from deformgan.models.load import Model, load_discriminator, load_generator, load_model, save_model, shipped_models
from deformgan.networks import build
from deformgan.networks.base import reduced
from deformgan.workshop.training.predict import stage_fields

SHAPE = (32, 36, 28)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "weights", bend=0.3)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships the weights ``tiny``."""
    shelf = tmp_path / "package" / "weights"
    write_tiny_model(shelf / "tiny")
    monkeypatch.setattr(models, "_SHIPPED", shelf)
    return shelf


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    fixed, moving = torch.rand(2, 1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    return fixed, moving


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "network", [CONFIG["network"], {"kind": "pyramid", "widths": [8, 8, 16], "stage_width": 8}], ids=["unet", "pyramid"]
)
def test_a_saved_network_answers_as_it_did(tmp_path: Path, network: dict[str, Any]) -> None:
    made = build(network).eval().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    save_model(tmp_path / "new" / "weights", made, CONFIG | {"network": network})
    model = load_model(tmp_path / "new" / "weights")
    with torch.no_grad():
        assert torch.equal(model.predict(*pair(), precision="fp32"), made(*pair()))
    assert model.config["network"] == network
    assert not model.network.training
    assert model.grid_shape == SHAPE
    assert model.spacing == CONFIG["grid"]["spacing"]


def test_the_checksum_is_that_of_the_file(folder: Path) -> None:
    model = load_model(folder)
    assert model.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert model.name == str(folder)


def test_saving_again_replaces_the_weights(folder: Path) -> None:
    before = load_model(folder).sha256
    write_tiny_model(folder, bend=0.1)
    assert load_model(folder).sha256 != before
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_bf16_is_near_fp32(folder: Path) -> None:
    model = load_model(folder)
    full, rounded = (model.predict(*pair(), precision=p) for p in ("fp32", "bf16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(full, rounded)
    assert (full - rounded).abs().max() < 0.05 * full.abs().max()


@pytest.fixture
def has_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has bf16, and nothing that keeps PyTorch from it."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize("kernels", [True, False])
def test_auto_takes_bf16_only_where_there_are_no_kernels(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kernels: bool
) -> None:
    monkeypatch.setattr(device, "is_available", lambda: kernels)
    model = load_model(folder)
    expected = model.predict(*pair(), precision="fp32" if kernels else "bf16")
    assert torch.equal(model.predict(*pair()), expected)


@pytest.mark.usefixtures("has_bf16")
def test_training_takes_bf16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_precision("auto", "cpu", training=True) == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert pick_precision("auto", "cpu", training=True) == "fp32"


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize(("isa", "expected"), [("AVX2", "fp32"), ("avx512_core", "fp32"), ("ALL", "bf16")])
def test_auto_keeps_to_the_instructions_that_onednn_is_let_use(
    monkeypatch: pytest.MonkeyPatch, isa: str, expected: str
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert pick_precision("auto", "cpu", training=True) == expected


@pytest.mark.usefixtures("has_bf16")
def test_auto_keeps_to_the_instructions_that_pytorch_is_let_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert pick_precision("auto", "cpu", training=True) == "fp32"


def test_other_devices_gain_nothing_by_bf16() -> None:
    assert pick_precision("auto", "cuda") == pick_precision("auto", "mps") == "fp32"
    assert pick_precision("bf16", "cuda") == "bf16"


def test_an_unknown_precision_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="fp16"):
        load_model(folder).predict(*pair(), precision="fp16")


def test_shipped_weights_are_found_by_name(shelf: Path) -> None:
    assert shipped_models() == ["tiny"]
    assert isinstance(load_model("tiny"), Model)
    assert load_model("tiny").sha256 == load_model(shelf / "tiny").sha256


def test_a_folder_of_the_same_name_does_not_replace_shipped_weights(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = load_model(write_tiny_model(tmp_path / "tiny", bend=0.3)).sha256
    assert load_model("tiny").sha256 != own
    assert load_model("./tiny").sha256 == own
    assert load_model(Path("tiny")).sha256 == own


def test_an_unknown_name_lists_the_known_ones(shelf: Path) -> None:
    with pytest.raises(UsageError, match=r"no weights named 'tinny'.*use one of: tiny"):
        load_model("tinny")


def test_without_any_shipped_weights_it_says_so(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_SHIPPED", shelf / "nothing")
    with pytest.raises(UsageError, match="none are shipped"):
        load_model("tiny")


@pytest.mark.parametrize("name", ["../secret", "tiny/../../secret", "..", "", "tiny\0", "/", "tiny/config.json"])
def test_a_name_never_leads_out_of_the_package(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_tiny_model(shelf.parent / "secret")  # what ../secret would be from the shelf
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no weights named"):
        load_model(name)


def test_a_folder_without_both_files_is_none(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match="no weights named"):
        load_model(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def poison(path: Path, value: float) -> None:
    state = load_file(path)
    state[next(iter(state))].view(-1)[0] = value
    save_file(state, path)


def rename_a_tensor(path: Path) -> None:
    state = load_file(path)
    save_file({f"x.{name}": tensor for name, tensor in state.items()}, path)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 64),
        lambda path: poison(path, float("nan")),
        lambda path: poison(path, float("inf")),
        rename_a_tensor,
    ],
    ids=["cut", "empty", "noise", "nan", "inf", "renamed"],
)
def test_damaged_weights_are_refused(folder: Path, damage: Callable[[Path], Any]) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(InputError, match="are damaged") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("network"),
        lambda c: c.pop("grid"),
        lambda c: c["network"].pop("kind"),
        lambda c: c["network"].update(kind="nothing"),
        lambda c: c["network"].update(kind="generator"),
        lambda c: c["network"].update(colour="red"),
        lambda c: c["network"].update(widths=[4, 16]),
        lambda c: c["network"].update(widths="wide"),
        lambda c: c.update(network=3),
        lambda c: c["grid"].update(shape=[32, 32]),
        lambda c: c["grid"].update(shape=[32, 32, 0]),
        lambda c: c["grid"].update(shape=[32, 32, "32"]),
        lambda c: c["grid"].update(shape=32),
        lambda c: c["grid"].update(spacing=0),
        lambda c: c["grid"].update(spacing=float("inf")),
        lambda c: c["grid"].update(spacing=None),
    ],
)
def test_a_damaged_configuration_is_refused(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    change_config(folder, change)
    with pytest.raises(InputError, match="are damaged"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff", "3"])
def test_a_configuration_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="are damaged"):
        load_model(folder)


def half_resolution_unet(folder: Path) -> Path:
    write_tiny_model(folder, bend=0.3)
    change_config(folder, lambda c: c.update(scale=0.5))
    return folder


def test_a_network_trained_on_halved_images_is_given_halved_images(tmp_path: Path) -> None:
    model = load_model(half_resolution_unet(tmp_path / "half"))
    fixed, moving = pair()
    found = model.predict(fixed, moving, precision="fp32")
    with torch.no_grad():
        trained = stage_fields(model.network, reduced(fixed, 2), reduced(moving, 2), 0.5)[-1]
    assert tuple(found.shape[2:]) == tuple(n // 2 for n in SHAPE)
    assert torch.equal(found, trained)
    at_full = load_model(write_tiny_model(tmp_path / "full", bend=0.3)).predict(fixed, moving, precision="fp32")
    assert tuple(at_full.shape[2:]) == SHAPE


def test_a_pyramid_halves_by_itself_whatever_the_scale(tmp_path: Path) -> None:
    network = {"kind": "pyramid", "widths": [8, 8, 16], "stage_width": 8}
    made = build(network).eval().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    save_model(tmp_path, made, CONFIG | {"network": network, "scale": 0.5})
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).predict(*pair(), precision="fp32"), made(*pair()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(scale=0.5) or c["grid"].update(shape=[33, 36, 28]), "multiples of 2"),
        (lambda c: c.update(scale=0.3), "scale"),
        (lambda c: c["grid"].update(shape=[2048, 2, 2]), "larger than"),
        (lambda c: c["grid"].update(shape=[1000, 1000, 1000]), "larger than"),
    ],
)
def test_grids_that_no_network_takes_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    change_config(folder, change)
    with pytest.raises(InputError, match=says):
        load_model(folder)


def test_a_pyramid_needs_even_sides(tmp_path: Path) -> None:
    network = {"kind": "pyramid", "widths": [8, 8, 16], "stage_width": 8}
    grid = {"shape": [32, 35, 28], "spacing": 6.0}
    save_model(tmp_path, build(network), {"network": network, "grid": grid})
    with pytest.raises(InputError, match="even"):
        load_model(tmp_path)


@pytest.mark.parametrize("spacing", [1e300, 1e-9])
def test_a_spacing_of_no_image_is_refused(folder: Path, spacing: float) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["grid"]["spacing"] = spacing
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"the weights in .* are damaged"):
        load_model(folder)


def test_weights_that_lead_beyond_any_image_are_refused(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path / "wild", bend=1e30))
    pair = torch.rand(1, 1, *model.grid_shape), torch.rand(1, 1, *model.grid_shape)
    with pytest.raises(InputError, match="beyond any image"):
        model.predict(*pair)


def test_the_paper_s_method_is_shipped_with_its_generator() -> None:
    model, translator = load_model("deform-gan-2"), load_generator("deform-gan-2")
    assert translator is not None
    assert model.generator_sha256 == translator.sha256
    assert all(weight.dtype == torch.float32 for weight in model.network.parameters())
    start = load_model("t1-t2").network.state_dict()
    moved = max(float((weight - start[name]).abs().max()) for name, weight in model.network.state_dict().items())
    assert 0 < moved < 0.05  # a part of the way from where its training began
    image = torch.rand(1, 1, *model.grid_shape, generator=torch.Generator().manual_seed(1))
    drawn = translator.translate(image)
    assert drawn.shape[2:] == tuple(n // translator.reduction for n in model.grid_shape)
    assert bool(drawn.isfinite().all())
    known = load_discriminator("deform-gan-2")
    assert known is not None
    build(model.config["training"]["discriminator"], "D").load_state_dict(known)
    assert load_discriminator("t1-t2") is None
