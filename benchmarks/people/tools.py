"""Labels moved by another tool: ``python tools.py NAME FIXED MOVING LABELS OUT THREADS``; none: by headers alone."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

Tool = Callable[[Path, Path, Path, Path, int, Path], None]


def by_headers(fixed: Path, moving: Path, labels: Path, out: Path, threads: int, folder: Path) -> None:
    """No registration."""
    from nibabel.loadsave import load, save
    from nibabel.processing import resample_from_to

    save(resample_from_to(load(labels), load(fixed), order=0), out)


def greedy(fixed: Path, moving: Path, labels: Path, out: Path, threads: int, folder: Path) -> None:
    """greedy: affine, then the deformation, both by normalised mutual information."""
    from picsl_greedy import Greedy3D

    tool, common = Greedy3D(), f"-i {fixed} {moving} -m NMI -threads {threads} -V 0"
    affine, warp = folder / "affine.mat", folder / "warp.nii.gz"
    tool.execute(f"-a {common} -ia-image-centers -n 100x50x20 -o {affine}")
    tool.execute(f"{common} -it {affine} -n 100x100x50 -s 2.5vox 0.7vox -o {warp}")
    tool.execute(f"-rf {fixed} -ri LABEL 0.2vox -rm {labels} {out} -r {warp} {affine}")


def ants(fixed: Path, moving: Path, labels: Path, out: Path, threads: int, folder: Path) -> None:
    """ANTs: affine and SyN with mutual information, as the library sets it."""
    import ants as tool

    images = tool.image_read(str(fixed)), tool.image_read(str(moving))
    found = tool.registration(*images, "SyN", outprefix=f"{folder}/syn_", random_seed=1)
    carried = tool.apply_transforms(
        images[0], tool.image_read(str(labels)), found["fwdtransforms"], interpolator="nearestNeighbor"
    )
    tool.image_write(carried, str(out))


TOOLS: dict[str, Tool] = {"none": by_headers, "greedy-nmi": greedy, "ants-syn": ants}


def main() -> int:
    """Run one tool on one pair."""
    name, *paths, threads = sys.argv[1:]
    fixed, moving, labels, out = map(Path, paths)
    with tempfile.TemporaryDirectory() as folder:
        TOOLS[name](fixed, moving, labels, out, int(threads), Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
