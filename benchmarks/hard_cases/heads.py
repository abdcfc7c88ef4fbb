"""Whole heads with a known deformation, and what scanners and people do to them: cases for `run.py`.

    python benchmarks/hard_cases/heads.py OUT --data DATA [--maps training_seg_15 …] [--pairs t1-t2 …]

Heads are made from SynthSeg's label maps, 1.5 mm, the moving one deformed smoothly and turned and shifted a little. A
folder of OUT for each map, pair of contrasts (fixed, moving) and variant, as `deformgan evaluate` makes its cases:

- ``plain``: noise in the air, a scalp as bright as its contrast has it;
- ``dark``: fat suppressed, the scalp hardly brighter than the air;
- ``bright``: the scalp three times as bright, as beside a receive coil;
- ``noise-around``: air of the fixed image as bright as tissue, as MP2RAGE's ratio of two images has it;
- ``stripped``: the moving brain stripped, the fixed image a head;
- ``widely``: the fixed brain stripped 8 mm too far out, the moving image a head;
- ``ct``: the fixed image's values as CT has them: a brain within 40 of 2000, in bone, air at -1000;
- ``again``: each image with a bias field and noise of its own, for pairs of one contrast (t1-t1), as of a second visit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from deformgan.spatial.grid import Grid
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets.heads import load_label_maps
from deformgan.workshop.simulation.cases import SimulatedCase, write_case
from deformgan.workshop.simulation.deformation import Deformation, DeformationConfig, sample_deformation
from deformgan.workshop.simulation.head_scans import LabelMap, ScanConfig, draw_scan

SCAN = ScanConfig((128, 160, 144), 1.5, rotation=0.0, log_scale=0.0, shear=0.0, shift=0.0, elastic=(0.0, 0.0),
                  stripped=0.0, slices=1.5, cropped=0.0)  # fmt: skip
DEFORMATION = DeformationConfig(14.0, (1.5, 3.0), (9.0, 12.0), 5.0, (8.0, 8.0, 8.0), 0.02, 0.01)
DARK, BRIGHT, WIDELY_MM = 0.05, 3.0, 8.0
BRAIN_HU, SKULL_HU, AIR_HU, NOISE_HU, SKULL_MM = 40, 900, -1000, 8, (3.0, 9.0)
AGAIN_NOISE, BIAS, BIAS_MM = 0.03, 0.1, 40.0

Array = np.ndarray
Heads = tuple[Array, Array, Array]  # fixed, moving (still undeformed), and the brain


def plain(heads: Heads, rng: np.random.Generator) -> Heads:
    """As they are."""
    return heads


def dark(heads: Heads, rng: np.random.Generator) -> Heads:
    """All but the brain is darker, noise of the air apart."""
    return _scalp(heads, DARK)


def bright(heads: Heads, rng: np.random.Generator) -> Heads:
    """All but the brain is brighter."""
    return _scalp(heads, BRIGHT)


def noise_around(heads: Heads, rng: np.random.Generator) -> Heads:
    """Noise from 0 to 1 where the fixed image shows air."""
    fixed, moving, brain = heads
    shown = fixed / np.quantile(fixed[brain], 0.99) * 0.8
    return np.where(_shows(fixed, brain), shown, rng.uniform(0, 1, fixed.shape)), moving, brain


def stripped(heads: Heads, rng: np.random.Generator) -> Heads:
    """The moving brain alone."""
    fixed, moving, brain = heads
    return fixed, moving * brain, brain


def widely(heads: Heads, rng: np.random.Generator) -> Heads:
    """The fixed brain and what is around it."""
    fixed, moving, brain = heads
    return fixed * (ndimage.distance_transform_edt(~brain) * SCAN.spacing <= WIDELY_MM), moving, brain


def ct(heads: Heads, rng: np.random.Generator) -> Heads:
    """Hounsfield units: soft tissue as the fixed image has it, but hardly apart, bone around the brain, air."""
    fixed, moving, brain = heads
    tissue = BRAIN_HU * np.clip(fixed / np.quantile(fixed[brain], 0.99), 0, 1.2) + rng.normal(0, NOISE_HU, fixed.shape)
    away = ndimage.distance_transform_edt(~brain) * SCAN.spacing
    shown = np.where((away > SKULL_MM[0]) & (away <= SKULL_MM[1]), SKULL_HU, tissue)
    return np.where(_shows(fixed, brain), shown, AIR_HU), moving, brain


def again(heads: Heads, rng: np.random.Generator) -> Heads:
    """Both images as another visit's: a smooth factor and Rician noise of their own."""
    fixed, moving, brain = heads
    noise, shape = AGAIN_NOISE * float(np.quantile(fixed[brain], 0.99)), fixed.shape
    visits = []
    for image in (fixed, moving):
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), BIAS_MM / SCAN.spacing, mode="wrap")
        shown = image * np.exp(BIAS * (smooth - smooth.mean()) / smooth.std())
        visits.append(np.hypot(shown + rng.normal(0, noise, shape), rng.normal(0, noise, shape)))
    return visits[0], visits[1], brain


VARIANTS: dict[str, Callable[[Heads, np.random.Generator], Heads]] = {
    "plain": plain,
    "dark": dark,
    "bright": bright,
    "noise-around": noise_around,
    "stripped": stripped,
    "widely": widely,
    "ct": ct,
    "again": again,
}


def main() -> int:
    """Make the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--maps", nargs="+", default=["training_seg_15", "training_seg_16"])
    parser.add_argument("--pairs", nargs="+", default=["t1-t2", "flair-t1"], help="contrasts, fixed-moving")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    given = parser.parse_args()
    files = [f"{name}.nii.gz" for name in given.maps]
    maps = load_label_maps(given.data / "synthseg_label_maps", files, given.out / "cache")
    for name, labels in zip(given.maps, maps, strict=True):
        for pair in given.pairs:
            heads = drawn(labels, pair)
            deformation = sample_deformation(
                SCAN.shape, DEFORMATION, torch.Generator().manual_seed(3), _tensor(heads[2])
            )
            for variant in given.variants:
                folder = given.out / f"{name}_{pair}_{variant}"
                folder.mkdir(parents=True, exist_ok=True)
                write_case(case(heads, deformation, variant, {"subject": name, "contrast": pair}), folder)
                sys.stdout.write(f"{folder}\n")
    return 0


def drawn(labels: LabelMap, pair: str) -> Heads:
    """The same head in both contrasts."""
    # one seed gives both contrasts the same geometry
    scans = [draw_scan(labels, torch.Generator().manual_seed(1), SCAN, contrast, False) for contrast in pair.split("-")]
    return scans[0].image[0, 0].numpy(), scans[1].image[0, 0].numpy(), scans[0].mask[0, 0].numpy() > 0


def case(heads: Heads, deformation: Deformation, variant: str, of: dict[str, str]) -> SimulatedCase:
    """One variant of a pair of heads.

    Args:
        of: What its record says of the pair.
    """
    fixed, moving, _ = map(_tensor, VARIANTS[variant](heads, np.random.default_rng(2)))
    mask = _tensor(heads[2])
    meta = {"kind": "head", **of, "variant": variant, "spacing_mm": SCAN.spacing}
    return SimulatedCase(
        fixed=fixed,
        moving=warp(moving, deformation.inverse, mode="cubic").clamp_(0),
        moving_true=moving,
        fixed_labels=mask.short(),
        moving_labels=warp(mask, deformation.inverse, mode="nearest").short(),
        mask=mask > 0,
        deformation=deformation,
        grid=Grid.centred(SCAN.shape, SCAN.spacing, np.zeros(3)),
        meta=meta,
    )


def _scalp(heads: Heads, times: float) -> Heads:
    """Both images with what is outside the brain so many times as bright, noise apart where that is less than 1."""
    fixed, moving, brain = heads
    one, other = (
        np.where(brain | (image < 2 * (air := _air(image, brain))), image, air + times * (image - air))
        for image in (fixed, moving)
    )
    return one, other, brain


def _shows(image: Array, brain: Array) -> Array:
    """Where an image shows a head."""
    shown = ndimage.gaussian_filter(image, 1) > 2 * _air(image, brain)
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_opening(shown | brain)))


def _air(image: Array, brain: Array) -> float:
    """Brightness of the air, which is more than a quarter of what is not brain."""
    return float(np.quantile(image[~brain], 0.25))


def _tensor(volume: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume, np.float32))[None, None]


if __name__ == "__main__":
    raise SystemExit(main())
