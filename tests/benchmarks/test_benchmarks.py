"""What the benchmarks conclude from their measurements, and that a result never replaces another."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import make_phantom
from scipy import ndimage

from deformgan.spatial.grid import Grid

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        path = next(one for one in (FOLDER / f"{name}.py", FOLDER / name / "run.py") if one.is_file())
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("measuring", None)


def test_a_power_law_is_found_again(script) -> None:
    sizes = [64.0**3, 128.0**3, 320.0**3]
    exponent, factor = script("measuring").power_law(sizes, [3e-6 * n**1.25 for n in sizes])
    assert exponent == pytest.approx(1.25)
    assert factor == pytest.approx(3e-6)


@pytest.mark.parametrize(("sizes", "costs"), [([8, 8], [1, 2]), ([1, 2], [0, 1]), ([1, 2, 3], [1, 2])])
def test_a_power_law_needs_sizes_and_costs_above_zero(script, sizes: list, costs: list) -> None:
    with pytest.raises(ValueError, match="power law"):
        script("measuring").power_law(sizes, costs)


def test_startup_and_cost_of_a_voxel_are_told_apart(script) -> None:
    rows = [
        {
            "side": side,
            "wall_s": 1.5 + 2e-7 * side**3,
            "processor_s": 2.0 + 3e-7 * side**3,
            "peak_mb": 1.0 * side**3,
            "stages_s": {"write": 0.0},
        }
        for side in (64, 128, 192)
    ]
    found = script("scaling").fits(rows)
    assert found["wall_s"]["start"] == pytest.approx(1.5)
    assert found["wall_s"]["per_million_voxels"] == pytest.approx(0.2)
    assert found["processor_s"]["start"] == pytest.approx(2.0)
    assert found["peak_mb"]["exponent"] == pytest.approx(1.0)
    assert found["stage: write"]["exponent"] == pytest.approx(0.0, abs=1e-9)


def test_results_are_added_and_never_replaced(script, tmp_path: Path) -> None:
    keep = script("measuring").keep
    paths = [keep("speed", {"run": run}, tmp_path) for run in range(3)]
    assert len(set(paths)) == 3
    assert [json.loads(path.read_text())["run"] for path in paths] == [0, 1, 2]


def test_operations_of_a_product_and_a_convolution_are_counted(script) -> None:
    roofline = script("roofline")
    assert roofline.counted(lambda: torch.ones(3, 5) @ torch.ones(5, 7)) == 2 * 3 * 5 * 7
    volume, kernel = torch.ones(1, 2, 4, 4, 4), torch.ones(3, 2, 3, 3, 3)
    assert roofline.counted(lambda: torch.nn.functional.conv3d(volume, kernel, padding=1)) == 2 * 3 * 2 * 27 * 4**3


def test_the_page_shows_every_result(script, tmp_path: Path) -> None:
    page = script("page")
    folders = {kind: tmp_path / kind / "results" for kind in ("scaling", "speed")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    row = {"wall_s": 2.0, "processor_s": 3.0, "peak_mb": 500.0, "stages_s": {"read": 0.1}}
    rows = [{"side": side, "threads": 1, **row} for side in (64, 128)]
    fits = {"1": {"wall_s": {"exponent": 0.5, "start": 1.0, "per_million_voxels": 0.25}}}
    result = {
        "machine": {"processor": "a <b> c", "cores": 2, "load": 0.1},
        "refine_steps": 0,
        "rows": rows,
        "fits": fits,
    }
    (folders["scaling"] / "2026-01-02T030405-scaling.json").write_text(json.dumps(result))
    older = {"machine": {}, "threads": 2, "rows": {"T": {"median_s": 0.25, "best_s": 0.2}}}
    (folders["speed"] / "2026-01-01T030405-speed.json").write_text(json.dumps(older))
    kept = page.found(tmp_path)
    text = page.page(kept)
    assert "| 64³ | 1 | 2.00 | 3.00 | 500 |" in text
    assert "| T | 0.250 | 0.200 | – |" in text
    page.curves(kept["scaling"][0][1], tmp_path / "a.svg")
    page.curves(kept["scaling"][0][1], tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_tumour_is_replaced_by_the_other_side(script) -> None:
    """One half of the phantom has a tumour: its place then shows white matter, and nothing else has changed."""
    lesions = script("lesions")
    phantom = make_phantom(texture=0.0)
    tumour = phantom.labels == 100
    images = {"t1": phantom.t1, "t2": phantom.t2}
    cleared = lesions.without_tumour(images, tumour, Grid(phantom.labels.shape, phantom.affine))
    far = ~np.asarray(ndimage.binary_dilation(tumour, iterations=lesions.WIDENED), bool)
    middle = ndimage.binary_erosion(tumour, iterations=1)
    for name, white in (("t1", 0.85), ("t2", 0.35)):
        np.testing.assert_array_equal(cleared[name][far], images[name][far])
        assert np.median(np.abs(cleared[name][middle] - white)) < 0.02


def test_the_table_of_lesions_has_the_size_of_the_error(script) -> None:
    lesions = script("lesions")

    def found(volume: float) -> dict[str, float]:
        return {"volume_error_percent": volume, "after_ml": 9.0, "error_inside_vox": 1.0, "error_outside_vox": 0.5}

    rows = [
        {"case": name, "before_ml": 10.0, "true_ml": 10.0, "plain": found(-v), "masked": found(1.0)}
        for name, v in (("a", 10.0), ("b", -20.0))
    ]
    assert lesions.summary(rows)["plain"] == {
        "volume_error_percent": 5.0, "absolute": 15.0, "error_inside_vox": 1.0, "error_outside_vox": 0.5
    }  # fmt: skip
    assert lesions.table(rows).count("\n") == 4
    assert "| 15.0 | 1.0 |" in lesions.table(rows).splitlines()[-1]


def test_ratios_are_of_one_round(script) -> None:
    """A machine that slows down between rounds slows all tools, and their ratios stay."""
    seconds = script("rivals/seconds")
    rounds = [
        {
            "greedy-nmi": {"s": 20.0 * slow, "processor_s": 30.0},
            "deformgan": {"s": 4.0 * slow, "processor_s": 6.0 * slow},
        }
        for slow in (1, 3, 2)
    ]
    found = seconds.summary(rounds)
    assert found["greedy-nmi"]["s"] == 40
    assert found["deformgan"]["s_ratios"] == pytest.approx([0.2] * 3)
    assert found["deformgan"]["processor_s_ratio"] == pytest.approx(0.4)
    assert "s_ratio" not in seconds.summary([{"deformgan": {"s": 4.0, "processor_s": 6.0}}])["deformgan"]
