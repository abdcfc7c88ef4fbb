"""Images in the formats of FreeSurfer and ANALYZE, through nibabel: what they claim is checked before they are read.

Fewer formats than nibabel knows: it reads what a MINC file claims before anybody can look at it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError
from deformgan.io.atomic import storable
from deformgan.io.untrusted import GZIP_MAX_RATIO, MAX_VOXELS, open_plain, require_memory

_ENDINGS = (".mgz", ".mgh", ".hdr", ".img")
_MOST_COMPANION = 1 << 16  # bytes of the .mat file that SPM puts beside an ANALYZE image
_SCALED_BYTES = 8  # what a voxel takes once nibabel has scaled it


def is_nibabel_format(path: Path) -> bool:
    """Whether a file is there and goes by its name to `open_nibabel`."""
    return path.name.endswith(_ENDINGS) and os.path.exists(path)


def open_nibabel(path: Path) -> Any:
    """A nibabel image whose voxels are still to be read, and which its file is large enough for.

    Raises:
        InputError: no such image, damaged, or its header claims more than the file or the memory can hold.
    """
    import nibabel as nib
    from nibabel.imageglobals import logger

    try:
        open_plain(path).close()
        if path.name.endswith((".hdr", ".img")):
            companion = path.with_suffix(".mat")
            if companion.exists() and companion.stat().st_size > _MOST_COMPANION:
                raise ValueError(f"{companion.name} beside it is too large")
        with _heard(logger) as complaints:
            image: Any = nib.load(path)
        voxels = Path(image.file_map["image"].filename)
        open_plain(voxels).close()
        count = prod(int(n) for n in image.shape)
        if min(image.shape, default=0) < 1 or count > MAX_VOXELS:
            raise ValueError(f"its header claims the impossible shape {tuple(image.shape)}")
        if count * image.get_data_dtype().itemsize > voxels.stat().st_size * GZIP_MAX_RATIO:
            raise ValueError(f"its header claims {tuple(image.shape)} voxels, more than the file can hold")
    except (InputError, MemoryError):
        raise
    except Exception as error:  # nibabel raises whatever a damaged file makes it stumble over
        raise _unreadable(path, error) from error
    require_memory(path, count * max(_SCALED_BYTES, image.get_data_dtype().itemsize))
    if complaints:
        warnings.warn(
            f"{path}: its header is odd and was corrected while reading: {'; '.join(complaints)}", stacklevel=5
        )
    return image


def nibabel_voxels(path: Path, image: Any) -> np.ndarray:
    """The scaled voxels of an image of `open_nibabel`, in the machine's byte order.

    Raises:
        InputError: truncated or damaged.
    """
    try:
        return storable(np.asanyarray(image.dataobj))
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


@contextmanager
def _heard(logger: logging.Logger) -> Iterator[list[str]]:
    """What a library logs meanwhile, in place of its own output."""
    said: list[str] = []

    def hear(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    logger.addFilter(hear)
    try:
        yield said
    finally:
        logger.removeFilter(hear)


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError) and error.filename:
        missing = Path(error.filename).name
        return InputError(f"{path} is one of two files, and {missing} is not beside it", "copy .hdr and .img together")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"{path} cannot be read as an image: {reason}", "convert it to .nii.gz")
