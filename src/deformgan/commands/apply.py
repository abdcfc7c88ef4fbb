"""``deformgan apply``: carry further images, labels and points through saved transforms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from deformgan.commands.console import Console, success
from deformgan.commands.options import Force, Json, Messages, Threads
from deformgan.commands.transforms import Geometry, load
from deformgan.errors import InputError, UsageError
from deformgan.output.folder import staged_files

if TYPE_CHECKING:
    import numpy as np

    from deformgan.io.image import Image
    from deformgan.spatial.grid import Grid
    from deformgan.transforms.chain import Chain
    from deformgan.transforms.transform import Transform

KINDS = {"label": "a label map (values kept)", "linear": "an image (linear interpolation)"}


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Apply saved transforms to images, labels or points.

    Give inputs and outputs in pairs. Images are resampled onto the reference, 4-D series volume by volume; label maps are recognised (equal whole numbers side by side) and keep their values; points (.csv with columns x, y, z in world mm, RAS+) move with the image. Several transforms are chained as antsApplyTransforms does: the last one given is applied to the image first.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IN OUT", help_behavior_hint="")]
    """.nii, .nii.gz or .csv."""
    transform: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(aliases=["-t"], metavar="FILE[,inverse]")
    ] = ()
    """A transform of ANTs, ITK, FSL or FreeSurfer; may be repeated. ",inverse" after the name turns it round."""
    reference: Annotated[
        Path | None, tyro.conf.arg(aliases=["-r"], metavar="IMAGE", help_behavior_hint="(optional)")
    ] = None
    """The image whose grid the outputs get; points do without."""
    moving_geometry: Geometry = None
    """The moving image that FSL's transforms were made for; without it the input is taken for that."""
    interpolation: Literal["auto", "linear", "cubic", "label", "nearest"] = "auto"
    """auto: label for label maps, linear for images. label: the value with the largest share of the eight voxels around; nearest: that of the nearest voxel."""  # noqa: E501 — the help page wraps its paragraphs itself
    force: Force = False
    json: Json = False
    messages: Messages = field(default_factory=Messages)
    compute: Threads = field(default_factory=Threads)

    def run(self, console: Console) -> None:
        """Transform every input, then put all outputs in place at once.

        Raises:
            UsageError: Not in pairs, no transform, no reference for an image, or an output that is there.
        """
        pairs = self._pairs()
        self.compute.set_threads()
        transform = self._chain()
        done = []
        with staged_files([target for _, target in pairs], force=self.force) as staged, console.progress() as progress:
            onto = self._grid() if any(not is_points(source) for source, _ in pairs) else None
            for (source, target), path in zip(pairs, staged, strict=True):
                progress(f"applying to {source.name}")
                done.append({"in": str(source), "out": str(target), **self._apply(transform, source, path, onto)})
        for note in (note for one in done for note in one.get("notes", ())):
            console.note(note)
        console.result("\n".join(f"{one['out']}: {one['how']}" for one in done), success({"outputs": done}))

    def _pairs(self) -> list[tuple[Path, Path]]:
        from deformgan.io.points import require_csv

        if not self.files or len(self.files) % 2:
            raise UsageError(f"{len(self.files)} files are not pairs", "give IN OUT [IN OUT ...]")
        if not self.transform:
            raise UsageError("no transform was given", "name one with -t, for example -t out/warp.nii.gz")
        pairs = list(zip(self.files[::2], self.files[1::2], strict=True))
        targets = [target.absolute() for _, target in pairs]
        if len(set(targets)) < len(targets):
            raise UsageError("two outputs have the same name", "give every input an output of its own")
        for source, target in pairs:
            require_csv(source)
            if is_points(source) != is_points(target) or not target.name.endswith((".nii", ".nii.gz", ".csv")):
                raise UsageError(f"{target} does not fit {source}", "images go to .nii or .nii.gz, points to .csv")
            if not is_points(source) and self.reference is None:
                raise UsageError("no reference was given", "name the image whose grid the outputs get with -r")
        return pairs

    def _chain(self) -> Transform | Chain:
        """The whole map, from reference to input: the first transform meets a position first."""
        from deformgan.transforms.chain import Chain, chained

        maps = []
        for number, name in enumerate(self.transform):
            first, last = number == 0, number == len(self.transform) - 1
            grids = {
                "fixed": self._fixed_grid if first else partial(_between, name),
                "moving": self._moving_grid if last else partial(_between, name),
            }
            one = load(name, grids)
            maps += one.maps if isinstance(one, Chain) else [one]
        return chained(maps)

    def _fixed_grid(self) -> Grid:
        if self.reference is None:
            raise UsageError("no reference was given", "name with -r the fixed image that FSL's transform was made for")
        return self._grid()

    def _moving_grid(self) -> Grid:
        from deformgan.io.image import load_grid

        if self.moving_geometry is not None:
            return load_grid(self.moving_geometry)
        grids = [load_grid(source) for source in self.files[::2] if not is_points(source)]
        if not grids or any(grid != grids[0] for grid in grids):
            what = "the inputs are on different grids" if grids else "points have no grid"
            hint = "name with --moving-geometry the moving image that FSL's transform was made for"
            raise UsageError(f"the geometry of the moving image is not clear: {what}", hint)
        return grids[0]

    def _grid(self) -> Grid:
        from deformgan.io.image import load_grid

        assert self.reference is not None
        return load_grid(self.reference)

    def _apply(self, transform: Transform | Chain, source: Path, target: Path, onto: Grid | None) -> dict[str, Any]:
        if onto is None or is_points(source):
            from deformgan.io.points import read_points

            points = read_points(source)
            points.at(transform.apply_points(points.positions_mm)).save(target)
            return {"how": f"{len(points.positions_mm)} points"}
        from deformgan.io.time_series import is_series

        if is_series(source):
            return self._apply_series(transform, source, target, onto)
        from deformgan.io.image import load_exact

        image = load_exact(source)
        how, notes = self._how(source, [image.data])
        _require_meeting(transform, image, onto)
        transform.apply(_as_needed(image, how), onto, interpolation=how).save(target)
        return {"how": how, "notes": notes}

    def _apply_series(self, transform: Transform | Chain, source: Path, target: Path, onto: Grid) -> dict[str, Any]:
        from deformgan.io.time_series import load_series, write_series

        series = load_series(source)
        how, notes = self._how(source, (volume.data for volume in series))
        _require_meeting(transform, next(iter(series)), onto)
        notes += _directions(transform, source, len(series), onto)
        moved = (transform.apply(_as_needed(volume, how), onto, interpolation=how) for volume in series)
        write_series(target, moved, len(series), series.header)
        return {"how": how, "volumes": len(series), "notes": notes}

    def _how(self, source: Path, volumes: Iterable[np.ndarray]) -> tuple[str, list[str]]:
        """The interpolation, and what is to be told of it: what was guessed, and that whole numbers are blended."""
        from deformgan.io.label_maps import is_whole, looks_like_labels
        from deformgan.transforms.mapping import VALUES_KEPT

        if self.interpolation in VALUES_KEPT:
            return self.interpolation, []
        whole = labels = True
        for volume in volumes:
            whole = whole and is_whole(volume)
            labels = labels and whole and looks_like_labels(volume)
            if not whole:
                break
        how = self.interpolation if self.interpolation != "auto" else "label" if labels else "linear"
        if self.interpolation != "auto":
            if not whole:
                return how, []
            kind = "looks like a label map" if labels else "holds whole numbers"
            blended = f"{source} {kind} and was interpolated: if these are labels, give --interpolation label"
            return how, [f"warning: {blended}" if labels else blended]
        told = f"{source} was taken for {KINDS[how]}; --interpolation says otherwise"
        if how == "linear" and whole:
            kind = f"holds whole numbers and was taken for {KINDS[how]}"
            told = f"{source} {kind}: if these are labels, give --interpolation label"
        return how, [told]


# volumes that stand for something with a direction: spherical harmonics of order 4, 6 and 8 among them
_ORIENTED = {3: "a vector", 6: "a tensor", **dict.fromkeys((15, 28, 45), "the spherical harmonics of a function")}


def _directions(transform: Transform | Chain, source: Path, count: int, onto: Grid) -> list[str]:
    """What is to be told of a series that may hold directions: voxels are moved, directions are not rotated."""
    import numpy as np

    stem = source.name.removesuffix(".gz").removesuffix(".nii")
    beside = source.with_name(f"{stem}.bvec")
    if not beside.exists() and count not in _ORIENTED:
        return []
    held = f"has gradient directions in {beside.name}"
    what = held if beside.exists() else f"may hold {_ORIENTED[count]} a voxel ({count} volumes)"
    u, _, v = np.linalg.svd(transform.nearest_affine(onto).affine[:3, :3])
    angle = np.degrees(np.arccos(np.clip((np.trace(u @ v) - 1) / 2, -1, 1)))
    return [f"{source} {what}: directions are not rotated with the image; the map as a whole rotates by {angle:.1f}°"]


def _as_needed(image: Image, how: str) -> Image:
    """An exact image in the type it is resampled in: its own where values are kept, else 32-bit."""
    from deformgan.io.image import Image, require_computable
    from deformgan.io.values import exact_or_rounded, rounded
    from deformgan.transforms.mapping import VALUES_KEPT

    if how in VALUES_KEPT:
        return Image(exact_or_rounded(image.data), image.grid, image.name)
    require_computable(image)
    return Image(rounded(image.data), image.grid, image.name)


def _between(name: str) -> Grid:
    raise UsageError(
        f"{name} needs the geometry of its images, and one of them is between two transforms",
        "convert it first: deformgan convert FILE OUT --fixed IMAGE --moving IMAGE",
    )


def _require_meeting(transform: Transform | Chain, image: Image, onto: Grid) -> None:
    if not transform.meets(image.grid, onto):
        raise InputError(
            f"{image.name} and the reference do not overlap through this transform",
            "check that the transform belongs to these images, its direction (,inverse) and their headers",
        )


def is_points(path: Path) -> bool:
    """Whether a file holds points, by its name."""
    return path.suffix.lower() == ".csv"
