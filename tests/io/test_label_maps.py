"""Label maps are told from images: a table of made ones, and the counts that the docs state."""

from __future__ import annotations

from pathlib import Path

import label_cases
import numpy as np
import pytest

from deformgan.io.label_maps import gather, looks_like_labels

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "label-maps.md"
# taken for label maps: their few values are kept, and the command says so
MISTAKEN = {"counts of lesions of 60 patients", "image of 16 grey values"}


@pytest.mark.parametrize("name", label_cases.CASES)
def test_the_rule(name: str) -> None:
    labels, evidence = label_cases.evidence_of(name)
    said = evidence is not None and evidence.labels
    assert said == (labels or name in MISTAKEN), evidence


def test_the_page_says_what_the_table_shows() -> None:
    assert PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")[2] == label_cases.table(MISTAKEN)


def test_regions_are_counted() -> None:
    data = np.zeros((12, 12, 12), int)
    data[2:5, 2:6, 3:7] = 1
    data[7:9, 7:9, 7:9] = 2
    data[10, 10, 10] = 2
    found = gather(data)
    assert (found.values, found.regions, found.alike) == (2, 1.5, 1.0)
    data[3, 3, :] = 0  # a tunnel counts one off
    assert gather(data).regions == 1.0


def test_the_most_common_value_is_the_background(rng: np.random.Generator) -> None:
    data = np.full((9, 9, 9), -1024)
    data[2:6, 2:6, 2:6] = 7
    assert gather(data).values == 1
    assert looks_like_labels(data.astype(np.float64))
    assert not looks_like_labels(data + 0.5 * (data == 7))
