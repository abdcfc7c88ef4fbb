"""Configurations: what is accepted, what is refused and how it is said."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from small_training import AUGMENTATION, DISCRIMINATOR, GENERATOR, PYRAMID, UNET

from deformgan.errors import InputError, UsageError
from deformgan.networks import build
from deformgan.workshop.datasets.config import DataConfig
from deformgan.workshop.simulation.deformation import DeformationConfig
from deformgan.workshop.training.config import AugmentationConfig, TrainingConfig, load_config

ROOT = Path(__file__).parents[3]
MINIMAL: dict[str, Any] = {"name": "x", "network": UNET, "loss": {"similarity": "lcc"}}


def config_of(**changes: Any) -> TrainingConfig:
    return TrainingConfig.from_dict(MINIMAL | changes)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_configuration_of_the_repository_is_whole(path: Path) -> None:
    config = load_config(path)
    for kind in (config.network, config.generator, config.discriminator):
        if kind is not None:
            build(kind)
    assert set(config.validation).isdisjoint(config.data.patients)


def test_the_configuration_in_the_documentation_is_one() -> None:
    page = (ROOT / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")
    text = page.split("```toml\n")[1].split("```")[0]
    config = TrainingConfig.from_dict(tomllib.loads(text))
    assert config.generator is not None
    assert config.data.patients


def test_it_survives_json() -> None:
    config = config_of(
        generator=GENERATOR,
        discriminator=DISCRIMINATOR,
        augmentation=AUGMENTATION,
        data=DataConfig(patients=("a", "b"), contrasts={"t1": 1.0, "pd": 0.5}, shape=(32, 48, 64)),
        validation=("c",),
        clip=0.5,
    )
    again = TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert isinstance(again.augmentation.regimes["large"], DeformationConfig)


def test_it_is_read_from_toml(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        """
        name = "läuft"
        clip = 1
        validation = ["v"]
        [network]
        kind = "unet"
        widths = [4, 8]
        [loss]
        similarity = "lcc"
        [data]
        shape = [32, 32, 48]
        [augmentation]
        weights = [1.0]
        [augmentation.regimes.only]
        elastic = [1, 2]
        """,
        encoding="utf-8",
    )
    config = load_config(tmp_path / "c.toml")
    assert config.name == "läuft"
    assert config.validation == ("v",)
    assert config.data.shape == (32, 32, 48)
    assert config.augmentation.regimes == {"only": DeformationConfig(elastic=(1, 2))}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"colour": "red"}, "the configuration has no setting colour.*learning_rate"),
        ({"data": {"patient": ["a"]}}, "the configuration, data has no setting patient.*patients"),
        ({"augmentation": {"regimes": {"odd": {"strength": 1}}}}, "augmentation, odd has no setting strength"),
        ({"loss": {"alpha": 1.0}}, "loss has no setting alpha.*smoothness"),
    ],
)
def test_an_unknown_setting_is_refused_with_those_there_are(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(UsageError, match=names):
        config_of(**changes)


@pytest.mark.parametrize("missing", ["name", "network"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(UsageError, match=f"incomplete.*{missing}"):
        TrainingConfig.from_dict({k: v for k, v in MINIMAL.items() if k != missing})


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": "many"},
        {"steps": 2.5},
        {"steps": True},
        {"clip": "1"},
        {"clip": True},
        {"name": 3},
        {"network": "unet"},
        {"generator": "unet"},
        {"data": 3},
        {"data": {"patients": "one"}},
        {"data": {"patients": [1]}},
        {"data": {"shape": [32, 32]}},
        {"data": {"contrasts": {"t1": "often"}}},
        {"data": {"contrasts": ["t1", "t2"]}},
        {"data": {"realign": 1}},
        {"augmentation": {"regimes": {"one": 3}}},
        {"augmentation": {"regimes": 3}},
        {"schedule": "linear"},
        {"precision": "fp16"},
        {"loss": {"similarity": 3}},
    ],
)
def test_a_value_of_another_type_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"cannot be .*type is"):
        config_of(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scale": 0.3}, "scale is 0.25, 0.5 or 1"),
        ({"steps": 0}, "1 or more"),
        ({"checkpoint_every": 0}, "1 or more"),
        ({"generator": GENERATOR}, "both or neither"),
        ({"loss": {}}, "needs a generator"),
        ({"loss": {"similarity": "lg+mi_g"}}, "needs a generator"),
        ({"loss": {"similarity": "ssd"}}, "has no ssd"),
        ({"network": GENERATOR}, "the kind of T is one of"),
        ({"network": PYRAMID, "data": {"shape": [32, 32, 40]}}, "multiples of 16"),
        ({"data": {"shape": [32, 32, 30]}}, "multiples of 4"),
        ({"data": {"spacing": 0}}, "no working grid"),
        ({"data": {"contrasts": {"t1": 1, "t2": 0}}}, "weight above 0"),
        ({"data": {"variants": 1}}, "two images"),
        ({"augmentation": {"weights": [1.0]}}, "3 regimes and 1 weights"),
        ({"generator_from": "t1-t2"}, "weights for G and no generator"),
        ({"pairs": -1}, "0 or more"),
        ({"pairs": 5, "workers": 1}, "made by no workers"),
        ({"pairs": 5, "keep_pairs": True, "workers": 0}, "not kept"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        config_of(**changes)


def test_defaults_are_those_of_the_paper_with_an_adversary() -> None:
    config = TrainingConfig("x", UNET, GENERATOR, DISCRIMINATOR)
    assert (config.loss.similarity, config.loss.l1, config.loss.generator_gradient) == ("lcc_g+lg", 100.0, 5.0)
    assert AugmentationConfig() == config.augmentation


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(InputError, match="not a TOML file"):
        load_config(tmp_path / "bad.toml")
    (tmp_path / "latin.toml").write_bytes('name = "l\xe4uft"'.encode("latin-1"))
    with pytest.raises(InputError, match="not a TOML file"):
        load_config(str(tmp_path / "latin.toml"))
