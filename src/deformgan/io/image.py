"""An image is voxel data and the grid it lies on; reading it checks everything a registration relies on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from deformgan.errors import InputError
from deformgan.io.atomic import storable, write_nifti
from deformgan.io.itk_images import from_ants, from_simpleitk, is_itk_format, read_itk, read_itk_geometry
from deformgan.io.label_maps import is_whole
from deformgan.io.nibabel_formats import is_nibabel_format, nibabel_voxels, open_nibabel
from deformgan.io.nifti_header import header_affine
from deformgan.io.templates import located
from deformgan.io.untrusted import MAX_VOXELS, read_nifti, read_nifti_header
from deformgan.io.values import MOST, as_labels, finite, rounded, scaled
from deformgan.spatial.grid import Grid

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image
    from nibabel.spatialimages import SpatialImage

    ImageLike: TypeAlias = "str | os.PathLike[str] | SpatialImage | Image | tuple[np.ndarray, np.ndarray] | Any"

_VOXEL_MM = (1e-6, 1e3)  # from a nanometre to a metre
_MOST_MM = 1e6  # from the origin: a kilometre


@dataclass(frozen=True, eq=False)
class Image:
    """A 3-D image.

    Args:
        data: (D, H, W), real numbers in the file's own units and, unless the file scales them, in its own dtype
            (64-bit floats become 32-bit). Fortran order is quickest: it is how files are laid out. Kept in the
            machine's byte order; booleans become uint8 and 16-bit floats 32-bit, which files and tensors take.
        grid: Where the voxels lie in world millimetres (RAS+); a 4×4 affine is made one.
        name: What messages call it, usually its path.
        path: The file that holds just this, for the record of what was used; None, too, for an image in the hands of
            others, who may change its data.

    Raises:
        InputError: The affine is singular, or no 4×4.
    """

    data: np.ndarray
    grid: Grid
    name: str = "image"
    path: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.grid, Grid):
            object.__setattr__(self, "grid", Grid(np.shape(self.data), checked_affine(self.grid, self.name)))  # type: ignore[arg-type]
        if self.data.shape != self.grid.shape:
            raise ValueError(f"data of shape {self.data.shape} on a grid of shape {self.grid.shape}")
        object.__setattr__(self, "data", storable(self.data))

    def __repr__(self) -> str:
        return f"Image({self.name!r}, {self.data.dtype}, {_sizes(self.grid)})"

    def to_nibabel(self) -> Nifti1Image:
        """The same voxels and affine as an image of nibabel."""
        from nibabel.nifti1 import Nifti1Image

        return Nifti1Image(self.data, self.grid.affine, dtype=self.data.dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``.nii`` or ``.nii.gz`` in the data's own dtype."""
        write_nifti(os.fspath(path), self.data, self.grid.affine)


def load_image(source: ImageLike, name: str | None = None, *, volume: int | None = None) -> Image:
    """Read an image and check it.

    Orientation: the affine is the sform where its code is above 0, else the qform where its code is, else voxel sizes
    alone with world 0 at the middle of the volume and the first axis pointing left (as nibabel does), the last with a
    warning. Where sform and qform are both set and disagree by more than 0.1 mm anywhere in the volume, a warning says
    so: other tools may take the qform; so does one where the header counts in another unit than millimetres.

    Args:
        source: A path (NIfTI, ``.mgz``, ``.mgh``, a pair of ``.hdr`` and ``.img``; with SimpleITK ``.nrrd``, ``.mha``,
            ``.mhd`` or a folder of one DICOM series), a template's name (`io.templates`), an image of nibabel,
            SimpleITK or ANTs, an array with its 4×4 affine, or an `Image`.
        name: What messages call it; default: its path.
        volume: Which one to take of a 4-D file.

    Raises:
        InputError: missing, not an image, truncated, not 3-D (trailing axes of length 1 are dropped), coloured or
            complex, empty or constant, infinite somewhere or NaN inside its content (see `finite`), values beyond
            10¹⁸, or with a singular affine.
    """
    if isinstance(source, Image):
        image = source
    else:
        image = load_exact(source, name, volume=volume)
        image = Image(rounded(image.data), image.grid, image.name)
    low, high = image.data.min(), image.data.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{image.name} holds NaN or infinite values", "replace them, for example by 0")
    require_computable(image)
    if low == high:
        what = "is empty (all zero)" if low == 0 else f"is constant (all {low:g})"
        raise InputError(f"{image.name} {what}", "give an image that shows anatomy")
    return image


def require_computable(image: Image) -> None:
    """Raise `InputError` where values are so large that computing with them overflows."""
    most = max(abs(float(image.data.min())), abs(float(image.data.max())))
    if not most <= MOST:
        raise InputError(f"{image.name} holds values up to {most:.2g}", f"scale it below {MOST:g}, or mask them out")


def load_exact(source: ImageLike, name: str | None = None, *, volume: int | None = None) -> Image:
    """Read an image without rounding a value: 64-bit floats stay, scaled values become such. It may be constant.

    Raises:
        InputError: as `load_image`, but for empty, constant and very large ones.
    """
    image = _read(source, name, volume)
    return Image(finite(image.data, image.name), image.grid, image.name)


def load_labels(source: ImageLike, name: str | None = None) -> Image:
    """Read a label map, exactly: integers in their own type, whole-numbered floats as `as_labels`; empty is allowed.

    Raises:
        InputError: as `load_exact`, values that are not whole numbers, or ids too large to be exact in their file.
    """
    image = load_exact(source, name)
    return Image(as_labels(image.data, image.name), image.grid, image.name)


def load_mask(source: ImageLike, name: str | None = None) -> Image:
    """Read a mask of any type as uint8: 1 where it is not 0, or at least 0.5 where it holds fractions.

    Raises:
        InputError: as `load_exact`.
    """
    image = load_exact(source, name)
    inside = image.data != 0 if is_whole(image.data) else image.data >= 0.5
    return Image(inside.astype(np.uint8), image.grid, image.name)


def load_grid(path: str | Path) -> Grid:
    """Where the voxels of an image lie, from its header alone; the image may hold several volumes, or nothing.

    Raises:
        InputError: missing, not an image, or with a singular affine.
    """
    name, path = str(path), located(path)
    if is_nibabel_format(Path(path)):
        image = open_nibabel(Path(path))
        header, shape, affine = None, image.shape, image.affine
    elif is_itk_format(Path(path)):
        header, (shape, affine) = None, read_itk_geometry(Path(path))
    else:
        header = read_nifti_header(path, whole=True)  # what it claims is what is going to be computed on
        shape, affine = header.get_data_shape(), None
    if len(shape) < 3 or min(shape) < 1 or prod(shape[:3]) > MAX_VOXELS:
        raise InputError(f"{name} is not 3-D: its shape is {tuple(shape)}", "give a volume of several slices")
    space = (int(shape[0]), int(shape[1]), int(shape[2]))
    if affine is None:
        affine = header_affine(header, space, name)
    return Grid(space, checked_affine(affine, name))


def _read(source: ImageLike, name: str | None, volume: int | None = None) -> Image:
    if isinstance(source, Image):
        return source
    if isinstance(source, str | os.PathLike):
        name = name or os.fspath(source)
        data, header, affine = _read_path(Path(located(source)), name, volume)
    elif hasattr(source, "dataobj") and hasattr(source, "header"):
        name = name or "image"
        data, header, affine = _raw_nibabel(source)
    else:
        name = name or "image"
        (data, affine), header = _from_memory(source, name), None
    if volume is not None:
        data = _one_volume(data, volume, name)
    data = _real_3d(data, name)
    data = scaled(data, header, exact=True)
    if affine is None:
        affine = header_affine(header, data.shape, name)
    return Image(data, Grid(data.shape, checked_affine(affine, name)), name)


def _from_memory(source: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of SimpleITK's and ANTs' images, and of an array with its affine."""
    if hasattr(source, "GetDirection") and hasattr(source, "GetSpacing"):
        return from_simpleitk(source, name)
    if hasattr(source, "direction") and hasattr(source, "numpy"):
        return from_ants(source)
    if isinstance(source, tuple) and len(source) == 2 and np.shape(source[1]) == (4, 4):
        return np.asarray(source[0]), np.asarray(source[1], np.float64)
    hint = "give a path, an image of nibabel, SimpleITK or ANTs, or deformgan.Image(array, affine)"
    what = ": an array says nothing of where its voxels lie" if isinstance(source, np.ndarray) else " is not an image"
    raise InputError(f"{type(source).__name__}{what}", hint)


def _read_path(path: Path, name: str, volume: int | None) -> tuple[np.ndarray, Any, np.ndarray | None]:
    """Array, header and, where the format is not NIfTI, its affine."""
    if is_nibabel_format(path):
        image = open_nibabel(path)
        return nibabel_voxels(path, image), None, image.affine
    if is_itk_format(path):
        data, affine = read_itk(path)
        return data, None, affine

    def check(header: Any) -> None:
        if volume is None:
            _require_real_3d(header.get_data_shape(), header.get_data_dtype(), name)

    data, header = read_nifti(path, check)
    return data, header, None


def _raw_nibabel(image: Any) -> tuple[np.ndarray, Any, np.ndarray | None]:
    # nibabel has applied the scaling when the array is asked for, so no header goes on from here
    affine = image.affine
    header = image.header if affine is None else None
    # MGH, and NIfTI from some machines, are big-endian: torch refuses that, and code that views bytes misreads it
    return storable(np.asanyarray(image.dataobj)), header, affine


def _one_volume(data: np.ndarray, volume: int, name: str) -> np.ndarray:
    if data.ndim != 4 or not 0 <= volume < data.shape[3]:
        raise InputError(f"{name} has no volume {volume}: its shape is {data.shape}", "check which of them it holds")
    return np.array(data[..., volume], order="F")  # a copy: the others need not stay in memory


def _real_3d(data: np.ndarray, name: str) -> np.ndarray:
    return data[(..., *[0] * (data.ndim - _require_real_3d(data.shape, data.dtype, name)))]


def _require_real_3d(shape: tuple[int, ...], dtype: np.dtype, name: str) -> int:
    """The axes that are left without trailing ones of length 1: 3, else an `InputError` says what the image is."""
    if dtype.fields is not None or dtype.kind not in "iufb":
        kind = "colours" if dtype.fields is not None else "complex numbers"
        raise InputError(f"{name} holds {kind}, not one real number a voxel", "give a scalar image")
    shape = tuple(int(n) for n in shape)
    axes = len(shape)
    while axes > 3 and shape[axes - 1] == 1:
        axes -= 1
    if axes > 3:
        first = f"nib.load('{name}').slicer[..., {', '.join('0' * (axes - 3))}].to_filename('volume.nii.gz')"
        raise InputError(
            f"{name} is {axes}-D {shape}, not 3-D", f'take one volume out: python -c "import nibabel as nib; {first}"'
        )
    if axes < 3 or min(shape[:3]) < 2:
        raise InputError(f"{name} is not 3-D: its shape is {shape}", "give a volume of several slices")
    return axes


def _sizes(grid: Grid) -> str:
    return f"{'×'.join(map(str, grid.shape))} voxels of {'×'.join(f'{size:.3g}' for size in grid.spacing)} mm"


def checked_affine(affine: np.ndarray, name: str) -> np.ndarray:
    """The affine as float64, or an `InputError` naming ``name`` where it is not finite, singular or absurd."""
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4):
        raise InputError(f"{name}: its affine is of shape {affine.shape}", "give 4×4, voxel index to world mm (RAS+)")
    if not np.isfinite(affine).all():
        raise InputError(f"{name}: its affine is not finite", "repair the header's sform and qform")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths.max() <= _VOXEL_MM[1] and np.abs(affine[:3, 3]).max() <= _MOST_MM):
        large = (
            f"{name}: its voxels are {lengths.max():.2g} mm wide and start {np.abs(affine[:3, 3]).max():.2g} mm away"
        )
        raise InputError(large, "repair the header's sform and qform; they count in millimetres")
    # relative to the voxel size, so that micrometre voxels pass
    if lengths.min() < _VOXEL_MM[0] or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise InputError(
            f"{name}: its affine is singular, voxels have no volume", "repair the header's sform and qform"
        )
    return affine
