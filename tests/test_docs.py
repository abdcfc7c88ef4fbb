"""What the documentation says is so: its commands and code run, its options exist, its claims have their tests."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from anatomies import coarse_anatomy
from conftest import make_phantom, write_nifti
from documents import NAMES, PAGES, REPOSITORY, Block, blocks, commands, mentions, our_lines
from tiny import write_tiny_model
from torch import Tensor

from deformgan.commands.arguments import RENAMED
from deformgan.commands.console import Console
from deformgan.commands.main import COMMANDS, _parse, main
from deformgan.errors import UsageError
from deformgan.models.load import Model, load_model
from deformgan.pipeline import register
from deformgan.refine import Refined, refine_pair
from deformgan.transforms.formats import itk
from deformgan.workshop import demo

# what makes a run short, its meaning the same
SHORTER = {
    "register": ["--refine-steps", "0", "--threads", "1"],
    "demo": ["--refine-steps", "0", "--threads", "1"],
    "cohort": ["--refine-steps", "0", "--workers", "1"],
    "export": ["--shape", "32", "32", "32"],
    "simulate": ["--shape", "40", "44", "36"],
}
# pages that start processes, or export a network
SLOW = ("how-to/cohorts.md", "tutorials/cohort.md", "how-to/run-without-pytorch.md")
PREDICT = Model.predict
LIST = re.compile(r"^\| (.+?) \| `(tests/[\w./]+\.py)::(\w+)` \|$", re.MULTILINE)
COMPARED = REPOSITORY / "docs" / "explanation" / "compared.md"


def long_options(command: str) -> set[str]:
    with redirect_stdout(StringIO()) as text:
        assert main([command, "--help"]) == 0
    return set(re.findall(r"--[a-z][a-z0-9-]+", text.getvalue()))


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    return {command: long_options(command) for command in COMMANDS}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages talk of, made of the phantom."""
    folder = tmp_path_factory.mktemp("pages")
    phantom = make_phantom()
    moved = {name: np.roll(data, 2, axis=0) for name, data in {"t1": phantom.t1, "labels": phantom.labels}.items()}
    tumour = (moved["labels"] == 100).astype(np.uint8)
    images = {
        "T2": phantom.t2,
        "fixed": phantom.t2,
        "atlas": phantom.t2,
        "T1": moved["t1"],
        "moving": moved["t1"],
        "FLAIR": moved["t1"],
        "labels": moved["labels"],
        "label_map": phantom.labels,
        "tumour": tumour,
        "outline_on_T1": tumour,
        "T1_mask": (moved["labels"] > 0).astype(np.uint8),
        "T2_mask": (phantom.labels > 0).astype(np.uint8),
        "outline_on_T2": (phantom.labels == 100).astype(np.uint8),
    }
    for name, data in images.items():
        write_nifti(folder / f"{name}.nii.gz", data, phantom.affine)
    (folder / "landmarks.csv").write_text("x,y,z,name\n3,-5,7,middle\n10,-12,20,front\n")
    (folder / "pairs.csv").write_text("id,fixed,moving\nsub-01,T2.nii.gz,T1.nii.gz\n")
    shift = np.eye(4)
    shift[:3, 3] = 4.0, 0.0, -2.0
    for name in ("T1_to_earlier.txt", "T2_to_atlas.txt", "theirs.txt"):
        itk.write_affine(folder / name, shift)
    return folder


@pytest.fixture(scope="module")
def result(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `register` writes, for the pages that begin with it."""
    out = tmp_path_factory.mktemp("result") / "out"
    register(inputs / "T2.nii.gz", inputs / "T1.nii.gz", refine_steps=0).save(out)
    return out


_predicted: dict[Any, Tensor] = {}


def predicted_once(self: Model, fixed: Tensor, moving: Tensor, precision: str = "auto") -> Tensor:
    """`Model.predict`, which the pages ask again and again for the same few pairs."""
    key = self.sha256, precision, fixed.numpy().tobytes(), moving.numpy().tobytes()
    if hash(key) not in _predicted:
        _predicted[hash(key)] = PREDICT(self, fixed, moving, precision)
    return _predicted[hash(key)].clone()


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_shell(block: Block, where: str) -> None:
    for words in commands(block.text):
        assert words[0] == "deformgan", f"{where} runs {words[0]}: mark the block <!-- not run: why -->"
        said = StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            whole = not {"status", "merge"} & set(words[2:3])
            code = main([*words[1:], *(SHORTER.get(words[1], []) if whole else [])])
        # 4: a phantom's result may fail the check; its files are there
        assert code in (0, 4), f"{where}: {' '.join(words)}\nexit code {code}\n{said.getvalue()}"


def pages() -> Iterator[Any]:
    for page, name in zip(PAGES, NAMES, strict=True):
        yield pytest.param(page, id=name, marks=[pytest.mark.slow] if name.removeprefix("docs/") in SLOW else [])


@pytest.mark.parametrize("page", pages())
def test_every_block_runs(
    page: Path, inputs: Path, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page's blocks one after the other in one folder, as a reader would; those with a marker are left out."""
    if all(block.why for block in blocks(page)):
        pytest.skip("nothing to run")
    matplotlib.use("Agg")
    pipeline = importlib.import_module("deformgan.pipeline")

    def few_steps(*images: Any, **more: Any) -> Refined:
        return refine_pair(*images, **more | {"subject": "same", "steps": min(2, more["steps"])})

    monkeypatch.setattr(pipeline, "refine_pair", few_steps)
    monkeypatch.setattr(Model, "predict", predicted_once)
    monkeypatch.setattr(demo, "load_anatomy", coarse_anatomy)
    monkeypatch.setattr(demo, "SHAPE", (46, 52, 44))
    monkeypatch.setattr(demo, "SPACING_MM", 4.5)
    monkeypatch.setattr(demo, "DEFORMATION", demo.DEFORMATION.scaled(1 / 3))
    monkeypatch.setattr(demo, "draw", lambda *_: None)  # test_demo.py looks at its pictures
    if page.stem == "run-without-pytorch":
        # the shipped network's graph takes a minute; test_onnx_export.py has one of its kind
        small = load_model(write_tiny_model(tmp_path / "t1-t2"))
        monkeypatch.setattr("deformgan.models.load.load_model", lambda _: small)
    folder = tmp_path / "page"
    shutil.copytree(inputs, folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    if not any(re.search(r"-o out\b|save\(.out", block.text) for block in blocks(page) if not block.why):
        shutil.copytree(result, folder / "out")
    with inside(folder):
        for block in blocks(page):
            where = f"{page.relative_to(REPOSITORY)}:{block.line}"
            if block.why:
                continue
            if block.kind == "python":
                exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
            else:
                run_shell(block, where)


def test_the_markers_give_a_reason() -> None:
    reasons = [block.why for page in PAGES for block in blocks(page) if block.why is not None]
    assert reasons
    assert all(len(why.split()) >= 2 for why in reasons), reasons


@pytest.mark.parametrize(("where", "words"), [pytest.param(*line, id=line[0]) for line in our_lines()])
def test_every_line_of_ours_is_understood(where: str, words: list[str]) -> None:
    """Also those that are not run, and those in tables."""
    if "--help" in words:
        assert words[0] in COMMANDS
        return
    try:
        _parse(words, Console())
    except UsageError as error:
        pytest.fail(f"{where}: deformgan {' '.join(words)}\n{error}")


def test_options_that_the_text_names_exist(options: dict[str, set[str]]) -> None:
    named = [one for one in mentions() if one[1] in options]
    assert named
    # the log's commands stand as they were given
    named = [one for one in named if not (one[0].startswith("docs/log.md") and one[2] in RENAMED)]
    assert not [one for one in named if one[2] not in options[one[1]]]


def test_the_commands_page_names_every_command_and_no_other() -> None:
    text = (REPOSITORY / "docs/reference/command.md").read_text(encoding="utf-8")
    table = text.split("## Options in common")[0]
    assert sorted(re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE)) == sorted(COMMANDS)


def test_options_that_the_commands_page_explains_exist(options: dict[str, set[str]]) -> None:
    text = (REPOSITORY / "docs/reference/command.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)) - {"--help"}
    assert named
    assert named - set.union(*options.values()) - set(RENAMED) == set()


@pytest.mark.parametrize("name", ["register.md", "cohort.md"])
def test_the_notebook_is_the_page(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    import make_notebook

    path = make_notebook.TUTORIALS / name
    assert path in make_notebook.PAGES
    page = path.read_text(encoding="utf-8")
    written = path.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert written == make_notebook.as_text(page), "run python tools/make_notebook.py"
    cells = json.loads(written)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.text.strip() for block in blocks(path)]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    for picture in make_notebook.PICTURE.findall(page):
        assert (path.parent / picture).is_file(), "run python tools/make_notebook.py --pictures"


def test_links_between_pages_lead_somewhere() -> None:
    lost = []
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"`[^`]*`", "", text)):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                lost.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert not lost


def test_every_page_is_in_the_menu() -> None:
    menu = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = set(re.findall(r"[\w/-]+\.md", menu)) - {"reference/options.md"}  # made by tools/docs_site.py
    assert listed == {name.removeprefix("docs/") for name in NAMES if name.startswith("docs/")}


def test_a_registration_asks_for_no_network(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("something was asked of the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    register(inputs / "T2.nii.gz", inputs / "T1.nii.gz", refine_steps=0)


@pytest.mark.searches
def test_the_same_call_gives_the_same_numbers(inputs: Path) -> None:
    first, second = (register(inputs / "T2.nii.gz", inputs / "T1.nii.gz", refine_steps=2) for _ in range(2))
    grid = first.moved.grid
    np.testing.assert_array_equal(first.transform.displacement(grid), second.transform.displacement(grid))
    np.testing.assert_array_equal(first.moved.data, second.moved.data)


def test_threads_are_as_many_as_was_said(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", said.append)
    with inside(inputs):
        words = ["apply", "-t", "T2_to_atlas.txt", "-r", "T2.nii.gz", "T1.nii.gz", str(tmp_path / "moved.nii.gz")]
        assert main([*words, "--threads", "3"]) == 0
    assert said == [3]


def feature_rows() -> list[list[str]]:
    table = COMPARED.read_text(encoding="utf-8").split("## Features")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_what_is_claimed_has_a_test() -> None:
    """Every row in which ours is not ``no`` names a test, and the test exists."""
    proofs: dict[str, list[tuple[str, str]]] = {}
    for feature, file, name in LIST.findall(COMPARED.read_text(encoding="utf-8")):
        proofs.setdefault(feature, []).append((file, name))
    claimed = {row[0] for row in feature_rows() if row[1] != "no"}
    assert claimed
    assert proofs.keys() == claimed
    for file, name in (proof for several in proofs.values() for proof in several):
        path = REPOSITORY / file
        assert path.is_file(), file
        tests = [
            node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
        ]
        assert name.startswith("test_"), name
        assert name in tests, f"{file} has no {name}"


def test_the_feature_table_is_whole() -> None:
    rows = feature_rows()
    assert len({row[0] for row in rows}) == len(rows)
    assert {len(row) for row in rows} == {11}
    assert {cell for row in rows for cell in row[1:]} <= {"yes", "partly", "no", "–", "?"}
    assert {row[1] for row in rows} <= {"yes", "partly", "no"}


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.parametrize("name", ["container/Dockerfile", "container/deformgan.def"])
def test_container_recipes(name: str) -> None:
    """Pinned base, PyTorch as in constraints.txt and for the CPU, files that exist, our command, no network at run."""
    text = (REPOSITORY / name).read_text("utf-8")
    base = re.search(r"^From: *(\S+)$|^FROM (\S+)$", text, re.MULTILINE)
    assert base is not None
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base[1] or base[2])
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == ">=3.11"
    assert re.findall(r"torch==([\w.]+)", text) == [pins()["torch"]]
    assert "https://download.pytorch.org/whl/cpu" in text
    assert "-c constraints.txt" in text
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) or [
        line.split()[0] for line in re.search(r"%files\n(.*?)\n%", text, re.DOTALL)[1].split("\n") if line.strip()
    ]
    for path in " ".join(copied).split():
        assert (REPOSITORY / path).exists(), path
    assert {"pyproject.toml", "constraints.txt", "src"} <= set(" ".join(copied).split())


def test_the_image_does_not_run_as_root() -> None:
    lines = (REPOSITORY / "container/Dockerfile").read_text("utf-8").splitlines()
    known = {"FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD", "LABEL", "ARG"}
    joined = [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line and line[0] not in "# "]
    assert {line.split()[0] for line in joined} <= known
    assert [line for line in joined if line.startswith("USER")][-1] not in ("USER root", "USER 0")
    assert json.loads(joined[-1].removeprefix("CMD")) == ["--help"]
    assert json.loads(joined[-2].removeprefix("ENTRYPOINT")) == ["deformgan"]


def test_what_was_found_in_the_wild_has_its_tests() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference" / "found.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", page)
    assert len(named) > 30
    for path, name in named:
        assert f"def {name}(" in (Path(__file__).parents[1] / path).read_text(encoding="utf-8"), f"{path} has no {name}"
