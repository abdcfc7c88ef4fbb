"""The report: correct PNGs, colours that mean what they say, escaped names, checked files, a browser's word."""

from __future__ import annotations

import html
import importlib.util
import io
import json
import os
import re
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import Phantom, write_nifti

from deformgan import outputs
from deformgan.cli import main
from deformgan.image import load_image
from deformgan.provenance import describe_input, sha256
from deformgan.report import png, views
from deformgan.report.page import rebuild_report
from deformgan.transform import Transform

HOSTILE = "<img src=x onerror=alert(1)>.nii.gz"
QUALITY = {
    "passed": True, "reasons": [], "folding_percent": 0.0, "jacobian_min": 0.7, "jacobian_max": 1.4,
    "displacement_mean_mm": 2.0, "displacement_max_mm": 6.0, "similarity_before": 0.1, "similarity_after": 0.3,
    "initial_shift_mm": 0.0, "inverse_residual_mm": None,
}  # fmt: skip
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_png_holds_the_pixels(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, shape, np.uint8)
    read = matplotlib.image.imread(io.BytesIO(png.encode(pixels)), format="png")
    assert np.array_equal((read * 255).round().astype(np.uint8), pixels)


def test_colours_of_the_volume_change() -> None:
    drawn = views.jacobian_map(np.array([[0.5, 1.0, 2.0, -1.0, 1.0]]), np.array([[True, True, True, True, False]]))[0]
    assert drawn[0].tolist() == views.JACOBIAN_COLOURS[0].tolist()
    assert drawn[1].tolist() == [247, 247, 247]
    assert drawn[2].tolist() == views.JACOBIAN_COLOURS[-1].tolist()
    assert drawn[3].tolist() == [255, 0, 200]
    assert drawn[4].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("plane", "across", "up"), [("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2)])
def test_grid_lines_go_where_the_map_takes_them(plane: str, across: int, up: int) -> None:
    """A shift of whole voxels moves every line as it moves a voxel of the picture."""
    mask = np.ones((6, 8), bool)
    displacement = np.zeros((6, 8, 3))
    displacement[..., across], displacement[..., up] = 2, 1
    still, moved = (next(views.grid_lines(d, mask, plane, 3.0)) for d in (0 * displacement, displacement))
    start = [[float(n) for n in re.findall(r"-?[\d.]+", path)[:2]] for path in (still, moved)]
    assert np.subtract(*start[::-1]).tolist() == [-2, -1]
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    shifted = np.roll(volume, (-1 if across == 0 else 0, -1 if across == 1 else 0, 0), (0, 1, 2))
    pictures = [views.cut(v, plane, (2, 2, 2)) for v in (volume, shifted)]
    assert np.array_equal(np.roll(pictures[0], 1, 1), pictures[1])


@pytest.fixture
def folder(tmp_path: Path, phantom: Phantom) -> Path:
    """Results of a smooth map between two files of hostile names."""
    out = tmp_path / "out"
    out.mkdir()
    paths = {
        "fixed": write_nifti(tmp_path / HOSTILE, phantom.t2, phantom.affine),
        "moving": write_nifti(tmp_path / "moving & more.nii.gz", phantom.t1, phantom.affine),
    }
    fixed, moving = (load_image(path) for path in paths.values())
    field = torch.zeros(1, 3, *phantom.t1.shape)
    field[:, 0] = 1.5 * torch.sin(torch.linspace(0, 6, phantom.t1.shape[1]))[:, None]
    transform = Transform.from_field(fixed.grid, moving.grid, field)
    transform.apply(moving, fixed.grid).save(out / "moved.nii.gz")
    transform.save(out / "warp.nii.gz", fixed.grid)
    record = {
        "quality": QUALITY,
        "inputs": {role: describe_input(path) for role, path in paths.items()},
        "timings": {"predict": 0.5, "total": 0.5},
        "notes": [],
        "output_sha256": {name: sha256(out / name) for name in ("moved.nii.gz", "warp.nii.gz")},
    }
    (out / outputs.RECORD).write_text(json.dumps(record))
    return out


def test_the_page_escapes_names_and_asks_for_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--light", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)


def test_a_failed_check_and_notes_are_told(folder: Path) -> None:
    record = json.loads((folder / outputs.RECORD).read_text())
    for change, words in (
        (
            {"quality": {**QUALITY, "passed": False, "reasons": ["it <folds>"]}},
            "<strong>Fail.</strong> it &lt;folds&gt;",
        ),
        ({"notes": ["odd image"]}, "<strong>Pass, but look.</strong> odd image"),
    ):
        (folder / outputs.RECORD).write_text(json.dumps(record | change))
        assert words in rebuild_report(folder, viewer=False).read_text()


def test_missing_and_changed_files_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(folder / "moved.nii.gz", "ab") as file:
        file.write(b"\0")
    assert main(["report", str(folder)]) == 3
    assert "moved.nii.gz is not the file that was registered" in capsys.readouterr().err
    (folder / "moved.nii.gz").unlink()
    assert main(["report", str(folder)]) == 3
    assert "moved.nii.gz is missing" in capsys.readouterr().err
    (folder / outputs.RECORD).write_text("[1]")
    assert main(["report", str(folder)]) == 3
    assert "not the record of a registration" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright: pip install playwright")
def test_a_browser_shows_it(folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    rebuild_report(folder)
    with sync_playwright() as play:
        flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = play.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce").new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url[:99]))
        address = (folder / "report.html").as_uri()
        page.goto(address)
        page.wait_for_selector("html[data-viewer=ready]", timeout=30_000)
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [address]
        for side in ("left", "right"):
            page.locator(f"#{side}").scroll_into_view_if_needed()
            page.wait_for_timeout(300)
            seen = matplotlib.image.imread(io.BytesIO(page.locator(f"#{side}").screenshot()), format="png")
            assert seen[..., :3].std() > 0.05, f"the {side} canvas is empty"
        assert page.inner_text("#play") == "Play", "it must not move where motion is not wanted"
        page.focus("#play")
        page.keyboard.press("Enter")
        assert page.inner_text("#play") == "Pause"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.inner_text("#play") == "Play"
        shown = page.get_attribute("#flicker", "class")
        page.keyboard.press("Enter")
        assert page.get_attribute("#flicker", "class") != shown
        for _ in range(20):
            page.keyboard.press("Tab")
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("document.images.length && [...document.images].every(i => i.naturalWidth > 0)")
        assert page.pdf()[:5] == b"%PDF-"
        if pictures := os.environ.get("DEFORMGAN_SCREENSHOTS"):
            for width, scheme in ((360, "light"), (1200, "light"), (1200, "dark")):
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=f"{pictures}/{width}-{scheme}.png", full_page=True)
        browser.close()
    assert not said
