"""What a cohort costs beside the registrations: a BIDS data set indexed, a plan made, table and page written.

    python benchmarks/cohort/scale.py -o OUT [--people 1000] [--rows 20000]

The files of the data set are empty and the rows as if the pairs had run, with 2 inputs and 7 outputs each; the costs
are processor seconds of this process. Where bids2table is installed, its index of the same data set is timed too. A
JSON file joins results/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))
import small_cohort
from measuring import keep, machine

from deformgan.cohort.bids import Selection, find_pairs
from deformgan.cohort.group import PAGE, collect, write_table
from deformgan.cohort.page import write_page
from deformgan.cohort.pair import Pair, Settings
from deformgan.cohort.run import Cohort, make_plan
from deformgan.cohort.status import status

RESULTS = Path(__file__).parent / "results"


def write_data_set(root: Path, people: int) -> None:
    """Four images with their sidecars for each person, and a functional run that nobody asks for."""
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.10.0"}')
    for number in range(people):
        for folder, names in {
            "anat": ["T1w", "T2w", "acq-fast_T1w", "FLAIR"],
            "func": ["task-rest_bold"],
        }.items():
            place = root / f"sub-{number:05d}" / folder
            place.mkdir(parents=True)
            for name in names:
                for ending in ("nii.gz", "json"):
                    (place / f"sub-{number:05d}_{name}.{ending}").touch()


def seconds(call: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    call()
    return round(time.process_time() - start, 3)


def index_times(root: Path) -> dict[str, Any]:
    """Of our index, and of bids2table's in one process."""
    found: dict[str, Any] = {"ours_s": seconds(lambda: find_pairs(root, Selection()))}
    try:
        import bids2table
    except ImportError:
        return found
    found["bids2table_s"] = seconds(lambda: bids2table.index_dataset(root))
    return found


def group_times(out: Path, rows: int) -> dict[str, Any]:
    """Of planning, counting and writing, with rows as they are left by pairs that ran."""
    out.mkdir(parents=True)
    file = out / "file.nii.gz"
    file.write_bytes(b"some bytes")
    store = small_cohort.write_rows(out, rows, pictures=200, file=file)
    pairs = [Pair(f"sub-{number:05d}", {"fixed": str(file), "moving": str(file)}) for number in range(rows)]
    cohort = Cohort(pairs=pairs, settings=Settings(report=False), out=out)
    assert make_plan(cohort).counts()["pending"] == 1
    found: dict[str, Any] = {"plan_s": seconds(lambda: make_plan(cohort)), "status_s": seconds(lambda: status(store))}
    groups = []
    found["collect_s"] = seconds(lambda: groups.append(collect(store)))
    found["table_s"] = seconds(lambda: write_table(groups[0], out))
    found["page_s"] = seconds(lambda: write_page(groups[0], store))
    return {**found, "page_mb": round((out / PAGE).stat().st_size / 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    write_data_set(given.out / "raw", given.people)
    found = {"machine": machine(), "people": given.people, "index": index_times(given.out / "raw")}
    found |= {"rows": given.rows, "group": group_times(given.out / "group", given.rows)}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{keep('scale', found, RESULTS)}\n")


if __name__ == "__main__":
    main()
