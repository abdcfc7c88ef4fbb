"""Which patients a configuration means, and a training run on a data set as it was downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import make_phantom, write_nifti
from small_datasets import brats, cut, plain

from deformgan.commands.main import main
from deformgan.errors import InputError, UsageError
from deformgan.workshop.datasets.choice import choose_patients, named_patients
from deformgan.workshop.datasets.config import DataConfig
from deformgan.workshop.datasets.patients import Patient
from deformgan.workshop.datasets.split import person_of, split

NAMES = [f"BraTS-GLI-{k:05}-{visit:03}" for k in range(7) for visit in range(2)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        brats(tmp_path / "data" / name, ["t1n", "t2w"], "-")
    return tmp_path / "data"


def config_of(root: Path, **changes: Any) -> DataConfig:
    return DataConfig(**{"root": str(root), **changes})


def names(patients: tuple[str | Patient, ...]) -> tuple[str, ...]:
    assert all(isinstance(p, Patient) for p in patients)
    return tuple(p.name for p in patients if isinstance(p, Patient))


def test_the_part_that_is_asked_for(root: Path) -> None:
    parts = split(NAMES)
    assert len(parts.test) == 2
    for part, wanted in (("train", parts.train), ("test", parts.test), ("all", tuple(NAMES))):
        chosen, validation = choose_patients(config_of(root, part=part))
        assert (names(chosen), validation) == (wanted, ())
    other = split(NAMES, seed=1)
    assert other != parts
    assert names(choose_patients(config_of(root, split_seed=1))[0]) == other.train


def test_people_are_held_out(root: Path) -> None:
    parts = split(NAMES, validation=2)
    chosen, validation = choose_patients(config_of(root, held_out=2))
    assert (names(chosen), names(validation)) == (parts.train, parts.validation)
    everybody, _ = choose_patients(config_of(root, held_out=2, part="all"))
    assert set(names(everybody)) == set(NAMES) - set(parts.validation)
    with pytest.raises(UsageError, match="cannot be kept for validation"):
        choose_patients(config_of(root, held_out=6))


def test_who_is_named_for_validation_is_not_trained_on(root: Path) -> None:
    train = split(NAMES).train
    chosen, validation = choose_patients(config_of(root, held_out=3), (train[0],))
    assert names(validation) == (train[0],)
    assert set(names(chosen)) == {name for name in train if person_of(name) != person_of(train[0])}


def test_what_is_named_stays_as_it_is(root: Path) -> None:
    assert choose_patients(config_of(root, patients=("a", "b")), ("c",)) == (("a", "b"), ("c",))
    assert choose_patients(config_of(root, label_maps=("x.nii.gz",)), ()) == ((), ())
    chosen, _ = choose_patients(config_of(root, label_maps=("x.nii.gz",), patients=("*",)))
    assert names(chosen) == split(NAMES).train


def test_nobody_is_left(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in NAMES[2:]:
        for file in (root / name).iterdir():
            file.unlink()
    with pytest.raises(InputError, match="nobody is left of part “test” of the 2 patients"):
        choose_patients(config_of(root, part="test"))
    for file in root.glob("*/*t1n.nii.gz"):
        cut(file)
    with pytest.raises(InputError, match=r"no case in .* can be used"):
        choose_patients(config_of(root))
    assert sum("is left out" in message for message in caplog.messages) == 12 + 14


def test_a_contrast_that_the_direction_asks_for(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    contrasts = {"t1": 1.0, "t2": 1.0, "flair": 1.0}
    for name in NAMES[:9]:
        brats(root / name, ["t2f"], "-")
    chosen, _ = choose_patients(config_of(root, contrasts=contrasts, direction=("flair", "t1"), part="all"))
    assert names(chosen) == tuple(NAMES[:9])
    assert len(caplog.messages) == 5
    assert caplog.messages[0].startswith(
        f"{NAMES[9]} is left out: it has no flair, which direction asks for; it has no"
    )


def test_names_are_folders_first_and_then_those_of_the_layout(root: Path) -> None:
    plain(root / "mine")
    one, two, nobody = named_patients(config_of(root), ["mine", NAMES[3], "nobody"])
    assert one.images["t1"].path == root / "mine" / "t1.nii.gz"
    assert two.images["t1"].path == root / NAMES[3] / f"{NAMES[3]}-t1n.nii.gz"
    assert nobody == Patient("nobody", {})
    assert named_patients(config_of(root / "mine"), ["x"]) == [Patient("x", {})]  # no layout there


CONFIG = """
name = "small"
network = { kind = "pyramid", widths = [8, 8, 16], stage_width = 8 }
loss = { similarity = "none", smoothness = 0.0, known_field = 1.0 }
steps = 2
batch = 1
precision = "fp32"
workers = 0
validate_every = 2
validation_pairs = 1
augmentation.regimes.small = { max_displacement = 4.0 }
augmentation.weights = [1.0]

[data]
direction = ["t2", "t1"]
held_out = 1
shape = [32, 32, 32]
spacing = 6.0
"""


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """Seven people as BraTS 2018 has them: one without T2, one cut off, the others whole."""
    phantom = make_phantom()
    for number in range(7):
        folder = tmp_path / "MICCAI_BraTS_2018_Data_Training" / "HGG" / f"Brats18_A_{number}_1"
        folder.mkdir(parents=True)
        for suffix, data in (("t1", phantom.t1), ("t2", phantom.t2), ("flair", phantom.t2), ("seg", phantom.labels)):
            write_nifti(folder / f"{folder.name}_{suffix}.nii.gz", data, phantom.affine)
    home = folder.parent
    (home / "Brats18_A_2_1" / "Brats18_A_2_1_t2.nii.gz").unlink()
    cut(home / "Brats18_A_5_1" / "Brats18_A_5_1_t1.nii.gz")
    return home.parents[1]


def test_train_takes_a_data_set_as_it_was_downloaded(
    downloaded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("accelerate")
    config = tmp_path / "c.toml"
    config.write_text(CONFIG + f'cache = "{tmp_path / "cache"}"\n')
    words = ["train", str(config), "--data", str(downloaded), "--threads", "1", "--json", "-o"]
    assert main([*words, str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["step"] == 2
    lines = said.err.splitlines()
    two, five = (next(line for line in lines if f"Brats18_A_{k}_1 " in line) for k in (2, 5))
    left_out = "is left out: it holds 1 of the contrasts t1, t2"
    assert two == f"deformgan: Brats18_A_2_1 {left_out}; it has no file for t2 — add what is missing"
    assert five.startswith(f"deformgan: Brats18_A_5_1 {left_out}; ")
    assert "Brats18_A_5_1_t1.nii.gz is truncated or damaged" in five
    assert sum("Brats18_A_2_1" in line for line in lines) == sum("Brats18_A_5_1" in line for line in lines) == 1
    made = {path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()}
    parts = split((f"Brats18_A_{k}_1" for k in (0, 1, 3, 4, 6)), validation=1)
    assert made == {*parts.train, *parts.validation}
    conformed = [line.split()[2] for line in lines if line.startswith("deformgan: conforming")]
    assert conformed == [*parts.train, *parts.validation]

    assert main([*words, str(tmp_path / "again")]) == 0
    assert "conforming" not in capsys.readouterr().err


def test_train_says_so_where_every_case_is_bad(
    downloaded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("accelerate")
    for file in downloaded.rglob("*_t[12].nii.gz"):
        cut(file)
    config = tmp_path / "c.toml"
    config.write_text(CONFIG + f'cache = "{tmp_path / "cache"}"\n')
    assert main(["train", str(config), "--data", str(downloaded), "-o", str(tmp_path / "run")]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert sum(" is left out: " in line for line in lines) == 7
    assert "can be used — see what is said of each" in lines[-1]
