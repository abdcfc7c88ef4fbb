"""Medical Segmentation Decathlon, Task01_BrainTumour: ``dataset.json`` and one 4-D file a patient."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from deformgan.errors import InputError
from deformgan.io.untrusted import parse_json, read_small
from deformgan.workshop.datasets.patients import ENDINGS, Case, Flaw, Source, can_be_a_name, path_inside, printable

LIST = "dataset.json"

_MOST_BYTES = 16 << 20
_MOST_VOLUMES = 64
_MODALITIES = {
    "flair": "flair",
    "t1": "t1",
    "t1w": "t1",
    "t1gd": "t1ce",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t2": "t2",
    "t2w": "t2",
}


def read_decathlon(root: Path) -> list[Case]:
    """The training cases that ``dataset.json`` lists, with the order of the volumes it states.

    Raises:
        InputError: The list is unreadable, has no cases, or names fewer than two contrasts of the brain.
    """
    path = root / LIST
    content = _read_list(path)
    volumes = _volumes(content, path)
    entries = content.get("training")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} lists no cases under “training”", "use the file that came with the data set")
    cases = [_case(root, entry, volumes, number) for number, entry in enumerate(entries, 1)]
    return [case for case in cases if case is not None]


def _read_list(path: Path) -> dict[str, Any]:
    hint = "use the file that came with the data set"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} is larger than any list of cases", hint)
        content = parse_json(read_small(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {printable(error)}", hint) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not the list of a data set", hint)
    return content


def _volumes(content: dict[str, Any], path: Path) -> dict[str, int]:
    """Contrast → index of its volume, of ``"modality": {"0": "FLAIR", …}``."""
    stated = content.get("modality")
    found: dict[str, int] = {}
    for key, name in stated.items() if isinstance(stated, dict) else ():
        contrast = _MODALITIES.get(str(name).strip().lower())
        if contrast and key.isascii() and key.isdigit() and len(key) < 4 and int(key) < _MOST_VOLUMES:
            found.setdefault(contrast, int(key))
    if len(found) < 2:
        says = printable(", ".join(map(str, stated.values())) if isinstance(stated, dict) else stated)
        raise InputError(
            f"{path} states the modalities “{says}”, fewer than two contrasts of the brain",
            "use Task01_BrainTumour, or state FLAIR, T1w, t1gd and T2w",
        )
    return found


def _case(root: Path, entry: Any, volumes: dict[str, int], number: int) -> Case | None:
    """A case of the list; nothing for the hidden files that some systems put beside the real ones."""
    image, label = (entry.get(key) if isinstance(entry, dict) else None for key in ("image", "label"))
    hint = "use the list that came with the data set"
    if not isinstance(image, str):
        return Case(f"entry {number} of {LIST}", {}, flaws=(Flaw("it names no image", hint),))
    file = PurePosixPath(image).name
    if file.startswith("."):
        return None
    name = next((file.removesuffix(ending) for ending in ENDINGS if file.endswith(ending)), file)
    if not can_be_a_name(name):
        return Case(f"entry {number} of {LIST}", {}, flaws=(Flaw(f"“{printable(name)}” is no name", hint),))
    flaws, missing = [], []
    images, outline = {}, None
    try:
        source = path_inside(root, image)
        images = {contrast: Source(source, volume) for contrast, volume in volumes.items()}
    except InputError as error:
        flaws.append(Flaw(str(error.args[0]), error.hint))
    if isinstance(label, str):
        try:
            outline = Source(path_inside(root, label))
        except InputError as error:
            flaws.append(Flaw(str(error.args[0]), error.hint))
            missing.append("outline")
    return Case(name, images, outline, tuple(flaws), tuple(missing))
