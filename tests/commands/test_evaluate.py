"""The command that scores: what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from made_cases import write_made_cases
from small_training import write_people
from tiny import write_weights

from deformgan.commands.main import main

TINY = ["--shape", "32", "32", "32", "--spacing", "6", "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    write_made_cases(folder, 2)
    return folder


def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score here: starting a process for each method takes seconds."""
    from deformgan.workshop.evaluation import run, scoring

    monkeypatch.setattr(run, "rows_in_worker", scoring.rows_of)


def call(out: Path, *words: object) -> int:
    return main(["evaluate", "-o", str(out), "--threads", "1", "--device", "cpu", *map(str, words)])


def test_patients_become_cases_scores_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_process(monkeypatch)
    people, weights, out = write_people(tmp_path / "people"), write_weights(tmp_path / "w"), tmp_path / "out"
    words = ["evaluate", "-o", str(out), "--data", str(people), "--per-regime", "1", "--regime", "small", *TINY]
    words += ["--label-maps", "labels.nii.gz", "--patients", "two", "--method", "identity", f"net={weights}"]
    words += ["--compare", "net,identity", "--caption", "No training.", "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {p.name for p in out.iterdir()} == {
        *("cases", "scores.jsonl", "setup.json", "results.json", "table.md", "table.tex")
    }
    record = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (answer.pop("status"), answer.pop("exit_code"), answer.pop("out")) == ("ok", 0, str(out))
    assert answer == record
    assert [(r["method"], r["case"], r["kind"]) for r in record["rows"]] == [
        ("identity", "case_000", "patient"),
        ("identity", "case_001", "label-map"),
        ("net", "case_000", "patient"),
        ("net", "case_001", "label-map"),
    ]
    assert [m["name"] for m in record["methods"]] == ["identity", "net"]
    assert record["methods"][0]["sha256"] is None
    assert len(record["methods"][1]["sha256"]) == 64
    assert {t["reason"] for t in record["tests"]["comparisons"]} == {
        "1 cases are too few, 6 are needed",
        "2 cases are too few, 6 are needed",
    }
    assert "No training. Mean ±" in (out / "table.md").read_text(encoding="utf-8")
    assert [*record] == [
        *("schema", "command", "environment", "machine", "settings", "seed", "caption", "methods"),
        *("rows", "summary", "tests"),
    ]
    # both as if they were one method's seeds: a row more for each case, which may be compared
    compared = words.index("--compare") + 1
    assert main([*words[:compared], "both,net", *words[compared + 1 :], "--seeds", "both=identity,net"]) == 0
    both = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [(r["method"], r["seeds"]) for r in both["rows"][4:]] == [("both", 2)] * 2
    assert {t["method"] for t in both["tests"]["comparisons"]} == {"both"}
    capsys.readouterr()
    # the same again: nothing is computed, and the answer is the same but for the command
    scores = (out / "scores.jsonl").read_text(encoding="utf-8")
    assert main(words) == 0
    assert (out / "scores.jsonl").read_text(encoding="utf-8") == scores
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"] == record["rows"]


def test_a_process_for_each_method_finds_what_this_one_does(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {}
    for where in ("there", "here"):
        assert call(tmp_path / where, "--cases", cases, "--method", "identity") == 0
        rows[where] = [json.loads(line) for line in (tmp_path / where / "scores.jsonl").read_text("utf-8").splitlines()]
        assert [row.pop("seconds") >= 0 and row.pop("peak_memory_mb") is not False for row in rows[where]] == [True] * 2
        in_process(monkeypatch)
    assert rows["there"] == rows["here"]


def test_the_answer_is_one_line_best_first(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_process(monkeypatch)
    weights = write_weights(tmp_path / "w")
    assert call(tmp_path / "out", "--cases", cases, "--regime", "medium", "--method", f"net={weights}", "identity") == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path / 'out'}: 1 cases; mean error in voxels: ")
    assert said.out.count("\n") == 1
    assert "identity 2.00" in said.out
    assert all(re.fullmatch(r"deformgan: .*: [\d.]+ s", line) for line in said.err.splitlines())


def test_a_sweep_has_files_of_its_own(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process(monkeypatch)
    monkeypatch.setattr("deformgan.workshop.evaluation.sweeps._DEFORMATION_LEVELS", (4.0, 8.0))
    out = tmp_path / "out"
    assert call(out, "--cases", cases, "--method", "identity", "--sweep", "deformation") == 0
    record = json.loads((out / "sweeps.json").read_text(encoding="utf-8"))
    assert {(e["sweep"], e["level"]) for e in record["summary"]} == {("deformation", 4.0), ("deformation", 8.0)}
    assert len(record["rows"]) == len((out / "sweeps.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    assert len((out / "scores.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_force_scores_everything_anew(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process(monkeypatch)
    out = tmp_path / "out"
    assert call(out, "--cases", cases, "--method", "identity") == 0
    other = tmp_path / "other"
    write_made_cases(other, 1)
    (other / "case_000" / "meta.json").write_text("{}")
    assert call(out, "--cases", other, "--method", "identity") == 2
    (out / "note.txt").write_text("mine")
    assert call(out, "--cases", other, "--method", "identity", "--force") == 0
    assert len((out / "scores.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert (out / "note.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--cases", "CASES", "--method", "ants"], 2, "no method 'ants'"),
        (["--cases", "CASES", "--method", "x=CASES"], 2, "neither weights nor results"),
        (["--cases", "CASES", "--method", "identity", "identity"], 2, "named twice"),
        (["--cases", "CASES", "--method", "identity", "--compare", "identity,x"], 2, "no pair of methods"),
        (["--cases", "CASES", "--method", "identity", "--seeds", "all=identity"], 2, "does not name a new method"),
        (["--cases", "CASES", "--method", "identity", "--seeds", "identity=a,b"], 2, "does not name a new method"),
        (["--method", "identity"], 2, "nothing to score"),
        (["--cases", "CASES", "--data", "CASES", "--method", "identity"], 2, "exclude each other"),
        (["--cases", "CASES", "--method", "identity", "--regime", "large"], 2, "no case is of the regime large"),
        (["--cases", "EMPTY", "--method", "identity"], 3, "holds no case"),
        (["--data", "EMPTY", "--method", "identity"], 3, "holds no patients"),
        (["--data", "EMPTY", "--patients", "x", "--method", "identity"], 3, "x holds 0 of the contrasts"),
        (["--data", "nowhere", "--method", "identity"], 3, "does not exist"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"CASES": str(cases), "EMPTY": str(tmp_path / "empty")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    assert call(tmp_path / "out", *words) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
