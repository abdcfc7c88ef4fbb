"""The sheet of one registration: every panel, letters of side, colours that mean what they say."""

from __future__ import annotations

import numpy as np
import small_report

from deformgan.output.overview import draw_material
from deformgan.output.report.stacks import LETTERS, PLANES


def test_the_sheet_shows_three_planes_of_everything() -> None:
    figure = draw_material(small_report.material(), small_report.record())
    panels = [axis for axis in figure.axes if axis.images and not axis.get_label().startswith("<colorbar")]
    assert len(panels) == 3 * 7
    assert [axis.get_title() for axis in panels[:7]] == [
        "fixed", "moving, before", "moved, after", "edges before", "edges after", "displacement", "volume change"
    ]  # fmt: skip
    for row, plane in enumerate(PLANES):
        for axis in panels[7 * row : 7 * row + 7]:
            assert "".join(text.get_text() for text in axis.texts) == LETTERS[plane]
    words = {text.get_text() for text in figure.texts}
    assert "! look" in words
    assert any(word.startswith("In places edges would match") for word in words)
    ticks = [label.get_text() for axis in figure.axes for label in axis.get_xticklabels()]
    assert "grew to 2 ×" in ticks
    fixed, _, moved = (np.asarray(panels[n].images[0].get_array()) for n in range(3))
    assert fixed.shape == moved.shape
    assert not np.array_equal(fixed, moved)


def test_a_map_that_moves_nothing_can_be_drawn() -> None:
    from deformgan.transforms.transform import Transform

    still = small_report.material(transform=Transform.identity(), moved=small_report.material().moving)
    assert draw_material(still, small_report.record()).axes
