"""Points in CSV files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deformgan.errors import InputError
from deformgan.io.points import Points, read_points


def test_other_columns_and_their_order_are_carried_along(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("\ufeffname, Z,x,Y\ntip,3.5,-1,2e1\n\n base ,0,0,0\n", encoding="utf-8")
    points = read_points(path)
    np.testing.assert_array_equal(points.positions_mm, [[-1, 20, 3.5], [0, 0, 0]])
    points.at(points.positions_mm + np.array([1, 2, 3])).save(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == (
        "name,z,x,y\ntip,6.500000,0.000000,22.000000\nbase,3.000000,1.000000,2.000000\n"
    )


def test_bare_positions_round_trip(tmp_path: Path) -> None:
    positions = np.array([[1.25, -2.5, 1e3]])
    Points(positions).save(tmp_path / "p.csv")
    np.testing.assert_allclose(read_points(tmp_path / "p.csv").positions_mm, positions)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "no columns"),
        ("a,b,c\n1,2,3\n", "no columns"),
        ("x,y,z,x\n1,2,3,4\n", "two columns x"),
        ("x,y,z\n", "no points"),
        ("x,y,z\n1,2,3\n1,2\n", "line 3"),
        ("x,y,z\n1,two,3\n", "line 2"),
        ("x,y,z\n1,nan,3\n", "not a finite"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=cause) as caught:
        read_points(path)
    assert "p.csv" in str(caught.value)
    assert caught.value.hint


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_points(tmp_path / "none.csv")
    (tmp_path / "p.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="cannot be read"):
        read_points(tmp_path / "p.csv")
