"""A folder of results that is whole or not there: written beside, moved in at the end, nothing left of a failure."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from deformgan.errors import InputError, UsageError, unwritable
from deformgan.output.staging import hidden_folder, one_at_a_time, undisturbed

# what a registration writes
RECORD = "registration.json"
REPORT = "report.html"
OUTPUTS = (
    "moved.nii.gz",
    "moved_labels.nii.gz",
    "moved_points.csv",
    "warp.nii.gz",
    "inverse_warp.nii.gz",
    "affine.txt",
    "jacobian.nii.gz",
    "uncertainty.nii.gz",
    REPORT,
    RECORD,
)


@contextmanager
def staged_folder(
    out: str | os.PathLike[str], names: Sequence[str], *, force: bool = False, last: str | None = None
) -> Iterator[Path]:
    """Yield an empty hidden folder; what is written into it appears in ``out`` when the block ends without an error.

    On any error, Ctrl-C included, ``out`` and the folders above it are as they were. A new ``out`` appears at once,
    by one rename; in an ``out`` that is there, the files named in ``names`` are replaced as one set (one that the new
    run did not write is removed, for it belongs to the old run), and everything else is left alone.

    Args:
        out: The folder of results.
        names: Every file or folder name that a run may write.
        force: Replace results that are there.
        last: The name moved in last and removed first, whose presence means a complete set.

    Raises:
        UsageError: ``out`` is a file, or holds results and ``force`` is not given.
        InputError: Nothing can be written there.
    """
    out = Path(out)
    check_free(out, names, force=force)
    made: list[Path] = []
    try:
        with ExitStack() as stack:
            try:
                staging = stack.enter_context(hidden_folder(_make_home(out, made)))
            except OSError as error:
                raise unwritable(out, error) from error
            with _named_as_asked(staging, out):
                yield staging
            with undisturbed():
                try:
                    _publish(staging, out, names, last, force=force)
                except OSError as error:
                    raise unwritable(out, error) from error
                made.clear()
    finally:
        with undisturbed():
            for folder in reversed(made):
                with suppress(OSError):  # somebody has put something there meanwhile: it is theirs now
                    folder.rmdir()


@contextmanager
def staged_addition(out: Path, name: str, is_current: Callable[[], bool]) -> Iterator[Path]:
    """Yield a hidden path; what is written there joins the set of results in ``out`` when the block ends.

    On any error, Ctrl-C included, ``out`` is as it was.

    Args:
        out: A folder of results, whole already.
        name: Of the file that joins them; one that is there is replaced.
        is_current: Asked at the end, while no other run can move results in; where they have been replaced meanwhile,
            the file is dropped, for it tells of others.

    Raises:
        InputError: Nothing can be written there.
    """
    with ExitStack() as stack:
        try:
            staging = stack.enter_context(hidden_folder(out))
        except OSError as error:
            raise unwritable(out, error) from error
        stack.enter_context(_named_as_asked(staging, out))
        yield staging / name
        with undisturbed(), one_at_a_time(out):
            if is_current():
                os.replace(staging / name, out / name)


@contextmanager
def staged_files(targets: Sequence[Path], *, force: bool = False) -> Iterator[list[Path]]:
    """Yield one hidden path for each target, of the same file name; all move into place when the block ends.

    On any error, Ctrl-C included, every target is as it was.

    Raises:
        UsageError: A target's folder does not exist, or it is there itself and ``force`` is not given.
        InputError: Nothing can be written there.
    """
    _check_targets(targets, force=force)
    with ExitStack() as stack:
        staged = []
        for target in targets:
            try:
                folder = stack.enter_context(hidden_folder(target.parent))
            except OSError as error:
                raise unwritable(target.parent, error) from error
            stack.enter_context(_named_as_asked(folder, target.parent))
            staged.append(folder / target.name)
        yield staged
        with undisturbed():
            _put(staged, targets, force=force)


def _check_targets(targets: Sequence[Path], *, force: bool) -> None:
    for target in targets:
        if not target.parent.is_dir():
            raise UsageError(f"cannot write {target}: {target.parent} is not a folder", "create the folder first")
        if target.is_dir() or (os.path.lexists(target) and not force):
            raise UsageError(f"{target} is there", "give `force=True` to replace it, or another name")
    places = [target.parent.resolve() / target.name for target in targets]
    if len(set(places)) < len(places):
        raise UsageError("two outputs have the same name", "give every input an output of its own")


def _put(staged: Sequence[Path], targets: Sequence[Path], *, force: bool) -> None:
    """Move files into place; without ``force`` nothing that has come there meanwhile is replaced."""
    done: list[Path] = []
    try:
        for path, target in zip(staged, targets, strict=True):
            if force or not _linked(path, target):
                os.replace(path, target)
            done.append(target)
    except FileExistsError as error:
        for target in done:
            target.unlink(missing_ok=True)
        hint = "give `force=True` to replace it, or another name"
        raise UsageError(f"{targets[len(done)]} is there: another run has just written it", hint) from error


def _linked(path: Path, target: Path) -> bool:
    """Give a file its place if it is free, in one step; False where the file system cannot and the place is free."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError(str(target)) from None
        return False
    return True


@contextmanager
def _named_as_asked(staging: Path, out: Path) -> Iterator[None]:
    """What cannot be written is named by where the user wants it, not by where it lies for the time being."""
    try:
        yield
    except InputError as error:
        if f"{staging}" not in str(error.args[0]):
            raise
        raise InputError(str(error.args[0]).replace(f"{staging}", f"{out}"), error.hint) from error


def check_free(out: Path, names: Sequence[str], *, force: bool) -> None:
    """Raise UsageError when ``out`` is not a folder, or one of ``names`` is in it and ``force`` is not given."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a folder", "give another output folder")
    present = [name for name in names if os.path.lexists(out / name)]
    if present and not force:
        raise UsageError(
            f"{out} already holds {', '.join(present)}", "give `force=True` to replace them, or another folder"
        )


def _make_home(out: Path, made: list[Path]) -> Path:
    """Where the staging folder goes: into ``out`` if it is there (it may be a mount of its own), else its parent."""
    if out.is_dir():
        return out
    for folder in reversed(out.absolute().parents):
        if not folder.exists():
            folder.mkdir()
            made.append(folder)
    return out.absolute().parent


def _publish(staging: Path, out: Path, names: Sequence[str], last: str | None, *, force: bool) -> None:
    if not out.is_dir():
        try:
            staging.rename(out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    with one_at_a_time(out):
        check_free(out, names, force=force)  # another run may have written here meanwhile
        written = {path.name for path in staging.iterdir()}
        if last is not None:
            _remove(out / last)
        for name in (name for name in names if name not in written):
            _remove(out / name)
        for name in sorted(written, key=lambda name: (name == last, name)):
            if (out / name).is_dir():
                _remove(out / name)
            os.replace(staging / name, out / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
