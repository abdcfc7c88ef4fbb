"""Labels moved by another tool: ``python tools.py NAME FIXED MOVING LABELS OUT THREADS``; none: by headers alone."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tool = Callable[..., None]  # fixed, moving, labels, out, threads, folder for what is in between


def by_headers(fixed: Path, moving: Path, labels: Path, out: Path, threads: int, folder: Path) -> None:
    """No registration."""
    from nibabel.loadsave import load, save
    from nibabel.processing import resample_from_to

    save(resample_from_to(load(labels), load(fixed), order=0), out)


def greedy(fixed: Path, moving: Path, labels: Path, out: Path, threads: int, folder: Path, metric: str = "NMI") -> None:
    """greedy: an affine map by normalised mutual information, then the deformation by that or another metric."""
    from picsl_greedy import Greedy3D

    tool, common = Greedy3D(), f"-i {fixed} {moving} -threads {threads} -V 0"
    affine, warp = folder / "affine.mat", folder / "warp.nii.gz"
    tool.execute(f"-a {common} -m NMI -ia-image-centers -n 100x50x20 -o {affine}")
    tool.execute(f"{common} -m {metric} -it {affine} -n 100x100x50 -s 2.5vox 0.7vox -o {warp}")
    tool.execute(f"-rf {fixed} -ri LABEL 0.2vox -rm {labels} {out} -r {warp} {affine}")


def greedy_wncc(*given: Any) -> None:
    """The same, the deformation by weighted local correlation in cubes of 5 voxels."""
    greedy(*given, metric="WNCC 2x2x2")


def ants(fixed: Path, moving: Path, labels: Path, out: Path, threads: int, folder: Path, **settings: Any) -> None:
    """ANTs: affine and SyN with mutual information, as the library sets it."""
    import ants as tool

    images = tool.image_read(str(fixed)), tool.image_read(str(moving))
    found = tool.registration(*images, "SyN", outprefix=f"{folder}/syn_", random_seed=1, **settings)
    carried = tool.apply_transforms(
        images[0], tool.image_read(str(labels)), found["fwdtransforms"], interpolator="genericLabel"
    )
    tool.image_write(carried, str(out))


def ants_full(*given: Any) -> None:
    """The same with a last level at full resolution, which the library leaves out."""
    ants(*given, reg_iterations=(100, 70, 50))


def niftyreg(fixed: Path, moving: Path, labels: Path, out: Path, threads: int, folder: Path) -> None:
    """NiftyReg: reg_aladin, then reg_f3d with normalised mutual information."""
    affine, spline = folder / "affine.txt", folder / "spline.nii"
    images = ["-ref", fixed, "-flo", moving]
    steps = [
        ["reg_aladin", *images, "-aff", affine, "-res", folder / "a.nii", "-omp", threads],
        ["reg_f3d", *images, "-aff", affine, "-cpp", spline, "-res", folder / "f.nii", "-omp", threads],
        ["reg_resample", "-ref", fixed, "-flo", labels, "-trans", spline, "-res", out, "-inter", 0],
    ]
    for name, *arguments in steps:
        subprocess.run([_niftyreg_program(name), *map(str, arguments)], check=True)


def _niftyreg_program(name: str) -> str:
    """In the search path, or in the folder of the package from PyPI."""
    spec = importlib.util.find_spec("niftyreg")
    beside = str(Path(spec.origin).parent / "bin") if spec and spec.origin else None
    return shutil.which(name) or shutil.which(name, path=beside) or name


TOOLS: dict[str, Tool] = {
    "none": by_headers,
    "greedy-nmi": greedy,
    "greedy-wncc": greedy_wncc,
    "ants-syn": ants,
    "ants-syn-full": ants_full,
    "niftyreg": niftyreg,
}


def main() -> int:
    """Run one tool on one pair."""
    name, *paths, threads = sys.argv[1:]
    fixed, moving, labels, out = map(Path, paths)
    with tempfile.TemporaryDirectory() as folder:
        TOOLS[name](fixed, moving, labels, out, int(threads), Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
