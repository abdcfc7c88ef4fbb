"""Which voxels of an image count, and where it has no counterpart in the other one: masks and lesions."""

from deformgan.masks.inputs import Selection, read_selection
from deformgan.masks.lesions import Lesions, counting

__all__ = ["Lesions", "Selection", "counting", "read_selection"]
