"""What every BIDS App does beside its work: validation, a paragraph to cite it with, its options in a file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from deformgan import __version__
from deformgan.cohort.bids import Selection
from deformgan.cohort.pair import Settings
from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.io.untrusted import read_small
from deformgan.output.report.texts import REFERENCES

VALIDATOR = "bids-validator-deno"
LOGS = "logs"
_BIBTEX = """@software{{deformgan,
  title = {{deformgan: dense alignment of 3-D medical images of different modality}},
  version = {{{version}}},
  license = {{Apache-2.0}}
}}
@article{{deform_gan,
  title = {{Deform-GAN: An Unsupervised Learning Model for Deformable Registration}},
  author = {{Zhang, X. and Jian, W. and Chen, Y. and Yang, S.}},
  journal = {{arXiv:2002.11430}},
  year = {{2020}}
}}
"""


def find_validator() -> str | None:
    """Path of the official validator, beside this Python or on the search path; None where there is none."""
    beside = Path(sys.executable).with_name(VALIDATOR)
    return str(beside) if beside.is_file() else shutil.which(VALIDATOR)


def validate(root: Path, validator: str) -> list[str]:
    """The errors that the official validator finds in a data set, each as ``CODE: file``; its warnings are left out.

    Raises:
        InputError: It could not be run.
    """
    words = [validator, str(root), "--format", "json", "--ignoreWarnings"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        issues = json.loads(done.stdout)["issues"]["issues"]
    except (ValueError, LookupError, TypeError) as error:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise InputError(f"{VALIDATOR} failed: {said}", "pass --skip-bids-validation to go on without it") from error
    wrong = [one for one in issues if one.get("severity") == "error"]
    return [f"{one.get('code')}: {one.get('location', root)}{_more(one)}" for one in wrong]


def _more(issue: Mapping[str, Any]) -> str:
    text = " ".join(str(issue.get("issueMessage") or issue.get("subCode") or "").split())
    return f" ({text[:160]})" if text else ""


def boilerplate(settings: Settings, chosen: Selection) -> str:
    """A paragraph for the methods section, with its references, for the whole data set."""
    target = f"its {chosen.fixed} image"
    if chosen.onto_session is not None:
        target = f"the {chosen.fixed} image of session {chosen.onto_session.removeprefix('ses-')}"
    parts = [
        f"For each participant the {chosen.moving} image was aligned to {target} with deformgan {__version__} [1]."
    ]
    if settings.is_linear:
        kind = "An affine" if settings.transform == "affine" else "A rigid"
        parts.append(f"{kind} map was searched over all rotations.")
    else:
        start = "from an affine map that was searched over all rotations" if settings.transform == "joint" else ""
        checksum = f", SHA-256 {settings.weights_sha256[:12]}" if settings.weights_sha256 else ""
        parts.append(
            f"A convolutional network (weights {Path(settings.weights).name}{checksum}) predicted a dense displacement "
            f"field, starting {start or 'from the position in the headers'}; it was trained without labels and "
            "landmarks, after the idea of Deform-GAN [2]."
        )
        if settings.refine_steps:
            parts.append(f"The field was then refined for each pair by up to {settings.refine_steps} steps of "
                         "optimisation.")  # fmt: skip
    parts.append("Each image was resampled once, with linear interpolation.")
    cited = REFERENCES[: 1 if settings.is_linear else 2]
    listed = "\n".join(f"{n}. {text.replace('{version}', __version__)}" for n, text in enumerate(cited, 1))
    return f"{' '.join(parts)}\n\n### References\n\n{listed}\n"


def write_boilerplate(out: Path, settings: Settings, chosen: Selection) -> Path:
    """Write ``logs/CITATION.md`` and ``.bib``; returns the former's path."""
    folder = out / LOGS
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"CITATION.md": boilerplate(settings, chosen), "CITATION.bib": _BIBTEX.format(version=__version__)}
    for name, text in texts.items():
        with atomic(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return folder / "CITATION.md"


def read_config(path: Path, given: Collection[str] = ()) -> list[str]:
    """The options of a TOML file as words of a command line, without those that are ``given`` there (``--nprocs``).

    Raises:
        InputError: It cannot be read, or is no flat table of options.
    """
    hint = 'one option a line: fixed-suffix = "FLAIR"'
    try:
        options = tomllib.loads(read_small(path).decode())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the options {path}: {error}", hint) from error
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, Mapping):
            raise InputError(f"{path}: [{name}] is a table, and options are not in tables", hint)
        if flag in given:
            continue
        if isinstance(value, bool):
            words += [flag] if value else []
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return words


def write_config(path: Path, options: Mapping[str, Any]) -> None:
    """Write options so that `read_config` reads them; what is None or empty is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, value in options.items():
        plain = [str(one) for one in value] if isinstance(value, list | tuple) else value
        plain = str(plain) if isinstance(plain, Path) else plain
        if plain is not None and plain != []:
            lines.append(f"{name.replace('_', '-')} = {json.dumps(plain, ensure_ascii=False)}\n")
    with atomic(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
