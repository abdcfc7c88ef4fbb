"""One registration by one tool: ``python tools.py NAME CASE OUT THREADS`` writes OUT/field.nii.gz, pull-back voxels.

Cases lie on RAS+ grids of cubic voxels, so a displacement in LPS mm becomes voxels by (-x, -y, z) / spacing.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

LPS = np.array([-1.0, -1.0, 1.0])


def in_voxels(lps_mm: np.ndarray, fixed: Path) -> np.ndarray:
    """(X, Y, Z, 3) displacements of ITK's kind as voxels of the fixed grid."""
    return np.squeeze(lps_mm) * LPS / np.diag(nib.load(fixed).affine)[:3]


def read(path: Path) -> np.ndarray:
    """The voxels of a NIfTI file."""
    return np.asarray(nib.load(path).dataobj)


def ants(fixed: Path, moving: Path, folder: Path, threads: int) -> np.ndarray:
    """ANTs: affine and SyN with mutual information, as the library sets it."""
    import ants as tool

    images = tool.image_read(str(fixed)), tool.image_read(str(moving))
    found = tool.registration(*images, "SyN", outprefix=f"{folder}/syn_", random_seed=1)
    whole = tool.apply_transforms(*images, found["fwdtransforms"], compose=f"{folder}/whole_")
    return in_voxels(read(Path(whole)), fixed)


def greedy(fixed: Path, moving: Path, folder: Path, threads: int) -> np.ndarray:
    """greedy: affine, then the deformation, both by normalised mutual information."""
    from picsl_greedy import Greedy3D

    tool, common = Greedy3D(), f"-i {fixed} {moving} -m NMI -threads {threads} -V 0"
    affine, warp, whole = (folder / name for name in ("affine.mat", "warp.nii.gz", "whole.nii.gz"))
    tool.execute(f"-a {common} -ia-image-centers -n 100x50x20 -o {affine}")
    tool.execute(f"{common} -it {affine} -n 100x100x50 -s 2.5vox 0.7vox -o {warp}")
    tool.execute(f"-rf {fixed} -rc {whole} -r {warp} {affine}")
    return in_voxels(read(whole), fixed)


def niftyreg(fixed: Path, moving: Path, folder: Path, threads: int) -> np.ndarray:
    """NiftyReg: reg_aladin, then reg_f3d with normalised mutual information."""
    affine, spline, positions = folder / "affine.txt", folder / "spline.nii", folder / "positions.nii"
    images = ["-ref", fixed, "-flo", moving]
    steps = [
        ["reg_aladin", *images, "-aff", affine, "-res", folder / "a.nii", "-omp", threads],
        ["reg_f3d", *images, "-aff", affine, "-cpp", spline, "-res", folder / "f.nii", "-ln", 4, "-omp", threads],
        ["reg_transform", "-ref", fixed, "-def", spline, positions],
    ]
    for name, *arguments in steps:
        subprocess.run([niftyreg_program(name) or name, *map(str, arguments)], check=True)
    inverse = np.linalg.inv(nib.load(fixed).affine)
    index = np.squeeze(read(positions)) @ inverse[:3, :3].T + inverse[:3, 3]
    return index - np.moveaxis(np.indices(index.shape[:3]), 0, -1)


def niftyreg_program(name: str) -> str | None:
    """In the search path, or in the folder of the package from PyPI."""
    found = shutil.which(name)
    spec = importlib.util.find_spec("niftyreg")
    if found is None and spec is not None and spec.origin:
        found = shutil.which(name, path=str(Path(spec.origin).parent / "bin"))
    return found


def convexadam(fixed: Path, moving: Path, folder: Path, threads: int) -> np.ndarray:
    """ConvexAdam with MIND features, as the package sets it, in fp32 on the CPU."""
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(threads)
    images = [torch.from_numpy(read(path).astype(np.float32)) for path in (fixed, moving)]
    return np.asarray(convex_adam_pt(*images, dtype=torch.float32, device=torch.device("cpu")))


def deformgan(fixed: Path, moving: Path, folder: Path, threads: int, *extra: str) -> np.ndarray:
    """This project's command."""
    command = [sys.executable, "-m", "deformgan", "register", "-f", str(fixed), "-m", str(moving)]
    done = subprocess.run([*command, "-o", str(folder / "out"), "--threads", str(threads), *extra], check=False)
    if done.returncode not in (0, 4):  # 4: done, but the quality check failed
        raise SystemExit(done.returncode)
    return in_voxels(read(folder / "out" / "warp.nii.gz"), fixed)


def deformgan_net(fixed: Path, moving: Path, folder: Path, threads: int) -> np.ndarray:
    """The same without refinement."""
    return deformgan(fixed, moving, folder, threads, "--refine-steps", "0")


TOOLS = {
    "ants-syn-mi": ants,
    "greedy-nmi": greedy,
    "niftyreg-nmi": niftyreg,
    "convexadam": convexadam,
    "deformgan-command": deformgan,
    "deformgan-refine-0": deformgan_net,
}


def installed(name: str) -> bool:
    """Whether a tool can be run here."""
    modules = {"ants-syn-mi": "ants", "greedy-nmi": "picsl_greedy", "convexadam": "convexAdam"}
    if name == "niftyreg-nmi":
        return niftyreg_program("reg_f3d") is not None
    return importlib.util.find_spec(modules.get(name, "deformgan")) is not None


if __name__ == "__main__":
    name, case, out, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    with tempfile.TemporaryDirectory() as temporary:
        field = TOOLS[name](case / "fixed.nii.gz", case / "moving.nii.gz", Path(temporary), threads)
    affine = nib.load(case / "fixed.nii.gz").affine
    nib.save(nib.Nifti1Image(np.ascontiguousarray(field, np.float32), affine), out / "field.nii.gz")
