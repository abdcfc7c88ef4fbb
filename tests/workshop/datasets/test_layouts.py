"""Every layout is recognised and read; what is wrong with a case is told in a sentence, and the rest is used."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_datasets import (
    AFFINE,
    BRATS,
    BRATS_2023,
    SHAPE,
    brats,
    cut,
    decathlon,
    pairs,
    plain,
    volume,
    write_list,
)

from deformgan.errors import InputError, UsageError
from deformgan.io.image import load_image
from deformgan.spatial.grid import Grid
from deformgan.workshop.datasets import patients
from deformgan.workshop.datasets.layouts import CONTRASTS, LAYOUTS, Found, Source, find_patients
from deformgan.workshop.datasets.patients import grid_of


def names(found: Found) -> list[str]:
    return [patient.name for patient in found.patients]


def only_problem(found: Found) -> str:
    (sentence,) = found.problems
    return sentence


@pytest.mark.parametrize(
    ("folders", "suffixes", "join", "ending"),
    [
        (["HGG/Brats18_2013_2_1", "LGG/Brats18_TCIA09_620_1"], BRATS, "_", ".nii.gz"),
        (["Brats18_2013_2_1", "Brats18_CBICA_AAB_1"], BRATS, "_", ".nii.gz"),
        (["Training/HGG/BraTS19_CBICA_AAB_1", "Training/LGG/BraTS19_TMC_06290_1"], BRATS, "_", ".nii.gz"),
        (["BraTS20_Training_001", "BraTS20_Training_002"], BRATS, "_", ".nii"),
        (["BraTS2021_00000", "BraTS2021_00002"], BRATS, "_", ".nii.gz"),
        (["BraTS-GLI-00000-000", "BraTS-GLI-00000-001"], BRATS_2023, "-", ".nii.gz"),
    ],
    ids=["2018", "2018 flat", "2019", "2020", "2021", "2023"],
)
def test_brats_of_every_year(tmp_path: Path, folders: list[str], suffixes: list[str], join: str, ending: str) -> None:
    for folder in folders:
        brats(tmp_path / folder, suffixes, join, ending)
    found = find_patients(tmp_path)
    assert found.layout == "brats"
    assert found.problems == ()
    assert names(found) == sorted(Path(folder).name for folder in folders)
    for patient, folder in zip(found.patients, sorted(folders, key=lambda f: Path(f).name), strict=True):
        place = tmp_path / folder
        stated = [place / f"{place.name}{join}{suffix}{ending}" for suffix in suffixes]
        assert patient.images == dict(zip(CONTRASTS, map(Source, stated), strict=False))
        assert patient.outline == Source(stated[-1])


def test_decathlon(tmp_path: Path) -> None:
    found = find_patients(decathlon(tmp_path))
    assert (found.layout, found.problems) == ("decathlon", ())
    assert names(found) == ["BRATS_001", "BRATS_002"]
    file = tmp_path / "imagesTr" / "BRATS_001.nii.gz"
    order = {contrast: source.volume for contrast, source in found.patients[0].images.items()}
    assert order == {"t1": 1, "t1ce": 2, "t2": 3, "flair": 0}
    assert {source.path for source in found.patients[0].images.values()} == {file}
    assert found.patients[0].outline == Source(tmp_path / "labelsTr" / "BRATS_001.nii.gz")
    whole = np.asarray(nib.load(file).dataobj)  # type: ignore[attr-defined]
    t2 = found.patients[0].images["t2"]
    assert np.array_equal(load_image(t2.path, volume=t2.volume).data, whole[..., 3])


def test_the_order_of_the_volumes_is_read(tmp_path: Path) -> None:
    decathlon(tmp_path, ["A"])
    training = [{"image": "imagesTr/A.nii.gz", "label": "labelsTr/A.nii.gz"}]
    write_list(tmp_path, training, {"2": " t2W", "0": "T1", "1": "ADC"})
    (patient,) = find_patients(tmp_path).patients
    assert {contrast: source.volume for contrast, source in patient.images.items()} == {"t1": 0, "t2": 2}


def test_a_folder_for_each_patient(tmp_path: Path) -> None:
    plain(tmp_path / "b", ["t1", "t2", "seg"])
    plain(tmp_path / "a", ["flair", "t1", "lesion"])
    volume(tmp_path / "c" / "t1.nii")
    volume(tmp_path / "c" / "pd.nii.gz")
    found = find_patients(tmp_path, contrasts=(*CONTRASTS, "pd"))
    assert (found.layout, found.problems) == ("folders", ())
    assert [[*patient.images] for patient in found.patients] == [["t1", "flair"], ["t1", "t2"], ["t1", "pd"]]
    outlines = [patient.outline and patient.outline.path.name for patient in found.patients]
    assert outlines == ["lesion.nii.gz", "seg.nii.gz", None]
    assert "c is left out" in only_problem(find_patients(tmp_path))  # without pd there is one image of c


def test_pairs(tmp_path: Path) -> None:
    header = "name,fixed,moving,fixed_contrast,moving_contrast,outline"
    lines = [
        "two,images/a.nii.gz,images/b.nii.gz,FLAIR,t1ce,images/c.nii.gz",
        "",
        "one,images/b.nii.gz,images/a.nii.gz,,,",
    ]
    file = pairs(tmp_path, *lines, header=header)
    for root in (file, tmp_path):
        found = find_patients(root)
        assert (found.layout, found.problems) == ("csv", ())
        one, two = found.patients
        images = {c: Source(tmp_path / "images" / f"{c}.nii.gz") for c in "abc"}
        assert (one.name, one.images, one.outline) == ("one", {"t2": images["b"], "t1": images["a"]}, None)
        assert (two.name, two.images, two.outline) == ("two", {"flair": images["a"], "t1ce": images["b"]}, images["c"])


def test_junk_beside_the_cases_is_passed_over(tmp_path: Path) -> None:
    """As data sets come: tables, hidden files of other systems, an atlas, somebody's notes."""
    brats(tmp_path / "HGG" / "Brats18_A_1_1")
    (tmp_path / "survival_data.csv").write_text("BraTS18ID,Age,Survival\nBrats18_A_1_1,60,289\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("call back")
    (tmp_path / "HGG" / "._Brats18_A_1_1").write_bytes(b"\0")
    shutil.copytree(tmp_path / "HGG", tmp_path / "__MACOSX")
    volume(tmp_path / "HGG" / "Brats18_A_1_1" / "Brats18_A_1_1_t9.nii.gz")
    found = find_patients(tmp_path)
    assert names(found) == ["Brats18_A_1_1"]
    assert found.problems == ()
    assert len(found.patients[0].sources) == 5


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Four whole cases of BraTS 2018; the tests corrupt B."""
    for letter in "ABCD":
        brats(tmp_path / "HGG" / f"Brats18_{letter}_1_1")
    return tmp_path


B = "Brats18_B_1_1"
Corruption = Callable[[Path], Any]


def file_of(suffix: str) -> Callable[[Path], Path]:
    return lambda folder: folder / f"{B}_{suffix}.nii.gz"


T1, T2, SEG = (file_of(suffix) for suffix in ("t1", "t2", "seg"))


def singular(folder: Path) -> None:
    volume(T2(folder), affine=np.diag([1.0, 1.0, 0.0, 1.0]))


def patched(offset: int, value: np.ndarray) -> Corruption:
    """The header says something else of the same voxels."""

    def patch(folder: Path) -> None:
        raw = bytearray(gzip.decompress(T2(folder).read_bytes()))
        raw[offset : offset + value.nbytes] = value.tobytes()
        T2(folder).write_bytes(gzip.compress(bytes(raw)))

    return patch


def claims(*shape: int) -> Corruption:
    return patched(42, np.array(shape, "<i2"))


def elsewhere(which: Callable[[Path], Path], off: float) -> Corruption:
    affine = AFFINE.copy()
    affine[2, 3] += off
    return lambda folder: volume(which(folder), affine=affine)


def pipe(folder: Path) -> None:
    T2(folder).unlink()
    os.mkfifo(T2(folder))


@pytest.mark.parametrize(
    ("corrupt", "left", "sentence"),
    [
        (lambda f: T2(f).unlink(), 4, f"{B} is used without t2: it has no file for t2 — add what is missing"),
        (lambda f: SEG(f).unlink(), 4, f"{B} is used without its outline: it has no file for seg — add what"),
        (
            lambda f: cut(T2(f)),
            4,
            f"{B} is used without t2: .*{B}_t2.nii.gz is truncated or damaged.* — copy or download",
        ),
        (lambda f: cut(T2(f), 0.01), 4, f"{B} is used without t2: .*is truncated or damaged"),
        (lambda f: T2(f).write_bytes(b""), 4, f"{B} is used without t2: .* is not a NIfTI image"),
        (lambda f: T2(f).write_bytes(b"<html>not found</html>" * 40), 4, f"{B} is used without t2: .* is not a NIfTI"),
        (lambda f: cut(SEG(f)), 4, f"{B} is used without its outline: .*_seg.nii.gz is truncated"),
        (lambda f: volume(T2(f), (12, 14)), 4, f"{B} is used without t2: .* is not 3-D: its shape is \\(12, 14\\)"),
        (lambda f: volume(T2(f), (12, 14, 1)), 4, f"{B} is used without t2: .* is not 3-D"),
        (lambda f: volume(T2(f), (12, 14, 10, 2)), 4, f"{B} is used without t2: .* is not 3-D"),
        (singular, 4, f"{B} is used without t2: .* its affine is singular, .* — repair the header"),
        (patched(280, np.array(np.nan, "<f4")), 4, f"{B} is used without t2: .* its affine is not finite"),
        (claims(1200, 1200, 1200), 4, f"{B} is used without t2: .* is truncated: its header claims"),
        (claims(-3, 14, 10), 4, f"{B} is used without t2: .* impossible shape"),
        (pipe, 4, f"{B} is used without t2: it has no file for t2"),
        (
            lambda f: volume(T2(f), (12, 14, 11)),
            3,
            rf"{B} is left out: t1 \(12×14×10 voxels\) and t2 \(12×14×11 voxels\) are",
        ),
        (elsewhere(T2, 2.0), 3, f"{B} is left out: t1 .* and t2 .* are not on one grid — resample one"),
        (elsewhere(SEG, 2.0), 4, f"{B} is used without its outline: its outline is not on the images' grid — resample"),
        (
            lambda f: [f.joinpath(f"{B}_{s}.nii.gz").unlink() for s in ("t1ce", "t2", "flair")],
            3,
            f"{B} is left out: it has no file for t1ce, t2, flair; t1 is its only image — .*a case needs two contrasts",
        ),
        (
            lambda f: [p.unlink() for p in f.iterdir()],
            3,
            f"{B} is left out: its folder holds no image that is named after",
        ),
        (
            lambda f: shutil.copytree(f, f.parents[1] / "LGG" / B),
            4,
            f"{B} is left out: .*{B}_t1.nii.gz is of a case of the same name — rename one of them",
        ),
    ],
)
def test_a_spoilt_case_is_told_and_the_rest_is_used(four: Path, corrupt: Corruption, left: int, sentence: str) -> None:
    corrupt(four / "HGG" / B)
    found = find_patients(four)
    assert len(found.patients) == left
    problem = only_problem(found)
    assert re.match(sentence, problem), problem
    assert "\n" not in problem
    untouched = [p for p in found.patients if p.name != B]
    assert len(untouched) == 3
    assert all(len(p.images) == 4 and p.outline for p in untouched)
    for patient in found.patients:  # nothing that is handed on is one of the corrupted
        assert all(grid_of(source).shape == SHAPE for source in patient.sources.values())


def test_sizes_beyond_any_head_are_refused(four: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume(T2(four / "HGG" / B), (12, 14, 100))
    monkeypatch.setattr(patients, "_MOST_VOXELS", 12 * 14 * 99)
    assert "is too large: its shape is (12, 14, 100)" in only_problem(find_patients(four))


def test_several_flaws_of_a_case_are_one_sentence(four: Path) -> None:
    cut(T1(four / "HGG" / B))
    SEG(four / "HGG" / B).unlink()
    problem = only_problem(find_patients(four))
    assert problem.startswith(f"{B} is used without t1 and its outline: it has no file for seg; ")
    assert "_t1.nii.gz is truncated" in problem


def test_a_small_difference_of_headers_is_no_flaw(four: Path) -> None:
    elsewhere(T2, 0.01)(four / "HGG" / B)
    assert find_patients(four).problems == ()


def test_what_nobody_has_is_not_missing(tmp_path: Path) -> None:
    """Validation cases come without an outline; some keep T1 and T2 alone."""
    for name in ("Brats18_A_1_1", "Brats18_B_1_1"):
        brats(tmp_path / name, ["t1", "t2"])
    assert find_patients(tmp_path).problems == ()


def test_gzips_of_several_members_are_whole(four: Path) -> None:
    """Some tools pack in blocks: the last bytes then do not tell the size of all."""
    path = T2(four / "HGG" / B)
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:900]) + gzip.compress(raw[900:]) + gzip.compress(b""))
    assert find_patients(four).problems == ()
    path.write_bytes(gzip.compress(raw[:900]) + gzip.compress(raw[900:-60]))
    assert "the data end early" in only_problem(find_patients(four))


def test_names_that_would_garble_a_message(four: Path) -> None:
    brats(four / "HGG" / "Brats18_\x1b[31m_1")
    problem = only_problem(find_patients(four))
    assert problem.startswith("Brats18_?[31m_1 is left out: its folder's name cannot be written")


def test_two_layouts_in_one_folder(four: Path) -> None:
    plain(four / "HGG", ["t1", "t2"])
    assert only_problem(find_patients(four)).startswith("HGG is left out: it is laid out in another way")
    for letter in "abcd":
        plain(four / letter)
    found = find_patients(four)
    assert found.layout == "folders"
    assert names(found) == ["HGG", "a", "b", "c", "d"]
    assert len(found.problems) == 4


def test_an_incomplete_plain_folder(tmp_path: Path) -> None:
    plain(tmp_path / "a")
    plain(tmp_path / "b", ["t1", "seg"])
    (tmp_path / "c").mkdir()
    found = find_patients(tmp_path)
    assert names(found) == ["a"]
    assert found.problems == (
        "b is left out: t1 is its only image — a case needs two contrasts",
        "c is left out: its folder is empty — fill it, or remove it",
    )


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            {"image": "imagesTr/BRATS_9.nii.gz"},
            "BRATS_9 is left out: imagesTr/BRATS_9.nii.gz is not there — add the file",
        ),
        (
            {"image": "../outside/X.nii.gz"},
            "X is left out: ../outside/X.nii.gz leads outside the data set — give a path",
        ),
        ({"image": "/etc/passwd"}, "passwd is left out: /etc/passwd leads outside the data set"),
        ({"image": "imagesTr/link/X.nii.gz"}, "X is left out: imagesTr/link/X.nii.gz leads outside the data set"),
        ({"image": "imagesTr/\0.nii.gz"}, "entry 4 of dataset.json is left out: “\\?” is no name"),
        ({"image": "imagesTr/" + "x" * 5000}, "entry 4 of dataset.json is left out: “x+…” is no name"),
        ({"image": 5}, "entry 4 of dataset.json is left out: it names no image"),
        ("imagesTr/A.nii.gz", "entry 4 of dataset.json is left out: it names no image"),
        (
            {"image": "imagesTr/3D.nii.gz"},
            "3D is left out: .*3D.nii.gz has no volume 1: its shape is \\(12, 14, 10\\); .* — download the file again$",
        ),
        ({"image": "imagesTr/cut.nii.gz"}, "cut is left out: .*cut.nii.gz is truncated or damaged[^;]*$"),
        (
            {"image": "imagesTr/C.nii.gz", "label": "labelsTr/none.nii.gz"},
            "C is used without its outline: labelsTr/none.nii.gz is not there",
        ),
        (
            {"image": "imagesTr/C.nii.gz", "label": "../outside/X.nii.gz"},
            "C is used without its outline: ../outside/X.nii.gz leads outside",
        ),
    ],
)
def test_a_wrong_entry_of_the_decathlons_list(tmp_path: Path, entry: Any, sentence: str) -> None:
    root = decathlon(tmp_path / "Task01")
    volume(tmp_path / "outside" / "X.nii.gz", (*SHAPE, 4))
    (root / "imagesTr" / "link").symlink_to(tmp_path / "outside")
    volume(root / "imagesTr" / "3D.nii.gz")
    cut(volume(root / "imagesTr" / "cut.nii.gz", (*SHAPE, 4)))
    volume(root / "imagesTr" / "C.nii.gz", (*SHAPE, 4))
    whole = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in ("BRATS_001", "BRATS_002")]
    write_list(root, [*whole, {"image": "imagesTr/._C.nii.gz"}, entry])
    found = find_patients(root)
    assert re.match(sentence, problem := only_problem(found)), problem
    assert {"BRATS_001", "BRATS_002"} <= set(names(found)) <= {"BRATS_001", "BRATS_002", "C"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "dataset.json cannot be read"),
        ("[" * 100_000, "dataset.json cannot be read"),
        ("[]", "is not the list of a data set"),
        ('{"modality": {"0": "T1", "1": "T2"}}', "lists no cases"),
        ('{"modality": {"0": "T1", "1": "T2"}, "training": []}', "lists no cases"),
        ('{"modality": {"0": "CT"}, "training": [1]}', "modalities “CT”, fewer than two contrasts of the brain"),
        ('{"modality": {"-1": "T1", "x": "T2", "9999999999": "FLAIR"}, "training": [1]}', "fewer than two contrasts"),
        ('{"modality": null, "training": [1]}', "fewer than two contrasts"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=says):
        find_patients(tmp_path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "x,images/none.nii.gz,images/a.nii.gz",
            "x is left out: images/none.nii.gz is not there; t1 is its only image — add",
        ),
        ("x,../outside/X.nii.gz,images/a.nii.gz", "x is left out: ../outside/X.nii.gz leads outside the data set"),
        ("x,/etc/passwd,images/a.nii.gz", "x is left out: /etc/passwd leads outside the data set"),
        ("x,images/link/X.nii.gz,images/a.nii.gz", "x is left out: images/link/X.nii.gz leads outside the data set"),
        ("x,images,images/a.nii.gz", "x is left out: images is not there"),
        ("x,,images/a.nii.gz", "x is left out: it names no t2 image"),
        ("x,\0,images/a.nii.gz", "x is left out: \\? is no path"),
        ("x,images/a.nii.gz", "line 3 \\(x\\) is left out: it has 2 cells, the header 3 — give each column its cell"),
        ("../x,images/a.nii.gz,images/b.nii.gz", "line 3 is left out: “../x” is no name"),
        (".x,images/a.nii.gz,images/b.nii.gz", "line 3 is left out: “.x” is no name"),
        (",images/a.nii.gz,images/b.nii.gz", "line 3 is left out: “” is no name"),
        ("good,images/a.nii.gz,images/c.nii.gz", "good is left out: .*a.nii.gz is of a case of the same name"),
        (
            "x,images/a.nii.gz,images/junk.nii.gz",
            "x is left out: .*junk.nii.gz is not a NIfTI image; t2 is its only image",
        ),
    ],
)
def test_a_wrong_line_of_a_list_of_pairs(tmp_path: Path, line: str, sentence: str) -> None:
    file = pairs(tmp_path / "root", "good,images/b.nii.gz,images/a.nii.gz", line)
    volume(tmp_path / "outside" / "X.nii.gz")
    (file.parent / "images" / "link").symlink_to(tmp_path / "outside")
    (file.parent / "images" / "junk.nii.gz").write_bytes(b"junk" * 200)
    found = find_patients(file)
    assert re.match(sentence, problem := only_problem(found)), problem
    assert names(found) == ["good"]


@pytest.mark.parametrize("contrasts", ["t1,t1", "t1,T1", "t2,", "outline,t1", "mask,t1", "t-1,t2", "../t1,t2"])
def test_contrasts_that_cannot_be(tmp_path: Path, contrasts: str) -> None:
    header = "name,fixed,moving,moving_contrast,fixed_contrast"
    file = pairs(tmp_path, f"x,images/a.nii.gz,images/b.nii.gz,{contrasts}", header=header)
    assert only_problem(find_patients(file)).startswith("x is left out: its contrasts are “")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "id,fixed,moving\nx,a,b\n",
            "starts with “id,fixed,moving”, which is no header .* start it with the line name,fixed",
        ),
        ("name,fixed\nx,a\n", "is no header"),
        ("name,fixed,moving,colour\nx,a,b,c\n", "is no header"),
        ("name,fixed,moving,moving\nx,a,b,c\n", "is no header"),
        ("", "is no header"),
        ("name,fixed,moving\n\n", "lists no pairs"),
        (b"name,fixed,moving\nx,\xff\xfe,b\n", "cannot be read as CSV"),
        ("name,fixed,moving\n" + "x" * 200_000 + "\n", "cannot be read as CSV"),
    ],
)
def test_a_list_of_pairs_that_is_none(tmp_path: Path, text: str | bytes, says: str) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says):
        find_patients(file)


def test_a_list_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    file = pairs(tmp_path, "x,images/a.nii.gz,images/b.nii.gz")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert names(find_patients(tmp_path)) == ["x"]


def test_two_lists_in_one_folder(tmp_path: Path) -> None:
    file = pairs(tmp_path, "x,images/a.nii.gz,images/b.nii.gz")
    shutil.copy(file, tmp_path / "more.csv")
    with pytest.raises(InputError, match=r"2 lists of pairs: more.csv, pairs.csv — give the path of one"):
        find_patients(tmp_path)
    assert names(find_patients(tmp_path / "more.csv")) == ["x"]


@pytest.mark.parametrize("layout", ["auto", *LAYOUTS])
def test_a_wrong_folder_is_told_what_it_holds(tmp_path: Path, layout: str) -> None:
    for letter in "abcdefg":
        (tmp_path / letter).mkdir()
        (tmp_path / letter / "scan.dcm").write_bytes(b"\0" * 200)
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(InputError) as error:
        find_patients(tmp_path, layout)
    text = str(error.value)
    assert "7 folders (a, b, c, d, e, …) and 1 file (readme.txt)" in text
    assert all((f"{name}: {words}" in text) == (layout in ("auto", name)) for name, words in LAYOUTS.items())


def test_an_empty_folder_and_none_and_a_wrong_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no patients in any layout that is known: it is empty"):
        find_patients(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_patients(tmp_path / "none")
    with pytest.raises(UsageError, match="there is no layout bids — use auto or one of brats, decathlon"):
        find_patients(tmp_path, "bids")


def test_a_folder_of_wrong_cases_alone_has_problems_and_no_patients(tmp_path: Path) -> None:
    (tmp_path / "Brats18_A_1_1").mkdir()
    found = find_patients(tmp_path)
    assert found.patients == ()
    assert only_problem(found).startswith("Brats18_A_1_1 is left out")


def test_no_header_is_so_damaged_that_it_is_not_told(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii")
    whole, rng = path.read_bytes(), np.random.default_rng(7)
    outcomes = set()
    for _ in range(400):
        raw = bytearray(whole)
        for at in rng.integers(0, 348, rng.integers(1, 12)):
            raw[at] = rng.integers(256)
        path.write_bytes(raw)
        try:
            outcomes.add(type(grid_of(Source(path))))
        except InputError:
            outcomes.add(InputError)
    assert outcomes == {Grid, InputError}
