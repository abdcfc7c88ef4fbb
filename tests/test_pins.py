"""constraints.txt pins everything that the project installs, as far as it is installed here."""

from __future__ import annotations

import importlib.metadata as metadata
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    """Name → version of every line."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(one) == 2 for one in found), "each line is NAME==VERSION"
    return {canonicalize_name(name): version for name, version in found}


def needed(name: str, extras: frozenset[str], seen: dict[str, set[str]]) -> dict[str, set[str]]:
    """Everything installed that a distribution with these extras asks for, itself included; name → who asks."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return seen
    for text in distribution.requires or []:
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}
        )
        if not wanted:
            continue
        other = canonicalize_name(requirement.name)
        first = other not in seen or not requirement.extras <= seen[other]
        seen.setdefault(other, set()).update(requirement.extras)
        if first:
            needed(requirement.name, frozenset(requirement.extras), seen)
    return seen


def test_every_dependency_is_pinned() -> None:
    extras = frozenset({"", *(metadata.metadata("deformgan").get_all("Provides-Extra") or [])})
    asked = needed("deformgan", extras, {}).keys() - {"deformgan"}
    assert {"torch", "numpy", "jinja2", "pytest", "h5py"} <= asked, "the walk finds what is known to be there"
    installed = {canonicalize_name(one.metadata["Name"]) for one in metadata.distributions()}
    # a GPU's libraries differ from build to build of PyTorch; the installers are the environment's own
    others = re.compile(r"nvidia-|cuda-|triton|pip$|setuptools$")
    missing = sorted(name for name in (asked & installed) - pins().keys() if not others.match(name))
    assert missing == [], "pin these in constraints.txt"


def test_pins_are_sound_and_allowed() -> None:
    own = [Requirement(text) for text in metadata.requires("deformgan") or []]
    wrong = [
        str(requirement)
        for requirement in own
        if (version := pins().get(canonicalize_name(requirement.name)))
        and not requirement.specifier.contains(Version(version), prereleases=True)
    ]
    assert wrong == [], "constraints.txt pins what pyproject.toml refuses"
    names = list(pins())
    assert len(names) == len(set(names)), "each once"
