"""Kernels in C for what is done most often, and how many threads to use; everything has a counterpart in PyTorch.

The library is one file of plain C functions, called through `ctypes`, which leaves the interpreter free meanwhile. It
is built when the package is installed, if there is a C compiler; without it, or with ``DEFORMGAN_NATIVE=0``, the same
is computed with PyTorch. See docs/explanation/native.md.
"""

from deformgan.spatial.native.library import is_available

__all__ = ["is_available"]
