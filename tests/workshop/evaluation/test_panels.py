"""Figures made of slices, and what snapshots of G are measured by, with networks of a few channels on 16 × 24 × 16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from panel_cases import KINDS, SHAPE, panel_case, write_snapshot

from deformgan import losses
from deformgan.errors import InputError, UsageError
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.evaluation.figures import (
    Panel,
    comparison_figure,
    measure_synthesis,
    slice_through,
    synthesis_figure,
    tumour_mask,
)
from deformgan.workshop.evaluation.panels import EDGES, SHOWN_TUMOUR, TRUE_TUMOUR, edge_lines
from deformgan.workshop.evaluation.synthesis import load_snapshot, run_stage, snapshot_steps


@pytest.fixture
def case() -> EvaluationCase:
    return panel_case()


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("shared", [False, True])
def test_measurement_is_the_direct_computation(
    tmp_path: Path, case: EvaluationCase, scale: float, shared: bool
) -> None:
    write_snapshot(tmp_path, 30, scale, 1, shared=shared)
    (row,) = measure_synthesis({"run": tmp_path}, [case])
    assert (row["run"], row["step"], row["case"]) == ("run", 30, "case_000")

    snapshot = load_snapshot(tmp_path, 30)
    k = round(1 / scale)
    fixed, moving, mask = (F.avg_pool3d(i.float(), k) for i in (case.fixed, case.moving, case.mask))
    with torch.no_grad():
        field = snapshot.transformation(fixed, moving)
        moved = warp(moving, field)
        generated = (snapshot.generator(2 * moved - 1) + 1) / 2
    assert row["edges"] == pytest.approx(float(losses.local_gradient_similarity(moved, generated)), abs=1e-5)
    inside = float(losses.local_gradient_similarity(moved, generated, mask=mask))
    assert row["edges_brain"] == pytest.approx(inside, abs=1e-5)
    assert 0 < row["edges"] < 1
    assert row["edges"] != row["edges_brain"]
    distance = (resize(field, SHAPE) - case.field).square().sum(1, keepdim=True).sqrt()
    assert row["error"] == pytest.approx(float(distance[case.mask].mean()), abs=1e-4)


def test_a_pyramid_halves_by_itself(tmp_path: Path, case: EvaluationCase) -> None:
    write_snapshot(tmp_path, 1, 0.5, 2, network={"kind": "pyramid", "widths": [8, 8, 16], "stage_width": 8})
    snapshot = load_snapshot(tmp_path, 1)
    stage = run_stage(snapshot, case)
    with torch.no_grad():
        field = snapshot.transformation(case.fixed, case.moving)
    assert stage.moved.shape[2:] == field.shape[2:] == (8, 12, 8)
    torch.testing.assert_close(stage.moved, warp(F.avg_pool3d(case.moving, 2), field))


def test_unusable_snapshots_are_told(tmp_path: Path, case: EvaluationCase) -> None:
    with pytest.raises(InputError, match="no snapshot"):
        snapshot_steps(tmp_path)
    write_snapshot(tmp_path, 5, 1.0, 0)
    at = tmp_path / "snapshots" / "step-000005"
    with pytest.raises(InputError, match="no cases"):
        measure_synthesis({"run": tmp_path}, [])
    whole = (at / "G.safetensors").read_bytes()
    (at / "G.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be used"):
        load_snapshot(tmp_path, 5)
    (at / "G.safetensors").write_bytes(whole)
    (at / "config.json").write_text(json.dumps({"T": KINDS["T"], "G": None, "scale": 1}))
    with pytest.raises(InputError, match="cannot be used"):
        load_snapshot(tmp_path, 5)


def test_synthesis_figure_shows_stages_and_their_numbers(tmp_path: Path, case: EvaluationCase) -> None:
    runs = {"deform-gan-1": tmp_path / "one", "deform-gan-2": tmp_path / "two"}
    for seed, run in enumerate(runs.values()):
        for step, scale in ((1, 0.5), (20, 0.5), (30, 1.0), (40, 1.0), (50, 1.0)):
            write_snapshot(run, step, scale, 10 * seed + step)
    measured = measure_synthesis(runs, [case])
    for name in ("a", "b"):
        figure = synthesis_figure(runs, case, tmp_path / f"{name}.png", measured, stages=3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    *pictures, chart = figure.axes
    assert len(pictures) == 2 * 3 * 3
    assert [axis.get_title().split("\n")[0] for axis in pictures[:3]] == ["step 1", "step 30", "step 50"]
    assert [axis.get_title().split("\n")[1] for axis in pictures[:3]] == ["6 mm voxels", "3 mm voxels", "3 mm voxels"]
    told = [axis.get_xlabel() for axis in (*pictures[3:6], *pictures[12:15])]
    numbers = [row["edges_brain"] for row in measured if row["step"] in (1, 30, 50)]
    assert told == [f"edges {number:.2f}" for number in numbers]
    curves = [line for line in chart.lines if line.get_marker() not in ("None", "")]
    parts = [(run, scale) for run in runs for scale in (0.5, 1.0)]
    for line, (run, scale) in zip(curves, parts, strict=True):
        own = [row for row in measured if (row["run"], row["scale"]) == (run, scale)]
        np.testing.assert_allclose(line.get_data(), ([row["step"] for row in own], [row["edges_brain"] for row in own]))
    assert [text.get_text() for text in chart.texts] == ["full resolution"], "where the stage changes"
    # every stage shows the same part of the head, whatever its resolution
    extents = {tuple(axis.images[0].get_extent()) for axis in pictures}
    assert max(np.ptp(np.array(list(extents)), axis=0)) <= 6.0
    with pytest.raises(InputError, match="not been measured"):
        synthesis_figure(runs, case, tmp_path / "c.png", measured[:5])


def _panels(case: EvaluationCase) -> list[Panel]:
    def volume(image: torch.Tensor) -> np.ndarray:
        return image[0, 0].numpy()

    fixed, moving = (tumour_mask(labels, case) for labels in (case.fixed_labels, case.moving_labels))
    return [
        Panel("fixed", volume(case.fixed), fixed),
        Panel("moving", volume(case.moving), moving, "error 1.50 voxels"),
        Panel("perfect", volume(case.moving_true), fixed, "error 0.00 voxels"),
    ]


def test_comparison_outlines_both_tumours(tmp_path: Path, case: EvaluationCase) -> None:
    view = slice_through(case)
    assert view.index == (10, 14, 8)
    figure = comparison_figure({"clean": _panels(case), "noisy": _panels(case)}, view, tmp_path / "c.png")
    assert [axis.get_title() for axis in figure.axes] == ["fixed", "moving", "perfect", "", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == ["clean", "noisy"]
    assert figure.axes[1].get_xlabel() == "error 1.50 voxels"
    fixed, moving, perfect = (
        {matplotlib_hex(c.get_edgecolor()): c.get_paths()[0].vertices for c in axis.collections}
        for axis in figure.axes[:3]
    )
    assert set(fixed) == {TRUE_TUMOUR}
    assert set(moving) == {TRUE_TUMOUR, SHOWN_TUMOUR}
    np.testing.assert_allclose(perfect[TRUE_TUMOUR], perfect[SHOWN_TUMOUR])
    # the moving tumour lies one or two voxels of 3 mm further along the first axis, which runs to the left of the page
    shift = moving[SHOWN_TUMOUR].mean(0) - moving[TRUE_TUMOUR].mean(0)
    assert 2.5 < -shift[0] < 6.5
    assert abs(shift[1]) < 0.5
    assert len(figure.legends[0].texts) == 2


def matplotlib_hex(colour: np.ndarray) -> str:
    """The colour of a collection as ``#RRGGBB``."""
    return "#" + "".join(f"{round(255 * c):02X}" for c in np.ravel(colour)[:3])


@pytest.mark.parametrize("overlay", ["none", "edges", "checker"])
def test_overlays(tmp_path: Path, case: EvaluationCase, overlay) -> None:
    view, rows = slice_through(case), {"clean": _panels(case)}
    pages = [comparison_figure(rows, view, tmp_path / f"{name}.png", overlay) for name in "ab"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    fixed, moving, _ = pages[0].axes
    assert len(fixed.images) == 1
    assert len(moving.images) == (2 if overlay == "edges" else 1)
    assert len(pages[0].legends[0].texts) == (3 if overlay == "edges" else 2)
    if overlay == "edges":
        drawn = moving.images[1].get_array()
        assert matplotlib_hex(drawn[0, 0] / (255 if drawn.dtype == np.uint8 else 1)) == EDGES
    if overlay == "checker":
        shown = moving.images[0].get_array()
        plain = view.cut(case.moving[0, 0].numpy(), "axial")
        np.testing.assert_allclose(shown[:14, :14], np.repeat(plain[:14, :14, None], 3, -1), atol=1e-6)


def test_edges_lie_on_the_border_of_a_disc() -> None:
    rows, columns = np.indices((40, 40)) + 0.5
    lines = edge_lines((np.hypot(rows - 20, columns - 20) < 12).astype(float))
    where = (np.argwhere(lines) + 0.5) / 4
    radius = np.hypot(*(where - 20).T)
    assert len(where) > 200
    assert np.abs(radius - 12).max() < 0.8


def test_rows_that_cannot_be_laid_out_are_refused(tmp_path: Path, case: EvaluationCase) -> None:
    panels = _panels(case)
    with pytest.raises(UsageError, match="one number of panels"):
        comparison_figure({"clean": panels, "noisy": panels[:2]}, slice_through(case), tmp_path / "c.png")
    with pytest.raises(UsageError, match="one number of panels"):
        comparison_figure({}, slice_through(case), tmp_path / "c.png")
