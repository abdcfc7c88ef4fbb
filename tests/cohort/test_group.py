"""The group's table: figures, fences, ratings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import small_cohort

from deformgan.cohort.group import RATINGS, SIDECAR, TABLE, collect, read_ratings, tukey
from deformgan.cohort.run import write_group
from deformgan.cohort.status import status
from deformgan.errors import InputError


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_fences_are_tukeys() -> None:
    rows = [{"seconds": float(n)} for n in (*range(1, 12), 40)] + [{"seconds": None}]
    low, high = tukey(rows)["seconds"]  # quartiles 3.75 and 9.25
    assert (low, high) == (3.75 - 1.5 * 5.5, 9.25 + 1.5 * 5.5)


def test_the_table_has_a_row_for_every_pair(tmp_path: Path) -> None:
    store = small_cohort.write_rows(tmp_path, 200)
    write_group(store)
    rows = read_table(tmp_path / TABLE)
    assert [row["id"] for row in rows] == [f"sub-{n:05d}" for n in range(200)]
    assert rows[-1]["status"] == "pending"
    assert rows[5]["status"] == "failed"
    assert "does not exist" in rows[5]["cause"]
    assert rows[5]["overlap"] == "n/a"
    assert {row["site"] for row in rows} == {"A", "B"}
    wrong = {row["id"] for row in rows if row["verdict"] == "fail"}
    assert wrong
    assert wrong <= {row["id"] for row in rows if "similarity_after" in row["outliers"].split()}
    described = json.loads((tmp_path / SIDECAR).read_text(encoding="utf-8"))
    assert described["inverse_error_mm"]["Units"] == "mm"
    values = [float(row["seconds"]) for row in rows if row["seconds"] != "n/a"]
    first, third = np.quantile(values, [0.25, 0.75])
    fences = [first - 1.5 * (third - first), third + 1.5 * (third - first)]
    np.testing.assert_allclose(described["seconds"]["TukeyFences"], fences, rtol=1e-4)
    assert (tmp_path / "group_registration.html").is_file()


def test_counts_add_up(tmp_path: Path) -> None:
    counts = status(small_cohort.write_rows(tmp_path, 200))
    assert counts["total"] == counts["done"] + counts["failed"] + counts["running"] + counts["pending"] == 200
    assert sum(counts["verdicts"].values()) == counts["done"]
    assert counts["causes"] == {"input": 2}
    assert list(counts["names"]["failed"]) == ["sub-00005", "sub-00102"]


def test_ratings_are_kept_and_merged(tmp_path: Path) -> None:
    store = small_cohort.write_rows(tmp_path / "out", 20)
    saved = tmp_path / "ratings.tsv"
    saved.write_text("id\trating\trater\tnote\nsub-00001\tbad\tAnna\tfolded\nsub-00002\tgood\tAnna\t\n")
    write_group(store, saved)
    saved.write_text("id\trating\nsub-00002\tdoubtful\n")
    write_group(store, saved)
    write_group(store)
    rows = {row["id"]: row for row in read_table(tmp_path / "out" / TABLE)}
    assert [rows[f"sub-0000{n}"]["rating"] for n in (1, 2, 3)] == ["bad", "doubtful", "n/a"]
    assert rows["sub-00001"]["note"] == "folded"
    assert set(read_ratings(tmp_path / "out" / RATINGS)) == {"sub-00001", "sub-00002"}


@pytest.mark.parametrize("text", ["id\tgrade\na\tgood\n", "id\trating\na\tsplendid\n"])
def test_ratings_that_are_none(text: str, tmp_path: Path) -> None:
    store = small_cohort.write_rows(tmp_path / "out", 5)
    (tmp_path / "r.tsv").write_text(text)
    with pytest.raises(InputError, match=r"rating"):
        collect(store, tmp_path / "r.tsv")


def test_a_folder_without_a_cohort(tmp_path: Path) -> None:
    from deformgan.cohort.store import Store

    with pytest.raises(InputError, match="there is no cohort"):
        status(Store(tmp_path))
