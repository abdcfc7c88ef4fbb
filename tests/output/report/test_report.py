"""The report's page: every panel that has something to show, escaped names, checked files, nothing asked for."""

from __future__ import annotations

import copy
import gzip
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

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
from deformgan.models.load import Translator, load_generator, load_model
from deformgan.networks import build
from deformgan.output import folder as outputs
from deformgan.output.provenance import describe_input, sha256
from deformgan.output.report import page as page_module
from deformgan.output.report.figures import Reason, figures, origin, verdict
from deformgan.output.report.material import Material
from deformgan.output.report.page import Pictures, render
from deformgan.output.report.rebuild import rebuild_report
from deformgan.output.report.synthesis import synthesise
from deformgan.preprocess.conform import conform
from deformgan.spatial.grid import Grid
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
def shown() -> Material:
    return small_report.material()


def test_the_page_has_every_panel(shown: Material) -> None:
    page = render(small_report.record(), Pictures.of(shown, viewer=False))
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Before and after", "Difference of edges", "Displacement", "Volume change", "Expected error", "Synthesis",
        "Images", "Numbers", "Methods", "Provenance",
    ]  # fmt: skip
    assert page.index("<strong>Look.</strong>") < page.index("<h2>")
    assert "In places edges would match" in page
    assert "some places are off" in page, "the cause is told in plain words"
    assert "grew to 2 ×" in page
    assert "6 mm</span>" in page
    # three pictures in each of 21 places, a row each for displacement, its grid, volume change, error and G, two of
    # edges, and the fixed image again beside G's
    assert page.count("<img ") == 21 * (3 + 5 + 2 + 1)
    assert all(alt for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page))
    assert len(page) < 1_500_000, "the page without the viewer is a small file"


def test_every_slice_has_its_letters_and_its_place(shown: Material) -> None:
    page = render(small_report.record(), Pictures.of(shown, viewer=False))
    cells = page.split('class="cell"')[1:]
    letters = ["".join(re.findall(r"<b>(.)</b>", cell)) for cell in cells]
    assert letters[:21] == ["RLAP"] * 7 + ["RLSI"] * 7 + ["APSI"] * 7
    assert set(letters) == {"RLAP", "RLSI", "APSI"}
    places = [re.findall(r'class="place">(.) = ([−\d.]+)<', cell)[0] for cell in cells[:21]]
    assert [axis for axis, _ in places] == ["z"] * 7 + ["y"] * 7 + ["x"] * 7
    values = [float(value.replace("−", "-")) for _, value in places]
    for start in (0, 7, 14):
        gaps = np.diff(values[start : start + 7])
        assert (gaps > 0).all()
        assert np.ptp(gaps) <= 2, "slices lie at equal distances, but for rounding"


def test_panels_with_nothing_in_them_are_left_out() -> None:
    bare = render(small_report.record(), Pictures.of(small_report.bare(), "No G.", viewer=False))
    titles = re.findall(r"<h2>(.*?)</h2>", bare)
    assert {"Expected error", "Synthesis"}.isdisjoint(titles)
    assert re.findall(r'data-mark="(\w+)"', bare) == ["outline"]
    omitted = bare[bare.index("Left out: ") :]
    assert "deformgan register --uncertainty" in omitted
    assert "No G." in omitted
    still = small_report.material(transform=Transform.identity(), moved=small_report.material().moving)
    titles = re.findall(r"<h2>(.*?)</h2>", render(small_report.record(), Pictures.of(still, viewer=False)))
    assert "Volume change" not in titles
    for text in (bare, render(small_report.record(), Pictures.of(still, viewer=False))):
        assert set(re.findall(r'href="#([\w-]+)"', text)) <= set(re.findall(r' id="([\w-]+)"', text))
    whole = render(small_report.record(), Pictures.of(small_report.material(), viewer=False))
    assert re.findall(r'data-mark="(\w+)"', whole) == ["outline", "labels", "lesion", "points"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_whatever_a_file_is_called_it_is_text(shown: Material, name: str) -> None:
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
        return render(record, Pictures.of(shown, word, viewer=False))

    harmless, hostile = _Outline(page("harmless.nii.gz")), _Outline(page(name))
    assert hostile.tags == harmless.tags
    assert name in hostile.text


def test_a_name_that_is_no_text_is_written_too(tmp_path: Path) -> None:
    """A file name on disk is bytes; Python carries those that are no UTF-8 as lone surrogates."""
    odd = b"scan\xff.nii.gz".decode("utf-8", "surrogateescape")
    inputs = {role: {"path": odd, "sha256": None} for role in ("fixed", "moving")}
    assert "scan?.nii.gz" in small_report.write(tmp_path / "r.html", viewer=False, inputs=inputs).read_text("utf-8")


def test_the_page_asks_for_nothing(shown: Material) -> None:
    page = render(small_report.record(), Pictures.of(shown, viewer=False))
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?!data:|#)[\w/.]""", page.split("<details>")[0])


def test_the_same_registration_gives_the_same_page(tmp_path: Path) -> None:
    pages = [small_report.write(tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]
    volumes = json.loads(re.findall(rb'id="volumes"[^>]*>(.*?)</script>', pages[0])[0])
    assert [volume["name"] for volume in volumes] == [
        "fixed", "moved", "change", "displacement", "error", "labels", "lesion"
    ]  # fmt: skip
    assert all(volume["data"].startswith("H4sIAAAAAAA") for volume in volumes), "gzip's header holds no time"
    assert len(pages[0]) < 6_000_000


def test_verdicts_and_notes_are_told(shown: Material) -> None:
    for quality, notes, words in (
        (
            {"verdict": "fail", "passed": False, "reasons": ["it <folds>"]},
            [],
            ["<strong>Fail.", "<li><span>It &lt;folds&gt;."],
        ),
        ({"verdict": "look", "doubts": ["odd edges"]}, [], ["<strong>Look.", "<li><span>Odd edges.</span></li>"]),
        ({"verdict": "pass", "doubts": []}, ["odd image"], ["<strong>Pass.", "Note: Odd image."]),
    ):
        record = small_report.record(quality=small_report.QUALITY | quality, notes=notes)
        page = render(record, Pictures.of(shown, viewer=False))
        assert all(word in page for word in words)
    # records from before there were three words
    old = {"quality": {"passed": False, "reasons": ["a"]}, "inputs": {}, "timings": {}}
    assert (verdict(old).word, verdict(old).because) == ("fail", [Reason("A.", "")])
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


def test_the_viewer_is_the_one_that_is_named_and_brings_its_licences(shown: Material) -> None:
    tool = (REPOSITORY / "tools" / "vendor_niivue.py").read_text(encoding="utf-8")
    assets = REPOSITORY / "src" / "deformgan" / "output" / "report" / "assets"
    assert f'VERSION = "@niivue/niivue", "{page_module.NIIVUE_VERSION}"' in tool
    bundle = gzip.decompress((assets / "niivue.umd.js.gz").read_bytes())
    assert hashlib.sha256(bundle).hexdigest() == page_module.NIIVUE_SHA256
    licences = (assets / "niivue.LICENSES.txt").read_text(encoding="utf-8")
    notice = (REPOSITORY / "NOTICE").read_text(encoding="utf-8")
    assert f"@niivue/niivue {page_module.NIIVUE_VERSION} (BSD-2-Clause)" in licences
    assert f"NiiVue {page_module.NIIVUE_VERSION} " in notice
    for name in re.findall(r"^(@?[\w./-]+) \^?[\d.]+ \((?:MIT|ISC)\)$", licences, re.MULTILINE):
        assert name in notice
    assert licences.count("Copyright") >= 13
    assert html.escape(licences.strip(), quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in render(
        small_report.record(), Pictures.of(shown)
    )


# -- the generator's image -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "both", generator=True)


def test_a_registration_with_g_shows_what_it_makes(pair_files: PairFiles, tmp_path: Path, with_generator: Path) -> None:
    out, fixed, moving = tmp_path / "out", str(pair_files.fixed), str(pair_files.moving)
    words = ["-f", fixed, "-m", moving, "-o", str(out), "--model", str(with_generator), "--refine-steps", "0"]
    assert main(["register", *words, "--threads", "1"]) in (0, 4)
    record = json.loads((out / outputs.RECORD).read_text(encoding="utf-8"))
    assert record["model"]["generator"] == sha256(with_generator / "generator.safetensors")
    page = (out / outputs.REPORT).read_text(encoding="utf-8")
    assert "made by the generator, axial slice" in page
    again = rebuild_report(out).read_text(encoding="utf-8")
    assert _Outline(again).tags == _Outline(page).tags, "the page of the folder has what that of the registration has"
    assert json.dumps(record, indent=2) in html.unescape(again)
    # the picture is what G makes of the moved image on the grid it was trained on
    images = [load_image(path) for path in (fixed, out / "moved.nii.gz")]
    made = synthesise(record, *images).image
    assert made is not None
    grid = conform(images[0], (32, 36, 28), 5.0).grid
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
    for page in (
        (out / outputs.REPORT).read_text(encoding="utf-8"),
        rebuild_report(out, viewer=False).read_text(encoding="utf-8"),
    ):
        assert "affine stage (rigid): a search over all rotations" in page
        assert "No network was run" in page
        assert "none: no network was run" in page


def test_without_g_a_sentence_says_why(tmp_path: Path, with_generator: Path) -> None:
    fixed, moved = small_report.material().fixed, small_report.material().moved
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
        assert words in found.told
    empty = Image(np.zeros_like(moved.data), moved.grid)
    model = {"name": str(with_generator), "generator": checksum}
    assert "brings nothing of the moving image" in synthesise({"model": model}, fixed, empty).told
    (alone / "generator.safetensors").write_bytes(b"no weights")
    assert "is damaged" in synthesise({"model": {"name": str(alone), "generator": checksum}}, fixed, moved).told


@pytest.mark.parametrize(("voxels", "least", "most"), [(0, 99, 100), (2, 0, 40)])
def test_the_page_says_whether_g_moves_what_it_draws(
    monkeypatch: pytest.MonkeyPatch, phantom: Phantom, voxels: int, least: int, most: int
) -> None:
    class Shifts(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return -torch.roll(image, voxels, 2)  # the other contrast, so many voxels off

    image = Image(phantom.t1, Grid(phantom.t1.shape, phantom.affine))
    grid = ((32, 32, 32), float(image.grid.spacing[0]) * max(image.grid.shape) / 32)
    translator = Translator(Shifts(), grid, 1, "0" * 64)  # type: ignore[arg-type]
    monkeypatch.setattr("deformgan.output.report.synthesis.load_generator", lambda name: translator)
    told = synthesise({"model": {"name": "any", "generator": "0" * 64}}, image, image).told
    share = int(re.search(r"In (\d+) % of the content", told).group(1))  # type: ignore[union-attr]
    assert least <= share <= most


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
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert len(page) < 1_000_000


def test_the_maps_of_the_folder_are_shown(folder: Path) -> None:
    """What jacobian.nii.gz and uncertainty.nii.gz hold is what is drawn, and they are checked like the rest."""
    without = rebuild_report(folder, viewer=False).read_text(encoding="utf-8")
    moved = load_image(folder / "moved.nii.gz")
    ones = np.ones(moved.grid.shape, np.float32)
    record = json.loads((folder / outputs.RECORD).read_text(encoding="utf-8"))
    for name, values in {"jacobian": 2 * ones, "uncertainty": 3 * ones}.items():
        Image(values, moved.grid).save(folder / f"{name}.nii.gz")
        record["output_sha256"][f"{name}.nii.gz"] = sha256(folder / f"{name}.nii.gz")
    (folder / outputs.RECORD).write_text(json.dumps(record))
    page = rebuild_report(folder, viewer=False).read_text(encoding="utf-8")
    assert "The expected error was not mapped" in without
    assert "<span>3 mm</span>" in page
    assert "changes every volume alike" in page
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
    whole = json.loads((folder / outputs.RECORD).read_text(encoding="utf-8"))
    corrupted = ["[1]", "{", "[" * 100_000, "null"]
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
        corrupted.append(json.dumps(new))
    for text in corrupted:
        (folder / outputs.RECORD).write_text(text)
        assert main(["report", str(folder)]) == 3, text[:80]
        assert "not the record of a registration" in capsys.readouterr().err
