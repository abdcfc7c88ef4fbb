"""The comparison is fair: its methods differ in what they are, and in nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deformgan.workshop.training.config import TrainingConfig, load_config

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "table1"
CONFIGS = sorted((BENCHMARK.parents[1] / "configs" / "table1").glob("*.toml"))
# a method's own: its name, its loss, whether it has G and D, and whether its field is a velocity
OWN = {"name", "loss", "generator", "discriminator", "network"}


@pytest.fixture(scope="module", autouse=True)
def _scripts() -> None:
    sys.path.insert(0, str(BENCHMARK))


def budget(config: TrainingConfig) -> dict[str, object]:
    network = {key: value for key, value in config.network.items() if key != "velocity"}
    return {key: value for key, value in config.to_dict().items() if key not in OWN} | {"network": network}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_row_has_the_same_budget(path: Path) -> None:
    assert budget(load_config(path)) == budget(load_config(CONFIGS[0]))


def test_every_configuration_is_a_row_and_named_so() -> None:
    from methods import ROWS  # type: ignore[import-not-found]

    assert {path.stem for path in CONFIGS} == set(ROWS)
    assert all(load_config(path).name == path.stem for path in CONFIGS)


def test_the_published_models_differ_in_mu_alone() -> None:
    one, two = (load_config(CONFIGS[0].parent / f"deform-gan-{k}.toml") for k in (1, 2))
    assert (one.loss.generator_gradient, two.loss.generator_gradient) == (0.0, 5.0)
    assert (two.loss.smoothness, two.loss.gradient, two.loss.l1, two.loss.window) == (1.0, 2.0, 100.0, 7)
    first, second = one.to_dict(), two.to_dict()
    for values in (first, second):
        del values["name"], values["loss"]["generator_gradient"]
    assert first == second


def test_variants_are_the_rows_without_their_last_stage() -> None:
    from methods import ROWS, STUDIES, configuration  # type: ignore[import-not-found]

    full = configuration(ROWS[0])
    for name in STUDIES:
        config = configuration(name)
        assert config.name == name
        assert config.stages == full.stages[:2]
        assert config.data == full.data
    assert {configuration(f"lg-window-{n}").loss.window for n in (1, 3, 5, 9)} == {1, 3, 5, 9}
    without = configuration("without-generator")
    assert (without.generator, without.loss.similarity) == (None, "lcc+lg")
    assert configuration("lg-displacement").network["velocity"] is False
