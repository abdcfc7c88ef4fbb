"""Brain extraction judged: Dice of the mask that S gives, on whole heads it never saw.

    python benchmarks/brain/run.py --data DATA [--weights NAME] [--turned]

Two kinds of case. `nichart_*`: T1 of ten older people, 2 mm, against the closed labels (145 structures outlined by a
program; gaps up to 12 mm bridged, holes filled); their FLAIR on a grid of its own, against the same mask brought there
by a rigid registration of the whole heads, which S has no part in: the headers of some are centimetres off.
`training_seg_15` and `_16`: heads synthesised at 1 mm in five contrasts, against the brain with its sulci closed.
``--turned``: the same with headers that have each head back to front. A case fails grossly where Dice is below 0.8.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

import deformgan
from deformgan.io.image import Image, load_image, load_labels
from deformgan.models.anatomy import load_anatomy_model
from deformgan.preprocess.brain_extraction import brain_mask, find_anatomy
from deformgan.spatial.grid import Grid
from deformgan.workshop.datasets.heads import load_label_maps
from deformgan.workshop.simulation.contrasts import depth
from deformgan.workshop.simulation.head_scans import ScanConfig, draw_scan

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

BRIDGED_MM = 6.0  # each way
FAILURE = 0.8
CONTRASTS = ("t1", "t2", "flair", "t1gd", "random")
HEAD = ScanConfig((200, 240, 220), 1.0, log_scale=0.1, stripped=0.0, cropped=0.0)
RESULTS = Path(__file__).parent / "results"

Case = tuple[str, str, Image, np.ndarray]


def nichart(data: Path) -> Iterator[Case]:
    """Kind, name, image and true brain on its voxels."""
    for folder in sorted(data.glob("nichart_*"), key=lambda p: int(p.name.split("_")[1])):
        labels = load_labels(folder / "labels.nii.gz")
        reach = float(labels.grid.spacing[0])
        near = depth(labels.data == 0) * reach <= BRIDGED_MM
        brain = np.asarray(ndimage.binary_fill_holes(depth(near) * reach > BRIDGED_MM)) | (labels.data > 0)
        t1, flair = load_image(folder / "t1.nii.gz"), load_image(folder / "flair.nii.gz")
        yield "nichart t1", folder.name, t1, brain
        rigid = deformgan.register(flair, t1, transform="rigid", brain="whole").transform
        mask = Image(brain.astype(np.uint8), labels.grid, "brain")
        yield "nichart flair", folder.name, flair, deformgan.apply(mask, rigid, flair, interpolation="nearest").data > 0


def synthetic(data: Path, cache: Path) -> Iterator[Case]:
    """The same of heads made from the two label maps that validate."""
    names = ["training_seg_15.nii.gz", "training_seg_16.nii.gz"]
    for name, labels in zip(names, load_label_maps(data / "synthseg_label_maps", names, cache), strict=True):
        for k, contrast in enumerate(CONTRASTS):
            scan = draw_scan(labels, torch.Generator().manual_seed(7000 + k), HEAD, contrast, False)
            image = Image(scan.image[0, 0].numpy() * 1000, Grid.centred(HEAD.shape, HEAD.spacing, np.zeros(3)), name)
            yield f"synthetic {contrast}", name.split(".")[0], image, scan.mask[0, 0].numpy() > 0


def back_to_front(image: Image) -> Image:
    """The image under a header that has its first two axes the other way round."""
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:3, 3] = image.grid.centre_mm - turn[:3, :3] @ image.grid.centre_mm
    return Image(image.data, image.grid.moved_by(turn), image.name)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |A ∩ B| / (|A| + |B|)."""
    return 2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b))


def main() -> None:
    """Judge, write and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="anatomy", help="shipped ones by name, others by path")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--turned", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # that whole heads are none of what T knows
    model, rows = load_anatomy_model(given.weights), []
    for cases in (nichart(given.data), synthetic(given.data, given.cache)):
        for kind, name, image, brain in cases:
            shown = back_to_front(image) if given.turned else image
            start = time.process_time()
            anatomy = find_anatomy(shown, model)
            mask = brain_mask(anatomy, shown).data > 0
            seconds = round(time.process_time() - start, 2)
            row = {"kind": kind, "name": name, "dice": round(float(dice(mask, brain)), 4), "processor_seconds": seconds}
            seen = {"litres": round(anatomy.brain_litres, 3), "certainty": round(anatomy.certainty, 3)}
            rows.append(row | seen | {"head": bool(anatomy.is_head)})
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
    kinds = {kind: summary([row for row in rows if row["kind"] == kind]) for kind in {row["kind"]: 0 for row in rows}}
    result = {"machine": machine(), "weights": model.sha256, "turned": given.turned, "kinds": kinds, "cases": rows}
    sys.stdout.write(f"{json.dumps(kinds, indent=1)}\n{keep('brain', result, RESULTS)}\n")


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and least Dice, and how many cases fail grossly."""
    found = [row["dice"] for row in rows]
    failed = sum(bool(one < FAILURE) for one in found)
    return {"n": len(found), "mean": round(float(np.mean(found)), 4), "least": float(min(found)), "failures": failed}


if __name__ == "__main__":
    main()
