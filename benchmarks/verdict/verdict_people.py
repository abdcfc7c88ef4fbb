"""Registrations of one person onto another, right ones and wrong ones, as users get them.

No true map is known between people. How far one is off is told by structures that both have, the distance between the
centre of each and of the one that was moved onto it: those of the label maps, or what S sees in the images of a patient
and of the template.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import nibabel as nib
import numpy as np
from scipy.ndimage import center_of_mass
from verdict_cases import Sample
from verdict_hard import Kept, registered

import deformgan
from deformgan.io.image import Image, load_image
from deformgan.io.templates import located
from deformgan.models.anatomy import load_anatomy_model
from deformgan.preprocess.brain_extraction import brain_mask, find_anatomy
from deformgan.workshop.simulation.cases import TUMOUR_LABELS

sys.path.insert(0, str(Path(__file__).parents[1] / "hard_cases"))
from kinds import rotation, texture_within

# centres that are right lie 2 to 5 mm apart, and single ones of structures that differ 20 mm; wrong ones 18 mm and more
LIMITS_MM = 8.0, 30.0
LEAST_VOXELS = 100  # of a structure, below which its centre says little
OUTSIDE = 2  # of S's structures: the background and what is outside the brain
FEW_STEPS = 20

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class People:
    """Two images of two people, with their structures.

    Attributes:
        fixed, moving: Images in memory.
        fixed_labels, moving_labels: Label maps on the same voxels; None for the latter where nothing can be right.
    """

    fixed: nib.Nifti1Image
    moving: nib.Nifti1Image
    fixed_labels: nib.Nifti1Image
    moving_labels: nib.Nifti1Image | None


def as_it_is(pair: People, rng: np.random.Generator) -> People:
    """Nothing was spoilt."""
    return pair


def shifted(pair: People, rng: np.random.Generator) -> People:
    """A header that shifts the moving image by 5 to 40 mm."""
    direction = rng.normal(size=3)
    motion = np.eye(4)
    motion[:3, 3] = direction / np.linalg.norm(direction) * rng.uniform(5, 40)
    return _by_header(pair, motion)


def turned(pair: People, rng: np.random.Generator) -> People:
    """A header that turns the moving image by 20 to 180 degrees about any axis through its middle."""
    motion = np.eye(4)
    motion[:3, :3] = rotation(rng.normal(size=3), rng.uniform(20, 180))
    middle = pair.moving.affine @ np.array([*(np.array(pair.moving.shape) / 2), 1.0])
    motion[:3, 3] = middle[:3] - motion[:3, :3] @ middle[:3]
    return _by_header(pair, motion)


def unrelated(pair: People, rng: np.random.Generator) -> People:
    """The moving brain's outline filled with something else."""
    data = np.asarray(pair.moving.dataobj, np.float32)
    return replace(pair, moving=nib.Nifti1Image(texture_within(data, rng), pair.moving.affine), moving_labels=None)


# kind: how the pair is spoilt, and the settings that it is registered with
KINDS: dict[str, tuple[Callable[[People, np.random.Generator], People], dict[str, object]]] = {
    "as it is": (as_it_is, {}),
    "stopped early": (as_it_is, {"refine_steps": FEW_STEPS}),
    "shifted": (shifted, {"transform": "deform"}),
    "turned": (turned, {"transform": "deform"}),
    "unrelated": (unrelated, {}),
}


def case_pairs(folders: list[Path]) -> Iterator[tuple[str, str, People]]:
    """Name, subject and pair: each label map's first case onto the next one's, T1 onto T2 and T1 onto T1."""
    firsts: dict[str, Path] = {}
    for folder in folders:
        told = json.loads((folder / "meta.json").read_text())
        if told["kind"] == "label-map":
            firsts.setdefault(str(told["subject"]), folder)
    subjects = list(firsts)
    for subject, onto in zip(subjects, subjects[1:] + subjects[:1], strict=True):
        if subject != onto:
            moving = _loaded(firsts[subject], "moving")
            for role in ("fixed", "moving"):
                yield f"{subject} onto {onto} {role}", onto, People(*_mixed(_loaded(firsts[onto], role), moving))


def folder_pairs(people: Sequence[Path]) -> Iterator[tuple[str, str, People]]:
    """The same of folders with ``t1.nii.gz`` and ``labels.nii.gz``: the first onto the second, the third onto …"""
    for moving, fixed in zip(people[::2], people[1::2], strict=True):
        images = [[nib.load(one / f"{name}.nii.gz") for name in ("t1", "labels")] for one in (fixed, moving)]
        yield f"{moving.name} onto {fixed.name}", fixed.name, People(*_mixed(*images))


def patient_pairs(patients: Sequence[Path]) -> Iterator[tuple[str, str, People]]:
    """The same of folders with ``t1.nii.gz`` and ``t2.nii.gz``: each T1 onto the next one's T1 or T2 in turn, and onto
    the brain of the MNI; structures are those that S sees in the T1.
    """
    for number, moving in enumerate(patients):
        fixed, onto = patients[(number + 1) % len(patients)], ("t1", "t2")[number % 2]
        moved, [first, structures] = labelled(moving / "t1.nii.gz"), labelled(fixed / "t1.nii.gz")
        if fixed != moving:
            image = first if onto == "t1" else nib.load(fixed / f"{onto}.nii.gz")
            yield f"{moving.name} onto {fixed.name} {onto}", fixed.name, People(*_mixed([image, structures], moved))
        yield f"{moving.name} onto MNI152", moving.name, People(*_mixed(labelled(located("MNI152")), moved))


@lru_cache(maxsize=4)
def labelled(path: Path) -> list[nib.Nifti1Image]:
    """An image, and on its voxels the structure that S takes for the likeliest in each block of brain; 0 elsewhere."""
    image = load_image(path)
    seen = find_anatomy(image, load_anatomy_model("anatomy"))
    blocks = seen.structures[0].argmax(0).numpy()
    blocks[blocks < OUTSIDE] = 0
    coarse = Image(blocks.astype(np.int32), seen.grid.resized(blocks.shape))
    labels = (
        deformgan.apply(coarse, deformgan.Transform(np.eye(4)), image, interpolation="nearest").data
        * brain_mask(seen, image).data
    )
    return [nib.Nifti1Image(np.asarray(d), image.grid.affine) for d in (image.data, labels.astype(np.int32))]


def people_samples(name: str, subject: str, pair: People) -> Iterator[Sample]:
    """Every kind of one pair, registered as two people's; those that end in an error are left out."""
    for kind, (spoilt, options) in KINDS.items():
        given = spoilt(pair, np.random.default_rng(crc32(f"{name} {kind}".encode())))
        with tempfile.TemporaryDirectory() as place:
            paths = [Path(place) / f"{role}.nii.gz" for role in ("fixed", "moving", "labels")]
            nib.save(given.fixed, paths[0])
            nib.save(given.moving, paths[1])
            more = dict(options)
            if given.moving_labels is not None:
                nib.save(given.moving_labels, paths[2])
                more["moving_labels"] = paths[2]
            kept = registered(paths[0], paths[1], subject="other", **more)
        if kept is not None:
            yield _sample(name, subject, kind, given, kept)


def _sample(name: str, subject: str, kind: str, pair: People, kept: Kept) -> Sample:
    error = None
    if kept.done.moved_labels is not None:
        fixed = np.asarray(pair.fixed_labels.dataobj).astype(int)
        error = centre_distances(kept.done.moved_labels.data, fixed, pair.fixed_labels.affine)
    return kept.sample(name, subject, f"people: {kind}", error, limits_mm=LIMITS_MM)


def centre_distances(moved: Array, fixed: Array, affine: Array) -> tuple[float, float]:
    """Mean and 95th percentile in mm of how far a structure's centre is from where it belongs.

    A structure that is gone from ``moved`` is as far off as the farthest of the others.
    """
    values, counts = np.unique(fixed, return_counts=True)
    wanted = values[(values > 0) & (counts >= LEAST_VOXELS)]
    there = wanted[np.isin(wanted, moved)]
    if not len(there):
        return float("inf"), float("inf")
    centres = [np.array(center_of_mass(np.ones(data.shape), data, there)) @ affine[:3, :3].T for data in (moved, fixed)]
    off = np.linalg.norm(centres[0] - centres[1], axis=1)
    off = np.concatenate([off, np.full(len(wanted) - len(there), off.max())])
    return float(off.mean()), float(np.quantile(off, 0.95))


def _by_header(pair: People, motion: Array) -> People:
    images = [
        None if one is None else nib.Nifti1Image(np.asarray(one.dataobj), motion @ one.affine)
        for one in (pair.moving, pair.moving_labels)
    ]
    assert images[0] is not None
    return replace(pair, moving=images[0], moving_labels=images[1])


def _loaded(folder: Path, role: str) -> list[nib.Nifti1Image]:
    """An image of a case and its structures, without the tumour that no other person has."""
    image, seg = (nib.load(folder / f"{role}{more}.nii.gz") for more in ("", "_seg"))
    labels = np.rint(np.asarray(seg.dataobj)).astype(np.int32)
    return [image, nib.Nifti1Image(np.where(np.isin(labels, TUMOUR_LABELS), 0, labels), seg.affine)]


def _mixed(fixed: list[nib.Nifti1Image], moving: list[nib.Nifti1Image]) -> list[nib.Nifti1Image]:
    """As `People` has them."""
    return [fixed[0], moving[0], fixed[1], moving[1]]
