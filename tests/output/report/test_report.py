"""The report: correct PNGs, colours that mean what they say, escaped names, checked files, every panel or a reason."""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import small_report
import torch
import torch.nn.functional as F
from conftest import PairFiles, Phantom, write_nifti
from documents import REPOSITORY
from tiny import GENERATOR, write_tiny_model

from deformgan.commands.main import main
from deformgan.errors import InputError
from deformgan.io.image import Image, load_image
from deformgan.models.load import load_generator, load_model
from deformgan.networks import build
from deformgan.output import folder as outputs
from deformgan.output.provenance import describe_input, sha256
from deformgan.output.report import page as page_module
from deformgan.output.report import png, views
from deformgan.output.report.figures import figures, origin, verdict
from deformgan.output.report.page import render
from deformgan.output.report.rebuild import rebuild_report
from deformgan.output.report.synthesis import synthesise
from deformgan.output.report.volumes import Shown, gather
from deformgan.preprocess.conform import conform
from deformgan.transforms.transform import Transform

HOSTILE = "<img src=x onerror=alert(1)>.nii.gz"
NAMES = [
    HOSTILE,
    "</title></pre><script>alert(1)</script>.nii.gz",
    '" onmouseover="alert(1)" x=\'y\' `z`.nii.gz',
    "{{ 7*7 }}{% raw %} &lt;b&gt; &amp;.nii.gz",
    "Ärzte 脳 مخ \u202ezg.iin \u0301\U0001f9e0.nii.gz",
    "--><!--]]>.nii.gz",
    "n" * 250,
    "line\nbreak\tand\x07bell.nii.gz",
]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1), (120, 90)])
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


def test_the_legends_have_the_colours_of_the_maps() -> None:
    style = (Path(views.__file__).parent / "assets" / "report.css").read_text()
    for key, colours in (("jac", views.JACOBIAN_COLOURS), ("unc", views.UNCERTAINTY_COLOURS)):
        stops = ",".join("#" + "".join(f"{int(v):02x}" for v in colour) for colour in colours)
        assert f".key.{key}{{background:linear-gradient(90deg,{stops})}}" in style


def test_edges_inside_are_drawn_although_the_rim_is_steeper() -> None:
    image, mask = np.zeros((40, 40)), np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    image[mask] = 1.0
    image[15:25, 15:25] = 0.8
    lines = views.edges(image, mask)
    assert lines[14:26, 14:26].sum() > 20
    assert lines[5, 5:35].sum() > 20
    assert not lines[8:12, 8:12].any()
    assert not views.edges(image, np.zeros_like(mask)).any()


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


# -- the page --------------------------------------------------------------------------------------------------------


class _Outline(HTMLParser):
    """Tags and attribute names of a page in their order, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[Any] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attributes]))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def shown() -> Shown:
    *images, transform, doubt, made = small_report.volumes()
    return gather(*images, transform, uncertainty=doubt, synthesis=made.image)


def test_the_page_has_every_panel(shown: Shown) -> None:
    page = render(small_report.record(), shown, viewer=False)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Flicker", "Checkerboard", "Edges of the moved image on the fixed one", "Warped grid", "Volume change",
        "Uncertainty", "Synthesis", "Numbers", "Provenance",
    ]  # fmt: skip
    assert page.index("<strong>Look.</strong>") < page.index("<h2>")
    assert "in places edges would match" in page
    assert "6 mm and more" in page
    assert page.count("<svg") == 3
    # every picture that is no repetition says what it shows
    assert all(alt for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page.split('class="row printed"')[0]))


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_whatever_a_file_is_called_it_is_text(shown: Shown, name: str) -> None:
    def page(word: str) -> str:
        path = f"folder/{word}"
        record = small_report.record(
            inputs={role: {"path": path, "sha256": word} for role in ("fixed", "moving", "init")},
            notes=[word],
            arguments={"fixed": path, word: word},
            model={"name": path, "sha256": word, "network": {"kind": word}},
            timings={word: 1.0, "total": 1.0},
            started=word,
        )
        record["quality"] = record["quality"] | {"verdict": "fail", "passed": False, "reasons": [word], word: 1.5}
        record["settings"] = record["settings"] | {"init": path, word: word}
        record["environment"] = record["environment"] | {"system": word}
        return render(record, shown, no_synthesis=word, viewer=False)

    harmless, hostile = _Outline(page("harmless.nii.gz")), _Outline(page(name))
    assert hostile.tags == harmless.tags
    assert name in hostile.text


def test_a_name_that_is_no_text_is_written_too(tmp_path: Path) -> None:
    """A file name on disk is bytes; Python carries those that are no UTF-8 as lone surrogates."""
    odd = b"scan\xff.nii.gz".decode("utf-8", "surrogateescape")
    inputs = {role: {"path": odd, "sha256": None} for role in ("fixed", "moving")}
    assert "scan?.nii.gz" in small_report.write(tmp_path / "r.html", viewer=False, inputs=inputs).read_text("utf-8")


def test_the_page_asks_for_nothing(shown: Shown) -> None:
    page = render(small_report.record(), shown, viewer=False)
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?!data:|#)[\w/.]""", page.split("<details>")[0])


def test_the_same_registration_gives_the_same_page(tmp_path: Path) -> None:
    pages = [small_report.write(tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]
    assert pages[0].count(b"H4sIAAAAAAA") == 3, "gzip's header holds no time"


def test_verdicts_and_notes_are_told(shown: Shown) -> None:
    for quality, notes, words in (
        (
            {"verdict": "fail", "passed": False, "reasons": ["it <folds>"]},
            [],
            ["<strong>Fail.", "<li>it &lt;folds&gt;"],
        ),
        ({"verdict": "look", "doubts": ["odd edges"]}, [], ["<strong>Look.", "<li>odd edges</li>"]),
        ({"verdict": "pass", "doubts": []}, ["odd image"], ["<strong>Pass.", "Note: odd image."]),
    ):
        record = small_report.record(quality=small_report.QUALITY | quality, notes=notes)
        page = render(record, shown, viewer=False)
        assert all(word in page for word in words)
    # records from before there were three words
    old = {"quality": {"passed": False, "reasons": ["a"]}, "inputs": {}, "timings": {}}
    assert (verdict(old).word, verdict(old).because) == ("fail", ["a"])
    assert verdict({"quality": {"passed": True}}).word == "pass"


def test_figures_have_names_and_units() -> None:
    groups = dict(figures(small_report.record()))
    assert list(groups) == ["Agreement of the images", "The map", "Its affine part"]
    told = {name: value for rows in groups.values() for name, value, _ in rows}
    assert told["Error of the inverse"] == "not known"
    assert told["Displacement, largest"] == "6.0 mm"
    assert told["Rotation"] == "1.2°"
    assert told["Stretch"] == "1.020, 1.000, 0.990"
    assert told["Start"] == "where the headers place the images"
    known = {key for key, value in small_report.QUALITY.items() if isinstance(value, float | int | None)} - {"passed"}
    assert sum(len(groups[title]) for title in list(groups)[:2]) == len(known), "a figure is not told"
    new = small_report.record(quality=small_report.QUALITY | {"a_new_one": 0.123456})
    assert dict(figures(new))["More"] == [("a new one", "0.1235", "")]


@pytest.mark.parametrize(
    ("settings", "shift", "words"),
    [
        ({"transform": "deform", "init": False}, 8.0, "the contents' centres together"),
        ({"transform": "deform", "init": "a/b.txt"}, 0.0, "b.txt"),
        ({"transform": "deform", "init": True}, 0.0, "a map in memory"),
        (
            {"transform": "joint", "init": "a/b.txt"},
            0.0,
            "affine stage (joint): a search over all rotations, near b.txt",
        ),
        ({"transform": "rigid", "init": False}, 0.0, "affine stage (rigid): a search over all rotations"),
        ({}, 0.0, None),
    ],
)
def test_the_start_is_told(settings: dict[str, Any], shift: float, words: str | None) -> None:
    quality = small_report.QUALITY | {"initial_shift_mm": shift}
    rows = dict(figures(small_report.record(settings=settings, quality=quality)))["Its affine part"]
    assert dict(row[:2] for row in rows).get("Start") == words


def test_the_origin_names_inputs_weights_and_settings() -> None:
    rows = {name: (text, checksum) for name, text, checksum in origin(small_report.record())}
    assert rows["fixed"] == ("patient/T2.nii.gz", "a" * 64)
    assert rows["weights"] == ("t1-t2", "0123456789abcdef" * 4)
    assert "working grid 112×128×96" in rows["settings"][0]
    assert "refine steps 150" in rows["settings"][0]
    assert "init none" in rows["settings"][0]
    nothing = origin(small_report.record(model={}, inputs={"fixed": {"path": None, "sha256": None}}))
    assert ("weights", "none: no network was run", "") in nothing
    assert ("fixed", "in memory, no file", "") in nothing


def test_the_viewer_is_the_one_that_is_named_and_brings_its_licences(shown: Shown) -> None:
    tool = (REPOSITORY / "tools" / "vendor_niivue.py").read_text()
    assets = REPOSITORY / "src" / "deformgan" / "output" / "report" / "assets"
    assert f'VERSION = "@niivue/niivue", "{page_module.NIIVUE_VERSION}"' in tool
    bundle = gzip.decompress((assets / "niivue.umd.js.gz").read_bytes())
    assert hashlib.sha256(bundle).hexdigest() == page_module.NIIVUE_SHA256
    licences = (assets / "niivue.LICENSES.txt").read_text()
    notice = (REPOSITORY / "NOTICE").read_text()
    assert f"@niivue/niivue {page_module.NIIVUE_VERSION} (BSD-2-Clause)" in licences
    assert f"NiiVue {page_module.NIIVUE_VERSION} " in notice
    for name in re.findall(r"^(@?[\w./-]+) \^?[\d.]+ \((?:MIT|ISC)\)$", licences, re.MULTILINE):
        assert name in notice
    assert licences.count("Copyright") >= 13
    assert html.escape(licences.strip(), quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in render(
        small_report.record(), shown
    )


# -- the generator's image -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "both", generator=True)


def test_a_registration_with_g_shows_what_it_makes(pair_files: PairFiles, tmp_path: Path, with_generator: Path) -> None:
    out, fixed, moving = tmp_path / "out", str(pair_files.fixed), str(pair_files.moving)
    words = ["-f", fixed, "-m", moving, "-o", str(out), "--weights", str(with_generator), "--refine", "0"]
    assert main(["register", *words, "--threads", "1"]) in (0, 4)
    record = json.loads((out / outputs.RECORD).read_text())
    assert record["model"]["generator"] == sha256(with_generator / "generator.safetensors")
    page = (out / outputs.REPORT).read_text()
    assert "made by the generator, axial slice" in page
    again = rebuild_report(out).read_text()
    assert _Outline(again).tags == _Outline(page).tags, "the page of the folder has what that of the registration has"
    assert json.dumps(record, indent=2) in html.unescape(again)
    # the picture is what G makes of the moved image on the grid it was trained on
    images = [load_image(path) for path in (fixed, out / "moved.nii.gz")]
    made = synthesise(record, *images).image
    assert made is not None
    grid = conform(images[0], (32, 36, 28), 6.0).grid
    network = build(GENERATOR)
    network.load_state_dict(load_generator(with_generator).network.state_dict())  # type: ignore[union-attr]
    with torch.no_grad():
        expected = (network(2 * F.avg_pool3d(conform(images[1], grid=grid).tensor, 2) - 1) + 1) / 2
    np.testing.assert_allclose(made.data, expected[0, 0].numpy(), atol=1e-5)
    assert made.grid.shape == (16, 18, 14)
    np.testing.assert_allclose(made.grid.centre_mm, grid.centre_mm, atol=1e-6)


def test_a_map_without_a_network_has_its_page(pair_files: PairFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["-f", str(pair_files.fixed), "-m", str(pair_files.moving), "-o", str(out), "--transform", "rigid"]
    assert main(["register", *words, "--threads", "1"]) in (0, 4)
    for page in ((out / outputs.REPORT).read_text(), rebuild_report(out, viewer=False).read_text()):
        assert "affine stage (rigid): a search over all rotations" in page
        assert "No network was run" in page
        assert "none: no network was run" in page


def test_without_g_a_sentence_says_why(tmp_path: Path, with_generator: Path) -> None:
    fixed, _, moved, *_ = small_report.volumes()
    checksum = load_model(with_generator).generator_sha256
    alone = write_tiny_model(tmp_path / "alone")
    assert load_generator(alone) is None
    assert load_model(alone).generator_sha256 is None
    for model, words in (
        ({}, "No network was run"),
        ({"name": "t1-t2"}, "hold the transformation network alone"),
        ({"name": str(with_generator), "generator": "0" * 64}, "not the one of this registration"),
        ({"name": str(alone), "generator": checksum}, "not the one of this registration"),
        ({"name": str(tmp_path / "gone"), "generator": checksum}, "there are no weights named"),
    ):
        found = synthesise({"model": model}, fixed, moved)
        assert found.image is None
        assert words in found.why
    empty = Image(np.zeros_like(moved.data), moved.grid)
    model = {"name": str(with_generator), "generator": checksum}
    assert "brings nothing of the moving image" in synthesise({"model": model}, fixed, empty).why
    (alone / "generator.safetensors").write_bytes(b"no weights")
    assert "is damaged" in synthesise({"model": {"name": str(alone), "generator": checksum}}, fixed, moved).why


def test_a_page_without_uncertainty_and_synthesis(tmp_path: Path) -> None:
    fixed, moving, moved, transform, *_ = small_report.volumes()
    page = render(small_report.record(), gather(fixed, moving, moved, transform), no_synthesis="No G.", viewer=False)
    assert "The expected error was not mapped" in page
    assert "No G." in page
    assert "synthesised" not in page
    bare = render(small_report.record(), gather(fixed, moving, moved, transform), viewer=False)
    for text in (page, bare):
        assert set(re.findall(r'href="#([\w-]+)"', text)) <= set(re.findall(r' id="([\w-]+)"', text))


# -- a folder of results ---------------------------------------------------------------------------------------------


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
        "quality": small_report.QUALITY,
        "inputs": {role: describe_input(path) for role, path in paths.items()},
        "timings": {"predict": 0.5, "total": 0.5},
        "notes": [],
        "output_sha256": {name: sha256(out / name) for name in ("moved.nii.gz", "warp.nii.gz")},
    }
    (out / outputs.RECORD).write_text(json.dumps(record))
    return out


def test_the_command_writes_the_page_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--light", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert len(page) < 1_000_000


def test_the_maps_of_the_folder_are_shown(folder: Path) -> None:
    """What jacobian.nii.gz and uncertainty.nii.gz hold is what is drawn, and they are checked like the rest."""
    without = rebuild_report(folder, viewer=False).read_text()
    moved = load_image(folder / "moved.nii.gz")
    ones = np.ones(moved.grid.shape, np.float32)
    record = json.loads((folder / outputs.RECORD).read_text())
    for name, values in {"jacobian": 2 * ones, "uncertainty": 3 * ones}.items():
        Image(values, moved.grid).save(folder / f"{name}.nii.gz")
        record["output_sha256"][f"{name}.nii.gz"] = sha256(folder / f"{name}.nii.gz")
    (folder / outputs.RECORD).write_text(json.dumps(record))
    page = rebuild_report(folder, viewer=False).read_text()
    assert "The expected error was not mapped" in without
    assert "3 mm and more" in page
    drawn = re.findall(r'src="([^"]*)"[^>]*alt="Map of the volume change, axial', page)[0]
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(drawn.split(",")[1])), format="png")
    colours = {tuple(colour) for colour in (pixels.reshape(-1, 3) * 255).round().astype(int).tolist()}
    assert colours == {(0, 0, 0), tuple(int(v) for v in views.JACOBIAN_COLOURS[-1])}
    record["output_sha256"].pop("jacobian.nii.gz")
    (folder / outputs.RECORD).write_text(json.dumps(record))
    write_nifti(folder / "jacobian.nii.gz", ones[1:], moved.grid.affine)
    with pytest.raises(InputError, match="not on the grid"):
        rebuild_report(folder)
    record["output_sha256"]["jacobian.nii.gz"] = sha256(folder / "jacobian.nii.gz")
    (folder / outputs.RECORD).write_text(json.dumps(record))
    with open(folder / "jacobian.nii.gz", "ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"jacobian\.nii\.gz is not the file"):
        rebuild_report(folder)


def test_missing_and_changed_files_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(folder / "moved.nii.gz", "ab") as file:
        file.write(b"\0")
    assert main(["report", str(folder)]) == 3
    assert "moved.nii.gz is not the file that was registered" in capsys.readouterr().err
    (folder / "moved.nii.gz").unlink()
    assert main(["report", str(folder)]) == 3
    assert "moved.nii.gz is missing — put it back" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        assert main(["report", folder.name]) == 3
    assert "moved.nii.gz is missing — call this from the folder in which it was registered" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


def test_a_damaged_record_is_said_to_be_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.loads((folder / outputs.RECORD).read_text())
    spoilt = ["[1]", "{", "[" * 100_000, "null"]
    for path, value in {
        "quality": [],
        "quality.passed": "yes",
        "quality.verdict": "perhaps",
        "quality.reasons": "none",
        "quality.folding_percent": "<b>",
        "inputs": {"fixed": None},
        "inputs.fixed": "a.nii.gz",
        "inputs.fixed.path": 3,
        "timings": {"total": "long"},
        "notes": "odd",
        "settings": [],
        "model": ["t1-t2"],
        "affine": {"scales": "x"},
        "peak_memory_mb": "much",
    }.items():
        new = copy.deepcopy(whole)
        *outer, last = path.split(".")
        part = new
        for name in outer:
            part = part[name]
        part[last] = value
        spoilt.append(json.dumps(new))
    for text in spoilt:
        (folder / outputs.RECORD).write_text(text)
        assert main(["report", str(folder)]) == 3, text[:80]
        assert "not the record of a registration" in capsys.readouterr().err
