"""Derive the shipped label map from the ICBM 152 templates that the `nilearn` package carries.

    python tools/make_anatomy.py src/deformgan/workshop/simulation/anatomy_data/labels.nii.gz

Tissue classes come from the templates' T1 intensity and grey and white matter probabilities; the brain stem and the
cerebellum are parted from the cerebrum by a watershed along the dark tentorium; ventricles and deep grey nuclei are
what lies at their place and looks like them. The result has FreeSurfer's ids, is one average brain (smoother and more
symmetric than anybody's) and is meant for simulation, not for measuring anybody's anatomy. Needs `nilearn`, which the
package itself does not.
"""

from __future__ import annotations

import gzip
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from deformgan.io.templates import located

TEMPLATE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
# the template encloses about 1.9 litres, a usual intracranial volume is below 1.5
SCALE = 0.92
SPACING_MM = 1.0
LOWEST_MM = -66.0  # the medulla is cut here, where most scans of a skull-stripped brain end

WHITE, CORTEX, VENTRICLE, CSF, THIRD, FOURTH, STEM = 2, 3, 4, 24, 14, 15, 16
CEREBELLAR_WHITE, CEREBELLAR_CORTEX = 7, 8
RIGHT = {2: 41, 3: 42, 4: 43, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}


@dataclass(frozen=True)
class Nucleus:
    """A deep grey structure of the left side as the tissue inside ellipsoids: centre and radii in template mm.

    ``bright`` is the largest white matter share its voxels may have.
    """

    label: int
    ellipsoids: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]
    bright: float


NUCLEI = (
    Nucleus(10, (((11, -18, 7), (10, 15, 9.5)), ((15, -28, 6), (8, 7, 8))), 0.85),
    Nucleus(13, (((19, -4, -1), (5.5, 9.5, 6.5)),), 0.97),
    Nucleus(12, (((26, 3, 1), (7, 17, 10)), ((29, -8, 3), (5, 9, 8))), 0.55),
    Nucleus(11, (((13, 14, 6), (7, 11, 12)), ((16, 0, 18), (6, 14, 8)), ((19, -14, 22), (5, 10, 7))), 0.5),
    Nucleus(26, (((10, 12, -8), (6, 6, 4.5)),), 0.6),
    Nucleus(28, (((9, -14, -8), (9, 9, 6)),), 1.1),
    Nucleus(18, (((22, -4, -19), (8, 7, 7)),), 0.55),
    Nucleus(
        17,
        (
            ((24, -14, -19), (8, 7, 6)),
            ((27, -22, -15), (7, 8, 6)),
            ((28, -31, -9), (7, 8, 6)),
            ((24, -37, -2), (6, 5, 6)),
        ),
        0.55,
    ),
)


@dataclass(frozen=True)
class Templates:
    """The three volumes on one grid (fractions and T1 in [0, 1]) with the world position of every voxel in mm."""

    t1: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    affine: np.ndarray

    @property
    def mm(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates x (right), y (front), z (up), each broadcastable to the volumes' shape."""
        axes = np.ogrid[tuple(slice(0, n) for n in self.t1.shape)]
        x, y, z = (a * self.affine[i, i] + self.affine[i, 3] for i, a in enumerate(axes))
        return x, y, z


def read_templates() -> Templates:
    """The templates of the installed `nilearn`, without importing it."""
    folder = located("MNI152").parent
    images = [nib.load(folder / TEMPLATE.format(kind)) for kind in ("t1", "gm", "wm")]
    t1, grey, white = (np.asarray(image.dataobj, np.float32) / 255 for image in images)
    return Templates(t1, grey, white, images[0].affine)


def brain_mask(t: Templates) -> np.ndarray:
    """Filled content of the skull-stripped template, cut at the lower end of the medulla."""
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(t.t1 > 0, iterations=2))
    return mask & (t.mm[2] >= LOWEST_MM)


def tissue_classes(t: Templates, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fluid and white matter inside the mask; the rest of it is grey.

    Averaging has blurred the sulci: a voxel is fluid where little tissue is left or where the T1 image is clearly
    darker than its surroundings.
    """
    rest = 1 - t.grey - t.white
    surround = ndimage.gaussian_filter(t.t1, 4) / np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), 4), 0.3)
    dip = surround - t.t1
    rim = ndimage.distance_transform_edt(mask) < 1.8
    fluid = mask & ((rest > 0.42) | (t.t1 < 0.42) | (dip > 0.115) & (t.white < 0.2) | rim & (t.white < 0.5))
    white = mask & ~fluid & (t.white > t.grey)
    return fluid, white


def hindbrain(t: Templates, mask: np.ndarray, fluid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cerebellum and brain stem, grown from seeds over the bright tissue until they meet the cerebrum's growth."""
    x, y, z = t.mm
    seeds = np.zeros(mask.shape, np.int8)
    seeds[mask & (z > 12)] = 1
    seeds[mask & (np.abs(x) > 28) & (y > -28) & (z > -40)] = 1
    seeds[mask & (y > -2)] = 1
    seeds[mask & (y < -62) & (z > -2)] = 1
    seeds[mask & (np.abs(x) < 22) & (y > -30) & (y < -8) & (z > -4)] = 1
    lobes = ((np.abs(x) - 22) / 20) ** 2 + ((y + 64) / 20) ** 2 + ((z + 38) / 15) ** 2 < 1
    vermis = (np.abs(x) < 8) & (np.abs(y + 62) < 10) & (np.abs(z + 26) < 14)
    seeds[mask & (lobes | vermis)] = 2
    seeds[mask & (np.abs(x) < 9) & (y > -36) & (y < -20) & (z < -14)] = 3
    seeds[~mask] = -1
    dark = np.clip(255 * (1 - t.t1), 0, 255).astype(np.uint8)
    grown = ndimage.watershed_ift(dark, seeds.astype(np.int16), structure=np.ones((3, 3, 3)))
    return (grown == 2) & mask, (grown == 3) & mask & ~fluid


def ventricles(t: Templates, fluid: np.ndarray) -> dict[int, np.ndarray]:
    """Lateral (left and right in one), third and fourth ventricle: fluid at their place, connected."""
    x, y, z = t.mm
    third = fluid & (np.abs(x) < 4.5) & (y > -34) & (y < 10) & (z > -14) & (z < 11)
    fourth = fluid & (np.abs(x) < 12) & (y > -52) & (y < -33) & (z > -48) & (z < -18)
    body = fluid & (np.abs(x) < 36) & (y > -56) & (y < 38) & (z > 1) & (z < 32) & ~third
    body &= (np.abs(x) < 28) | (y < -20)
    body &= ~((z < 11) & (np.abs(x) < 14) & (y < -26))  # the quadrigeminal cistern lies below the splenium
    horn = fluid & (np.abs(np.abs(x) - 33) < 8) & (y > -42) & (y < -6) & (z > -22) & (z < 3)
    lateral = largest(body & (x <= 0)) | largest(body & (x > 0)) | largest(horn & (x < 0)) | largest(horn & (x > 0))
    return {VENTRICLE: lateral, THIRD: largest(third), FOURTH: largest(fourth)}


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected component."""
    components, count = ndimage.label(mask)
    return components == np.bincount(components.ravel())[1:].argmax() + 1 if count else mask


def nuclei(t: Templates, free: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Deep grey structures of both sides with their left-hand id, in the order they take voxels of ``free``."""
    x, y, z = t.mm
    found = []
    for nucleus in NUCLEI:
        inside = np.zeros(free.shape, bool)
        for (cx, cy, cz), (rx, ry, rz) in nucleus.ellipsoids:
            inside |= ((np.abs(x) - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1
        share = t.white / np.maximum(t.white + t.grey, 1e-3)
        here = ndimage.binary_opening(inside & free & (share < nucleus.bright))
        free = free & ~here
        found.append((nucleus.label, here))
    return found


def make_labels(t: Templates) -> np.ndarray:
    """The whole label map on the templates' grid, uint8."""
    mask = brain_mask(t)
    fluid, white = tissue_classes(t, mask)
    cerebellum, stem = hindbrain(t, mask, fluid)
    out = np.where(fluid, CSF, np.where(white, WHITE, CORTEX)).astype(np.uint8)
    out[cerebellum & ~fluid] = CEREBELLAR_CORTEX
    out[cerebellum & (t.t1 > 0.76) & (t.white > 0.25)] = CEREBELLAR_WHITE
    out[stem] = STEM
    free = mask & ~fluid & ~cerebellum & ~stem
    for label, where in nuclei(t, free):
        out[where] = label
    for label, where in ventricles(t, fluid).items():
        out[where] = label
    out[~mask] = 0
    right = np.broadcast_to(t.mm[0] > 0, out.shape)
    for left_id, right_id in RIGHT.items():
        out[right & (out == left_id)] = right_id
    return out


def resample(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scaled map on its own tight grid: each voxel gets the label with the largest smoothed share."""
    world = np.diag([SCALE, SCALE, SCALE, 1.0]) @ affine
    inside = np.argwhere(labels > 0)
    low, high = inside.min(0) - 2, inside.max(0) + 2
    size = np.ceil((high - low) * SCALE / SPACING_MM).astype(int) + 1
    step = SPACING_MM / SCALE
    best = np.zeros(size, np.float32)
    out = np.zeros(size, np.uint8)
    for label in np.unique(labels):
        share = ndimage.gaussian_filter((labels == label).astype(np.float32), 0.55)
        share = ndimage.affine_transform(share, np.diag([step] * 3), low, tuple(size), order=1)
        out[share > best] = label
        best = np.maximum(best, share)
    grid = np.diag([SPACING_MM] * 3 + [1.0])
    grid[:3, 3] = world[:3, :3] @ low + world[:3, 3]
    return out, grid


def main(path: str) -> None:
    """Write the map to ``path``."""
    templates = read_templates()
    labels, affine = resample(make_labels(templates), templates.affine)
    image = nib.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"derived from ICBM 152 nonlinear symmetric 2009a"
    # no time stamp, so that the same templates give the same file
    Path(path).write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
