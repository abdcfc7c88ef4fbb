"""A table of pairs: what is read from it, and every mistake people make in one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deformgan.cohort.table import TableError, nothing_there, read_table
from deformgan.errors import InputError

HEADER = "id,fixed,moving\n"
# what is wrong, the file, and what must be said of it
MISTAKES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "no pair": (HEADER.encode(), "no pair"),
    "no moving column": (b"id,fixed\na,b\n", "there is no column 'moving'"),
    "misspelt column": (b"id,fixed,moving,fixed_maks\na,b,c,d\n", "'fixed_maks' is probably meant to be 'fixed_mask'"),
    "column of ours": (b"id,fixed,moving,Verdict\na,b,c,d\n", "'Verdict' cannot be carried along"),
    "column twice": (b"id,fixed,moving,moving\na,b,c,d\n", "two columns are named 'moving'"),
    "too many cells": (b"id,fixed,moving\na,b,c,d\n", "line 2: 4 cells where the header has 3"),
    "too few cells": (b"id,fixed,moving\na,b\n", "line 2: 2 cells where the header has 3"),
    "no fixed image": (b"id,fixed,moving\na,,c\n", "line 2: fixed is empty"),
    "id twice": (b"id,fixed,moving\na,b,c\nA,d,e\n", "line 3: the id 'A' is that of line 2 too"),
    "id leads elsewhere": (b"id,fixed,moving\n../../etc,b,c\n", "line 2: '../../etc' cannot be an id"),
    "one image twice": (b"id,fixed,moving\na,b,b\n", "line 2: fixed and moving are the same file, b"),
    "no header": (b"a.nii.gz,b.nii.gz\nc.nii.gz,d.nii.gz\n", "must name the columns, fixed and moving among them"),
    "spaces between": (b"id fixed moving\na b c\n", "with commas or tabs between: 'id fixed moving'"),
    "one image twice, written otherwise": (b"id,fixed,moving\na,b,./x/../b\n", "line 2: fixed and moving are the same"),
    "an address": (b"id,fixed,moving\na,https://x.org/a.nii.gz,c\n", "line 2: fixed: https://x.org/a.nii.gz is an add"),
    "a home folder": (b"id,fixed,moving\na,~/a.nii.gz,c\n", "line 2: fixed: ~/a.nii.gz is taken literally"),
    "a variable": (b"id,fixed,moving\na,b,$DATA/c.nii.gz\n", "line 2: moving: $DATA/c.nii.gz is taken literally"),
    "a workbook": (b"PK\x03\x04rest", "it is an Excel workbook: save it as CSV in UTF-8"),
    "UTF-16": ("id,fixed,moving\na,b,c\n".encode("utf-16"), "it is UTF-16: save it as CSV in UTF-8"),
    "not UTF-8": ("id,fixed,moving\na,Müller,c\n".encode("latin-1"), "it is not UTF-8"),
    "binary": (b"id,fixed,moving\na,b\0,c\n", "NUL"),
    "open quotation mark": (b'id,fixed,moving\na,"b,c\nd,e,f\n', "quotation mark"),
    "no id": (b"id,fixed,moving\n,b,c\n", "line 2: the id is empty"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_named(what: str, tmp_path: Path) -> None:
    data, words = MISTAKES[what]
    (tmp_path / "pairs.csv").write_bytes(data)
    with pytest.raises(TableError) as caught:
        read_table(tmp_path / "pairs.csv")
    assert any(words in mistake for mistake in caught.value.mistakes), caught.value.mistakes


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(HEADER + "a,b,b\n.x,,c\nok,b,c\nok,d,e\n")
    with pytest.raises(TableError, match="4 mistakes") as caught:
        read_table(tmp_path / "pairs.csv")
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == ["line 2", "line 3", "line 3", "line 5"]


@pytest.mark.skipif(os.name == "nt", reason="they are usual there")
def test_paths_of_windows_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("id,fixed,moving\na,C:\\data\\a.nii.gz,b\n")
    with pytest.raises(TableError, match="is a path of Windows"):
        read_table(tmp_path / "pairs.csv")


def test_what_is_misspelt_is_not_also_missing(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("id,fixd,Moving\na,b,c\n")
    with pytest.raises(TableError) as caught:
        read_table(tmp_path / "pairs.csv")
    assert caught.value.mistakes == ["the column 'fixd' is probably meant to be 'fixed'"]


def test_a_table_for_another_place_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("ID,Fixed,moving\nx,a.nii,b.nii\ny,c.nii,d.nii\n")
    pairs = read_table(tmp_path / "pairs.csv")
    assert nothing_there(pairs) == str(tmp_path / "a.nii")
    (tmp_path / "d.nii").touch()
    assert nothing_there(pairs) is None, "a file that is missing is that pair's failure"


@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.csv", ";"), ("p.csv", "\t"), ("p.tsv", "\t")])
def test_columns_are_read_and_carried_along(name: str, delimiter: str, tmp_path: Path) -> None:
    lines = ["fixed,moving,id,fixed_mask,site", "a b.nii,/x/c.nii,one,,Köln", "", "d.nii,e.nii,two,m.nii,Bern"]
    text = "\r\n".join(line.replace(",", delimiter) for line in lines)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = read_table(tmp_path / name)
    assert first.files == {"fixed": str(tmp_path / "a b.nii"), "moving": "/x/c.nii"}
    assert (first.name, first.more) == ("one", {"site": "Köln"})
    assert second.files["fixed_mask"] == str(tmp_path / "m.nii")


@pytest.mark.parametrize("column", ["moving_points", "points", "Points"])
def test_the_column_of_points_may_have_its_former_name(column: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(f"fixed,moving,{column}\na,b,p.csv\n")
    (pair,) = read_table(tmp_path / "pairs.csv")
    assert pair.files["moving_points"] == str(tmp_path / "p.csv")
    assert not pair.more
    (tmp_path / "pairs.csv").write_text("fixed,moving,moving_points,points\na,b,p.csv,q.csv\n")
    with pytest.raises(TableError, match="two columns are named 'moving_points'"):
        read_table(tmp_path / "pairs.csv")


def test_names_are_made_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("fixed,moving\na,b\nc,d\n")
    assert [pair.name for pair in read_table(tmp_path / "pairs.csv")] == ["pair-000001", "pair-000002"]


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_table(tmp_path / "none.csv")
