"""The patients that a configuration means: those it names, or those found in its folder, by part of the split."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from deformgan.errors import InputError
from deformgan.workshop.datasets.config import DataConfig
from deformgan.workshop.datasets.folders import plain_files
from deformgan.workshop.datasets.layouts import CONTRASTS, Found, find_patients
from deformgan.workshop.datasets.patients import Patient
from deformgan.workshop.datasets.split import person_of, split

logger = logging.getLogger(__name__)

EVERY = ("*",)
LACKING_HINT = "add the missing image, or change contrasts and direction in the [data] section"


def choose_patients(
    config: DataConfig, validation: tuple[str, ...] = ()
) -> tuple[tuple[str | Patient, ...], tuple[str | Patient, ...]]:
    """The patients to train on and those for the validation pass.

    Where the configuration names patients, or label maps alone, that is it. Else patients are looked for in its
    ``root``, each problem is logged as a warning, and the part it asks for is taken, without those for validation and
    their other visits.

    Args:
        config: What is asked for.
        validation: Names of patients for validation; if none, ``config.held_out`` people of the train part.

    Raises:
        InputError: ``root`` is laid out in no way that is known, or holds no case of that part that can be used.
        UsageError: More people are held out than there are.
    """
    if config.patients != EVERY and (config.patients or config.label_maps):
        return config.patients, validation
    found = find_patients(config.root, config.layout, _known(config))
    by_name = {patient.name: patient for patient in found.patients if not lacking(config, patient)}
    for problem in _problems(config, found):
        logger.warning("%s", problem)
    if not by_name:
        raise InputError(f"no case in {config.root} can be used", "see what is said of each")
    parts = split(by_name, config.split_seed, 0 if validation else config.held_out)
    names = {"train": parts.train, "test": parts.test, "all": tuple(by_name)}[config.part]
    apart = {person_of(name) for name in (*validation, *parts.validation)}
    chosen = tuple(by_name[name] for name in names if person_of(name) not in apart)
    if not chosen:
        raise InputError(
            f"nobody is left of part “{config.part}” of the {len(by_name)} patients in {config.root}",
            "add cases, or take another part",
        )
    logger.info("%s: %d of %d patients (layout %s)", config.root, len(chosen), len(by_name), found.layout)
    return chosen, tuple(by_name.get(name, name) for name in validation or parts.validation)


def _problems(config: DataConfig, found: Found) -> list[str]:
    """Those found, and one for each patient who has not what ``config`` asks for; one sentence a patient."""
    problems = [*found.problems]
    for patient in found.patients:
        if reason := lacking(config, patient):
            prefix = f"{patient.name} is used without "
            said = next((problem for problem in problems if problem.startswith(prefix)), "")
            if said:  # that an image is missing has turned out to matter
                problems.remove(said)
            _, _, why = said.removeprefix(prefix).partition(": ")
            problems.append(f"{patient.name} is left out: it {reason}{f'; {why}' if why else f' — {LACKING_HINT}'}")
    return problems


def lacking(config: DataConfig, patient: Patient) -> str:
    """What keeps a patient from being used: a contrast too few, or one that ``direction`` asks for; else nothing."""
    found = [contrast for contrast in config.contrasts if contrast in patient.images]
    if len(found) < 2:
        return f"holds {len(found)} of the contrasts {', '.join(config.contrasts)}"
    asked = [contrast for contrast in config.direction if contrast not in found]
    return f"has no {' and no '.join(asked)}, which direction asks for" if asked else ""


def named_patients(config: DataConfig, names: Iterable[str]) -> list[Patient]:
    """The patients whose folders, below ``root``, are named; else those of that name in the layout ``root`` has.

    A name that is neither gives a patient without images, whose cached ones may still be there.
    """
    root = Path(config.root)
    patients = [Patient(name, *plain_files(root / name, config.contrasts)) for name in names]
    if all(patient.images for patient in patients) or not root.exists():
        return patients
    try:
        found = {p.name: p for p in find_patients(root, config.layout, _known(config)).patients}
    except InputError as error:
        logger.debug("%s", error)  # what is said of the folder that was named is of more use
        return patients
    return [patient if patient.images else found.get(patient.name, patient) for patient in patients]


def _known(config: DataConfig) -> list[str]:
    return [*dict.fromkeys((*CONTRASTS, *config.contrasts))]
