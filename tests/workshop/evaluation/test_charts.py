"""Charts: what stands in their axes against the rows they were made of, one look for each method, the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy import stats

from deformgan.errors import InputError, UsageError
from deformgan.workshop.evaluation.charts import (
    Study,
    accuracy_time_figure,
    mean_and_spread,
    robustness_figure,
    study_figure,
)
from deformgan.workshop.evaluation.learning_curves import elapsed_seconds, training_figure
from deformgan.workshop.evaluation.style import method_styles

METHODS = ("deform-gan-2", "identity", "voxelmorph-lg")


def _row(method: str, case: int, error: float, **more: Any) -> dict[str, Any]:
    return {"method": method, "case": f"case_{case:03d}", "error_mean": error, "seconds": 2.0, **more}


def _sweep(levels: tuple[float, ...] = (0.0, 0.1, 0.2)) -> list[dict[str, Any]]:
    rows = []
    for sweep in ("noise", "blur"):
        for k, level in enumerate(levels):
            for m, method in enumerate(METHODS):
                for case in range(4):
                    more = {"sweep": sweep, "level": level, "dice_tumour": 0.9 - 0.1 * k if case else None}
                    rows.append(_row(method, case, 1 + m + k + 0.1 * case, **more))
    return rows


def _shown(figure: Figure) -> list[Any]:
    return [axis for axis in figure.axes if axis.axison]


def test_robustness_shows_means_and_standard_errors(tmp_path: Path) -> None:
    figure = robustness_figure(_sweep(), tmp_path / "r.png")
    panels = {axis.get_title(): axis for axis in _shown(figure)}
    assert list(panels) == ["Rician noise", "Blur"]
    noise = panels["Rician noise"]
    assert noise.get_ylabel() == "mean error (voxels)"
    curves = {line.get_label(): line for line in noise.lines}
    assert list(curves) == ["no registration", "VoxelMorph-LG", "Deform-GAN-2"], "methods keep their order"
    x, y = curves["Deform-GAN-2"].get_data()
    np.testing.assert_allclose(x, [0, 0.1, 0.2])
    np.testing.assert_allclose(y, [1.15, 2.15, 3.15])
    half = np.std([0, 0.1, 0.2, 0.3], ddof=1) / 2
    band = noise.collections[2].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(1.15 - half)
    assert band[:, 1].max() == pytest.approx(3.15 + half)


def test_each_metric_has_its_panels_and_missing_values_are_left_out(tmp_path: Path) -> None:
    figure = robustness_figure(_sweep(), tmp_path / "r.png", ("dice_tumour", "error_mean"))
    labels = [axis.get_ylabel() for axis in _shown(figure)]
    assert labels == ["tumour Dice"] * 2 + ["mean error (voxels)"] * 2
    dice = _shown(figure)[0]
    np.testing.assert_allclose(dice.lines[0].get_ydata(), [0.9, 0.8, 0.7])
    assert dice.get_ylim() == (0, 1)
    with pytest.raises(InputError, match="rmse_brain"):
        robustness_figure(_sweep(), tmp_path / "r.png", ("rmse_brain",))


def test_files_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    runs = {"a": [{"step": 1, "t_loss": 1.0, "seconds": 1.0}, {"step": 2, "t_loss": 0.5, "seconds": 1.0}]}
    for name in ("first", "second"):
        robustness_figure(_sweep(), tmp_path / f"{name}-r.png")
        accuracy_time_figure(_sweep(), tmp_path / f"{name}-a.png")
        study_figure(_sweep(), tmp_path / f"{name}-s.png", [Study("T", {m: m for m in METHODS})], ("error_mean",))
        training_figure(runs, tmp_path / f"{name}-t.png")
        # what a user prefers changes nothing
        matplotlib.rcParams["font.size"] = 20
    matplotlib.rcdefaults()
    for kind in "rast":
        first, second = ((tmp_path / f"{name}-{kind}.png").read_bytes() for name in ("first", "second"))
        assert first == second
        assert b"tEXt" not in first, "neither date nor version"
        pixels = imread(tmp_path / f"first-{kind}.png")[..., :3]
        assert (pixels[:4, :4] == 1).all(), "white ground"
        assert 0.01 < (pixels.min(-1) < 0.9).mean() < 0.5
    assert len(list(tmp_path.iterdir())) == 8


def test_a_method_looks_the_same_everywhere() -> None:
    styles = method_styles(["zeta", "Deform-GAN-2", "VM_LG", "ants", "identity"])
    assert list(styles) == ["identity", "VM_LG", "Deform-GAN-2", "ants", "zeta"]
    assert styles["VM_LG"] == method_styles(["voxelmorph-lg"])["voxelmorph-lg"]
    assert styles["Deform-GAN-2"] == method_styles(["deform_gan_2", "mi-fluid"])["deform_gan_2"]
    known = method_styles(
        ["identity", "mi-fluid", "deform-gan-1", "deform-gan-2", "deformgan", "deformgan-net"]
        + [f"voxelmorph-{loss}" for loss in ("mi", "ngf", "lcc", "lg")]
        + list("abcdef")
    )
    assert len({style.colour for style in known.values()}) == len(known)
    assert len({(style.marker, style.line) for style in known.values()}) == len(known), "told apart without colour"


@pytest.mark.parametrize("spread", ["se", "sd", "ci"])
def test_spreads(spread: Any) -> None:
    values = np.array([1.0, 2.0, 4.0, 7.0])
    expected = {"sd": values.std(ddof=1), "se": stats.sem(values)}
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    expected["ci"] = (high - low) / 2
    mean, half = mean_and_spread(values, spread)
    assert mean == 3.5
    assert half == pytest.approx(expected[spread])
    assert mean_and_spread(values[:1], spread) == (1.0, 0.0)


def test_studies_put_methods_in_the_order_asked_for(tmp_path: Path) -> None:
    study = Study("Window n", {"voxelmorph-lg": "7", "deform-gan-2": "9"})
    figure = study_figure(_sweep(), tmp_path / "s.png", [study], ("error_mean",), "sd")
    (axis,) = _shown(figure)
    assert axis.get_title() == "Window n"
    assert [text.get_text() for text in axis.get_xticklabels()] == ["7", "9"]
    means = [container.lines[0].get_ydata()[0] for container in axis.containers]
    np.testing.assert_allclose(means, [4.15, 2.15])
    dots = axis.lines[0]
    assert len(dots.get_ydata()) == 24, "every case is there"
    with pytest.raises(UsageError, match="no scores of lg-window-3"):
        study_figure(_sweep(), tmp_path / "s.png", [Study("T", {"lg-window-3": "3"})])
    with pytest.raises(InputError, match="no scores"):
        study_figure([], tmp_path / "s.png", [study])


def test_accuracy_against_time_has_a_point_for_each_method_and_device(tmp_path: Path) -> None:
    rows = [_row("identity", 0, 9.0, device="cpu"), _row("deformgan", 0, 1.0, device="cpu")]
    rows += [_row("deformgan", 0, 1.5, device="cuda") | {"seconds": 0.1}, _row("x", 0, 3.0) | {"seconds": None}]
    figure = accuracy_time_figure(rows, tmp_path / "a.png")
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    points = {c.get_label(): c.lines[0] for c in axis.containers}
    assert set(points) == {"no registration, cpu", "deformgan, cpu", "deformgan, cuda"}
    assert points["deformgan, cuda"].get_data() == ([0.1], [1.5])
    assert points["deformgan, cuda"].get_markerfacecolor() == "white"
    assert points["deformgan, cpu"].get_markerfacecolor() == points["deformgan, cpu"].get_color()


def test_learning_curves_against_step_and_time(tmp_path: Path) -> None:
    slow = [{"step": k, "t_loss": 1.0 / k, "seconds": 7200.0} for k in range(1, 601)]
    for row in slow[99::100]:
        row["val_error"] = 600.0 / row["step"]
    figure = training_figure({"voxelmorph-lg": slow, "new": slow[:5]}, tmp_path / "t.png")
    loss, loss_in_time, error, error_in_time = figure.axes
    assert error_in_time.get_xlabel() == "hours"
    x, y = loss.lines[0].get_data()
    assert len(x) == 120
    assert y[0] == pytest.approx(np.mean([1.0 / k for k in range(1, 6)])), "means of five steps"
    np.testing.assert_allclose(error.lines[0].get_data(), ([100, 200, 300, 400, 500, 600], [6, 3, 2, 1.5, 1.2, 1]))
    np.testing.assert_allclose(error_in_time.lines[0].get_xdata(), 2 * error.lines[0].get_xdata())
    assert len(loss_in_time.lines) == 2
    assert len(error.lines) == 1, "a run without validation has no curve there"
    with pytest.raises(InputError, match="nothing to draw"):
        training_figure({"empty": []}, tmp_path / "t.png")


def test_learning_curves_are_cut_where_the_resolution_changes(tmp_path: Path) -> None:
    rows = [{"step": k, "t_loss": float(k), "seconds": 1.0, "scale": 0.25 if k <= 300 else 0.5} for k in range(1, 311)]
    loss, loss_in_time, *_ = training_figure({"new": rows}, tmp_path / "t.png").axes
    coarse, fine = loss_in_time.lines
    assert coarse.get_ydata().max() < 300.5 < fine.get_ydata().min()
    assert len(coarse.get_xdata()) == round(120 * 300 / 310)
    assert [text.get_text() for text in loss.texts] == ["½ resolution"]
    assert loss.lines[-1].get_xdata()[0] == 300.5


def test_time_adds_up_over_resumes_and_skipped_rows() -> None:
    rows = [{"step": s, "seconds": t} for s, t in ((10, 2.0), (20, 2.0), (30, 5.0))]
    np.testing.assert_allclose(elapsed_seconds(rows), [20, 40, 90])
    assert json.dumps(elapsed_seconds(rows).tolist())
