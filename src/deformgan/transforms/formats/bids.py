"""Names of transform files as BIDS derivatives have them: ``sub-01_from-T1w_to-T2w_mode-image_xfm.h5``.

As in fMRIPrep, ``from`` is the space of the image that is moved and ``to`` the space it is brought to; the file itself
pulls, from ``to`` to ``from``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from deformgan.errors import UsageError

EXTENSIONS = (".h5", ".txt", ".nii.gz")
_LABEL = re.compile(r"[0-9A-Za-z]+")
_ENTITY = re.compile(r"([a-z]+)-([0-9A-Za-z+]+)")
_HINT = "as in sub-01_from-T1w_to-T2w_mode-image_xfm.h5; .h5, .txt and .nii.gz are the endings"


@dataclass(frozen=True)
class XfmName:
    """The parts of such a name.

    Args:
        source: The space images come from (``from``): letters and digits.
        target: The space they are brought to (``to``).
        extension: ``.h5``, ``.txt`` or ``.nii.gz``.
        entities: What stands before, such as ``("sub-01", "ses-1")``.
    """

    source: str
    target: str
    extension: str
    entities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sound = all(_LABEL.fullmatch(label) for label in (self.source, self.target))
        if not sound or self.extension not in EXTENSIONS or not all(map(_ENTITY.fullmatch, self.entities)):
            raise UsageError(f"{self} is no BIDS name of a transform", _HINT)

    def __str__(self) -> str:
        stem = "_".join([*self.entities, f"from-{self.source}", f"to-{self.target}", "mode-image", "xfm"])
        return stem + self.extension

    def inverse(self) -> XfmName:
        """The name of the transform the other way."""
        return replace(self, source=self.target, target=self.source)


def is_xfm(path: str | Path) -> bool:
    """Whether a file's name wants to be such a name."""
    return Path(path).name.split(".")[0].endswith("_xfm")


def parse(path: str | Path) -> XfmName:
    """Take a file's name apart.

    Raises:
        UsageError: it is no such name.
    """
    name = Path(path).name
    stem, dot, extension = name.partition(".")
    *entities, suffix = stem.split("_")
    pairs = [_ENTITY.fullmatch(entity) for entity in entities]
    values = {match[1]: match[2] for match in pairs if match}
    if suffix != "xfm" or not all(pairs) or len(values) < len(pairs) or not {"from", "to"} <= values.keys():
        raise UsageError(f"{name} is no BIDS name of a transform", _HINT)
    if values.get("mode") != "image":
        raise UsageError(f"{name} is not named as a transform of images", "its mode should be: mode-image")
    others = tuple(entity for entity in entities if entity.split("-")[0] not in ("from", "to", "mode"))
    return XfmName(values["from"], values["to"], dot + extension, others)
