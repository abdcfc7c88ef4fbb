"""Compiles the kernels with the system's C compiler: ``python -m deformgan.spatial.native.build``, with any Python.

For x86-64 every file of kernels is compiled for three levels of the instruction set, and the processor's own is
chosen at run time; elsewhere it is compiled once. Nothing of Python is linked: one library serves every version of it.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
NAME = "_kernels.dll" if sys.platform == "win32" else "_kernels.so"
_KERNELS = (
    *("similarity", "control", "sampling", "edges", "fluid", "correlation", "compose", "grids", "information"),
    *("convolution", "mixing", "block_matching", "separable"),
)
_ONCE = ("pool", "cpu")
_FLAGS = "-std=c11 -O3 -fvisibility=hidden -fno-math-errno -fno-trapping-math -fno-signed-zeros -ffp-contract=fast"
_LEVELS = {"_base": [], "_v3": ["-march=x86-64-v3"], "_v4": ["-march=x86-64-v4"]}


class BuildError(Exception):
    """There is no compiler, or it failed; the message is what it said."""


def compiler() -> list[str]:
    """The command of the C compiler: ``CC``, or the first that is found.

    Raises:
        BuildError: There is none.
    """
    if named := os.environ.get("CC"):
        return shlex.split(named)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C compiler was found: install gcc or clang, or name one in CC")


def build(into: Path = FOLDER, flags: tuple[str, ...] = ()) -> Path:
    """Compile and link the library.

    Args:
        into: The folder to put it in; what is there is replaced once the new one is whole.
        flags: More for the compiler, at every step.

    Raises:
        BuildError: There is no compiler, or it failed.
    """
    cc = [*compiler(), *_FLAGS.split(), *shlex.split(os.environ.get("CFLAGS", "")), *flags]
    if sys.platform != "win32":
        cc += ["-fPIC", "-pthread"]
    levels = _usable_levels(cc)
    with tempfile.TemporaryDirectory() as work:
        objects = []
        for name in _ONCE:
            objects.append(_compiled(cc, name, Path(work), "", [] if len(levels) > 1 else ["-DDG_BASE_ONLY"]))
        for suffix, march in levels.items():
            for name in _KERNELS:
                objects.append(_compiled(cc, name, Path(work), suffix, [f"-DDG_SUFFIX={suffix}", *march]))
        made = Path(work) / NAME
        _run([*cc, "-shared", *map(str, objects), "-o", str(made), "-lm"])
        partial = into / f"{NAME}.{os.getpid()}.partial"
        shutil.copyfile(made, partial)
        partial.chmod(0o755)
        partial.replace(into / NAME)
    return into / NAME


def _usable_levels(cc: list[str]) -> dict[str, list[str]]:
    """The variants to compile: more than the base for x86-64 alone, and where the compiler knows its levels."""
    base = {"_base": _LEVELS["_base"]}
    if platform.machine().lower() not in ("x86_64", "amd64") or "-march" in " ".join(cc):
        return base
    try:
        with tempfile.TemporaryDirectory() as work:
            _compiled(cc, "cpu", Path(work), "", _LEVELS["_v4"])
    except BuildError:
        return base
    return _LEVELS


def _compiled(cc: list[str], name: str, work: Path, suffix: str, flags: list[str]) -> Path:
    out = work / f"{name}{suffix}.o"
    _run([*cc, *flags, "-c", str(FOLDER / "c" / f"{name}.c"), "-o", str(out)])
    return out


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr.strip()}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        logging.getLogger(__name__).info("%s", build())
    except BuildError as error:
        sys.exit(f"the kernels were not built: {error}")
