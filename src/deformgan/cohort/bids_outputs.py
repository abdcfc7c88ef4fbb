"""Writing one pair as part of a BIDS derivative: names by entities, sidecars, a page for each person."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deformgan import __version__
from deformgan.cohort.bids import DESCRIPTION
from deformgan.cohort.pair import Naming, Task
from deformgan.io.atomic import atomic
from deformgan.io.untrusted import parse_json, read_small
from deformgan.output.folder import REPORT, staged_files, staged_folder
from deformgan.preprocess.foreground import find_content

if TYPE_CHECKING:
    from deformgan.output.registration import Registration

_PLAIN = ".plain"
_BRAIN_LITRES = 2.2  # a head has more, a brain less
# what the schema has no names for
_IGNORED = (
    "*.html",
    ".cohort/",
    "group_registration.*",
    "ratings.tsv",
    "*_xfm.*",
    "*_desc-jacobian_*",
    "*_desc-error_*",
    "logs/",
)
_README = """# Registrations by deformgan

`*_from-A_to-B_mode-image_xfm.h5` resamples an image of space A onto space B:
`antsApplyTransforms -d 3 -i A.nii.gz -r B.nii.gz -t FILE -o out.nii.gz`. `*_space-B_desc-preproc_*` is that image.
`group_registration.html` shows which pairs to look at, each person's page what happened.
"""


def names_of(naming: Naming) -> dict[str, str]:
    """What each file is called; the first key is the last to appear."""
    base, source, target = naming.prefix, naming.source, naming.target
    there, back = f"{base}_from-{source}_to-{target}_mode-image", f"{base}_from-{target}_to-{source}_mode-image"
    image = f"{base}_space-{target}"
    return {
        "record": f"{there}_xfm.json",
        "warp": f"{there}_xfm.h5",
        "inverse": f"{back}_xfm.h5",
        "inverse_sidecar": f"{back}_xfm.json",
        "affine": f"{there}_desc-affine_xfm.txt",
        "moved": f"{image}_desc-preproc_{naming.suffix}.nii.gz",
        "moved_sidecar": f"{image}_desc-preproc_{naming.suffix}.json",
        "labels": f"{image}_dseg.nii.gz",
        "labels_sidecar": f"{image}_dseg.json",
        "jacobian": f"{image}_desc-jacobian_{naming.suffix}.nii.gz",
        "uncertainty": f"{image}_desc-error_{naming.suffix}.nii.gz",
    }


def write_derivative(
    task: Task, out: Path, found: Registration
) -> tuple[dict[str, Any], dict[Path, str | None], Path | None]:
    """Write the files of a pair below ``out``.

    Returns:
        The record, the checksum of each file by its path where it is known, and the page's path.
    """
    from deformgan.cohort.outputs import write_registration

    naming = task.pair.naming
    assert naming is not None
    names, folder, page = names_of(naming), out / naming.folder, out / naming.report
    with staged_folder(folder, list(names.values()), force=True, last=names["record"]) as staged:
        plain = staged / _PLAIN
        plain.mkdir()
        record = write_registration(task, plain, found, maps_as=".h5")
        _rename(plain, staged, names)
        _write_sidecars(task, staged, names, record, _is_skull_stripped(task, found))
        report = _publish_report(plain / REPORT, page)
        shutil.rmtree(plain)
        written = sorted(path.name for path in staged.iterdir())
    paths: dict[Path, str | None] = {folder / name: None for name in written}
    if report:
        paths[page] = None
    return record, paths, page if report else None


def _rename(plain: Path, staged: Path, names: dict[str, str]) -> None:
    """What is there under a plain name, under its own."""
    images = {"moved": "moved", "moved_labels": "labels", "jacobian": "jacobian", "uncertainty": "uncertainty"}
    files = {f"{name}.nii.gz": key for name, key in images.items()}
    for name, key in {**files, "affine.txt": "affine", "warp.h5": "warp", "inverse_warp.h5": "inverse"}.items():
        if (plain / name).is_file():
            os.replace(plain / name, staged / names[key])


def _publish_report(staged: Path, page: Path) -> bool:
    if not staged.is_file():
        return False
    with staged_files([page], force=True) as (path,):
        os.replace(staged, path)
    return True


def _is_skull_stripped(task: Task, found: Registration) -> bool:
    """Whether the moving image shows a brain alone: as its sidecar says, else as its content is."""
    path = task.pair.files["moving"]
    try:
        said = parse_json(read_small(Path(path.removesuffix(".gz").removesuffix(".nii") + ".json")))
        return bool(said["SkullStripped"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    if found.pair is None:
        return False
    content = find_content(found.pair[1])
    return content.zero_background and content.volume_mm3(found.pair[1].grid) / 1e6 < _BRAIN_LITRES


def _write_sidecars(task: Task, staged: Path, names: dict[str, str], record: dict[str, Any], stripped: bool) -> None:
    """Sources, what the space refers to, and in the transform's sidecar the whole record."""
    pair = task.pair
    assert pair.naming is not None
    roots = {"raw": pair.naming.dataset, **pair.naming.links}
    sources = [_address(pair.files[role], roots) for role in ("moving", "fixed")]
    others = [_address(path, roots) for role, path in pair.files.items() if role not in ("moving", "fixed")]
    generated = {"GeneratedBy": [{"Name": "deformgan", "Version": __version__}]}
    common = {**generated, "Sources": [*sources, *others]}
    record = {name: value for name, value in record.items() if name not in ("outputs", "output_sha256")}
    quality = {"Verdict": record["quality"]["verdict"], "FinalSimilarity": record["quality"]["similarity_after"]}
    sidecars = {
        names["record"]: {**common, **quality, "Registration": record},
        names["moved_sidecar"]: {
            **common,
            "SpatialReference": sources[1],
            "SkullStripped": stripped,
            "Description": f"{pair.naming.source} resampled onto {pair.naming.target}",
        },
    }
    if (staged / names["labels"]).is_file():
        labels = [_address(pair.files["moving_labels"], roots), *sources]
        sidecars[names["labels_sidecar"]] = {**generated, "Sources": labels, "SpatialReference": sources[1]}
    if (staged / names["inverse"]).is_file():
        sidecars[names["inverse_sidecar"]] = {**generated, "Sources": sources[::-1]}
    for name, content in sidecars.items():
        (staged / name).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _address(path: str, roots: Mapping[str, str]) -> str:
    """``bids:raw:sub-01/anat/…`` by the first of ``roots`` it lies in, or the path of a file from somewhere else."""
    for name, root in roots.items():
        relative = os.path.relpath(path, root)
        if not relative.startswith(".."):
            return f"bids:{name}:{Path(relative).as_posix()}"
    return Path(path).absolute().as_uri()


def write_description(out: Path, root: Path, links: Mapping[str, Path]) -> None:
    """What a derivative says of itself: ``dataset_description.json``, ``.bidsignore`` and a README.

    Args:
        root: The data set it was made of.
        links: Further derivatives that were used, by name.
    """
    try:
        raw = parse_json(read_small(root / DESCRIPTION))
    except (OSError, ValueError):
        raw = {}
    raw = raw if isinstance(raw, dict) else {}
    source = {"URL": root.absolute().as_uri()} | ({"DOI": raw["DatasetDOI"]} if "DatasetDOI" in raw else {})
    tag = os.environ.get("DEFORMGAN_CONTAINER")
    container = {"Container": {"Type": "docker", "Tag": tag}} if tag else {}
    described = {
        "Name": f"deformgan: registrations of {raw.get('Name') or root.absolute().name}",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "deformgan", "Version": __version__, **container}],
        "SourceDatasets": [source],
        "DatasetLinks": {
            name: os.path.relpath(folder.absolute(), out.absolute()) for name, folder in {"raw": root, **links}.items()
        },
        **({"License": raw["License"]} if "License" in raw else {}),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in {
        DESCRIPTION: json.dumps(described, indent=2) + "\n",
        ".bidsignore": "\n".join(_IGNORED) + "\n",
        "README.md": _README,
    }.items():
        with atomic(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
