"""Pictures: orientation, one scale, colours where they mean something; read back from the rendered pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from deformgan.output import pictures
from deformgan.output.pictures import View

SHAPE = (24, 30, 20)
SPACING = (2.0, 2.0, 3.0)


def _mask() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[4:20, 4:26, 3:17] = True
    return mask


def _view(point: tuple[float, float, float] = (12, 15, 10)) -> View:
    return View.through(point, _mask(), SPACING, margin=2)


def _labels() -> np.ndarray:
    labels = np.where(_mask(), 3, 0)
    labels[9:15, 12:18, 8:12] = 4
    labels[15:18, 18:23, 8:13] = 100
    return labels


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(float) / 255


def _share_of(pixels: np.ndarray, colour: str, tolerance: float = 0.12) -> float:
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(-1) < tolerance).mean())


def test_a_view_is_cropped_to_the_content() -> None:
    view = _view((12.4, 15.0, 9.6))
    assert view.index == (12, 15, 10)
    assert [(s.start, s.stop) for s in view.crop] == [(2, 22), (2, 28), (1, 19)]
    assert view.extent("axial") == (0, 40, 0, 52)
    assert view.extent("coronal") == (0, 40, 0, 54)
    assert view.extent("sagittal") == (0, 52, 0, 54)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_are_radiological(plane: str) -> None:
    """Right (or front) is at the left, front (or top) is at the top."""
    view = _view()
    right, front, up = np.meshgrid(*[np.arange(n, dtype=float) for n in SHAPE], indexing="ij")
    leftwards, upwards = {"axial": (right, front), "coronal": (right, up), "sagittal": (front, up)}[plane]
    assert (np.diff(view.cut(leftwards, plane), axis=1) == -1).all()
    assert (np.diff(view.cut(upwards, plane), axis=0) == -1).all()


def test_pair_outlines_the_other_image_on_the_fixed_one() -> None:
    volume = np.where(_mask(), 0.4, 0.0)
    shifted = np.roll(_labels(), 2, axis=0)
    figure = pictures.draw_pair(
        _view(), volume, volume, _labels(), shifted, ("fixed T2", "moving T1"), "Before", "a caption\nof two lines"
    )
    texts = {text.get_text() for text in figure.texts}
    assert {"Before", "fixed T2", "moving T1", "outlines of moving T1 on fixed T2", "a caption\nof two lines"} <= texts
    assert len(figure.axes) == 9
    ventricles = [figure.axes[panel].collections[1].get_paths()[0].vertices for panel in (0, 3, 6)]
    # two voxels of 2 mm to the patient's right are 4 mm to the left on the page
    np.testing.assert_allclose(ventricles[1], ventricles[0] - (4, 0), atol=1e-4)
    np.testing.assert_allclose(ventricles[2], ventricles[1])
    assert [len(figure.axes[panel].collections) for panel in (0, 3, 6)] == [3] * 3, "brain, ventricles, tumour"


def test_every_panel_has_the_same_scale_and_none_overlap() -> None:
    volume = np.where(_mask(), 0.4, 0.0)
    figure = pictures.draw_checkerboard(_view(), volume, {"a": volume, "b": volume}, "t", "c")
    width, height = figure.get_size_inches()
    boxes = [axis.get_position() for axis in figure.axes]
    scales = {
        round(size * inches / (limits[1] - limits[0]), 6)
        for axis, box in zip(figure.axes, boxes, strict=True)
        for size, inches, limits in ((box.width, width, axis.get_xlim()), (box.height, height, axis.get_ylim()))
    }
    assert len(scales) == 1
    for i, a in enumerate(boxes):
        assert a.x0 >= 0
        assert a.x1 <= 1
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])


def test_checkerboard_shows_both_images_and_tints_the_fixed_one() -> None:
    white, black = np.ones(SHAPE), np.zeros(SHAPE)
    fixed_seen = _pixels(pictures.draw_checkerboard(_view(), white, {"x": black}, "", "", square_mm=12))
    panel_seen = _pixels(pictures.draw_checkerboard(_view(), black, {"x": white}, "", "", square_mm=12))
    tinted, plain = _share_of(fixed_seen, "#b8f2ff", 0.04), _share_of(panel_seen, "#ffffff", 0.02)
    assert tinted > 0.05
    assert plain > 0.05
    assert tinted == pytest.approx(plain, rel=0.3)


def test_grid_lines_follow_the_map() -> None:
    view, volume = _view(), np.where(_mask(), 0.4, 0.0)
    still = np.zeros((*SHAPE, 3), np.float32)
    shift = still + np.array([5.0, -3.0, 0.0], np.float32)
    figure = pictures.draw_grid(view, {"still": (volume, still), "shift": (volume, shift)}, _mask(), "t", "c")

    def points(panel: int) -> np.ndarray:
        return np.vstack(figure.axes[panel].collections[0].get_segments())

    axial_still, axial_shift = points(0), points(3)
    # right is at the left: +5 mm to the right is -5 mm on the page; backwards is down
    np.testing.assert_allclose(axial_shift - axial_still, np.broadcast_to((-5, -3), axial_still.shape), atol=1e-5)
    assert set(np.round(np.diff(np.unique(axial_still[:, 0])), 4)) == {2.0}
    np.testing.assert_allclose(figure.axes[3].collections[0].get_array(), np.hypot(5, 3), rtol=1e-5)
    # the grid covers the brain it is a grid of
    left, right = (4 - 2 + 0.5) * 2, (19 - 2 + 0.5) * 2
    assert axial_still[:, 0].min() == pytest.approx(40 - right)
    assert axial_still[:, 0].max() == pytest.approx(40 - left)


def test_error_panels_share_one_scale() -> None:
    large, small = np.full(SHAPE, 10.0), np.full(SHAPE, 1.0)
    figure = pictures.draw_error(_view(), {"before": large, "after": small}, _mask(), "t", "c")
    limits = {axis.images[0].get_clim() for axis in figure.axes[:6]}
    assert limits == {(0, 10.0)}
    assert figure.axes[6].get_ylabel() == "error (mm)"
    shown = figure.axes[0].images[0].get_array()
    assert shown.mask.any(), "outside the brain nothing is shown"
    assert shown.compressed().min() == 10


def test_a_perfect_result_can_be_drawn() -> None:
    nothing = np.zeros(SHAPE)
    figure = pictures.draw_error(_view(), {"after": nothing}, _mask(), "t", "c")
    assert figure.axes[0].images[0].get_clim()[1] > 0


def test_save_writes_a_dark_png(tmp_path: Path) -> None:
    volume = np.where(_mask(), 0.4, 0.0)
    figure = pictures.draw_checkerboard(_view(), volume, {"a": volume}, "t", "c")
    pictures.save(figure, tmp_path / "board.png")
    pixels = imread(tmp_path / "board.png")
    assert pixels.shape[0] > 200
    assert _share_of(pixels[:20, :20, :3], pictures.GROUND, 0.01) == 1
