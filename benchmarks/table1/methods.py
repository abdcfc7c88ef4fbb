"""The trained methods of the comparison: the rows of the table, and the variants of the studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deformgan.workshop.training.config import TrainingConfig, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "table1"

ROWS = ("deform-gan-2", "deform-gan-1", "voxelmorph-lg", "voxelmorph-lcc", "voxelmorph-mi", "voxelmorph-ngf")


def _loss(**changes: object) -> Callable[[TrainingConfig], TrainingConfig]:
    return lambda config: replace(config, loss=replace(config.loss, **changes))  # type: ignore[arg-type]


def _without_generator(config: TrainingConfig) -> TrainingConfig:
    loss = replace(config.loss, similarity="lcc+lg")
    return replace(config, generator=None, discriminator=None, loss=loss)


def _displacement(config: TrainingConfig) -> TrainingConfig:
    return replace(config, network={**config.network, "velocity": False})


# the variants end where the rows' last stage, at full resolution, begins: what is compared is `stages/0.5` of the rows
STUDY_STAGES = 2

# name → the row it differs from, and in what
STUDIES: dict[str, tuple[str, Callable[[TrainingConfig], TrainingConfig]]] = {
    **{f"lg-window-{n}": ("voxelmorph-lg", _loss(window=n)) for n in (1, 3, 5, 9)},
    "without-generator": ("deform-gan-2", _without_generator),
    "lg-displacement": ("voxelmorph-lg", _displacement),
}


def configuration(name: str) -> TrainingConfig:
    """What a row or a variant is trained with.

    Raises:
        KeyError: There is none of that name.
    """
    if name in ROWS:
        return load_config(CONFIGS / f"{name}.toml")
    row, change = STUDIES[name]
    config = change(load_config(CONFIGS / f"{row}.toml"))
    return replace(config, name=name, stages=config.stages[:STUDY_STAGES])
