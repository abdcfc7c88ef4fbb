"""One pair on a worker: claim it, register it, write its folder, and leave a row that says what became of it."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from deformgan import __version__
from deformgan.cohort.locks import claim
from deformgan.cohort.pair import Row, Settings, Task
from deformgan.cohort.plan import describe, judge_row
from deformgan.cohort.store import Store
from deformgan.errors import EXIT_BUG, DeformganError, InputError, is_out_of_memory

if TYPE_CHECKING:
    from deformgan.models.load import Model

MOST_DEATHS = 2
EXIT_KILLED = 137  # as the system says of a process that was killed
_KINDS = {2: "usage", 3: "input"}


def run_task(task: Task) -> dict[str, Any]:
    """Do one pair, unless it turns out to be done; never raises for what is wrong with a pair.

    Returns:
        Of its row what the one who asked shows: ``id``, ``status``, ``verdict``, ``cause``, ``seconds``; ``again`` is
        False where nothing had to be done.

    Raises:
        OSError: The row itself cannot be written.
    """
    store, name = Store(task.out), task.pair.name
    _get_ready(task.settings)
    with claim(store.claim_path(name), task.run) as deaths:
        row = store.read_row(name)
        state = judge_row(store.out, task.pair, task.settings, row)
        settled = state == "done" or (state == "failed" and (not task.again or (row or {}).get("run") == task.run))
        if row is None or not settled:
            store.note("begun", name, task.run)
            row = _dead(task, deaths) if deaths >= MOST_DEATHS else _done(task, store)
            store.write_row(row)
            store.note(row["status"], name, task.run)
    return {key: row[key] for key in ("id", "status", "verdict", "kind", "cause", "seconds")} | {"again": not settled}


def _done(task: Task, store: Store) -> Row:
    """The row of a pair that is registered now."""
    start = time.perf_counter()
    inputs = {role: describe(path) for role, path in task.pair.files.items()}
    row = _row(task, inputs)
    try:
        limit_memory(task.settings.memory_bytes)
        from deformgan.cohort.outputs import write_outputs

        row |= write_outputs(task, store, _registered(task))
    except DeformganError as error:
        row |= {"exit": error.exit_code, "kind": _KINDS.get(error.exit_code, "other"), "cause": str(error)}
    except (MemoryError, RuntimeError) as error:
        row |= _memory(task.settings) if is_out_of_memory(error) else _bug(error)
    except Exception as error:  # a broken pair never stops the others
        row |= _bug(error)
    return row | {"seconds": round(time.perf_counter() - start, 3)}


def _row(task: Task, inputs: dict[str, Any]) -> Row:
    return {
        "id": task.pair.name,
        "status": "failed",
        "verdict": None,
        "exit": EXIT_BUG,
        "kind": "",
        "cause": "",
        "run": task.run,
        "digest": task.settings.digest(),
        "version": __version__,
        "weights": task.settings.weights,
        "weights_sha256": task.settings.weights_sha256,
        "worker": os.getpid(),
        "ended": round(time.time(), 3),
        "inputs": inputs,
        "outputs": {},
        "figures": {},
        "report": None,
        "seconds": None,
    }


def _registered(task: Task) -> Any:
    """The `Registration` of a pair, with the arguments recorded."""
    import torch

    from deformgan.align.options import Options
    from deformgan.pipeline import register

    settings, given = task.settings, dict[str, Any](task.pair.files)
    torch.set_num_threads(settings.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are in the record
        found = register(
            given.pop("fixed"),
            given.pop("moving"),
            model=settings.weights
            if settings.is_linear
            else _model(settings.weights, settings.device, settings.weights_sha256),
            options=Options(**settings.options_as_dict()),
            **given,
        )
    return replace(found, provenance={**found.provenance, "arguments": _arguments(task)})


def _get_ready(settings: Settings) -> None:
    """Import and load what every pair needs, before one is claimed: a worker that dies meanwhile died of none.

    What goes wrong here goes wrong again with the pair, and is told there.
    """
    with suppress(DeformganError, MemoryError, RuntimeError):
        import deformgan.pipeline  # noqa: F401

        if not settings.is_linear:
            _model(settings.weights, settings.device, settings.weights_sha256)


@lru_cache(maxsize=1)
def _model(weights: str, device: str, checksum: str | None) -> Model:
    """The weights, loaded once in a worker's life.

    Raises:
        InputError: The worker has others than those that the cohort began with.
    """
    from deformgan.models.device import pick_device
    from deformgan.models.load import load_model

    model = load_model(weights, pick_device(device))
    if model.sha256 != checksum:
        raise InputError(f"the weights {weights} are not those that this cohort began with", "start it again")
    return model


def _arguments(task: Task) -> dict[str, Any]:
    """What ``deformgan register`` would have to be told to do the same alone, for the report shows it as a command."""
    settings = task.settings
    unwanted = {f"no_{name}": not getattr(settings, name) for name in ("inverse", "jacobian", "report")}
    given = {"command": "register", **task.pair.files, "out": task.pair.name, "model": settings.weights}
    return given | settings.options_as_dict() | unwanted | {"threads": settings.threads}


def limit_memory(most_bytes: int | None) -> None:
    """Let this process ask for no more memory than so much, so that it is told no instead of being killed."""
    if most_bytes is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _memory(settings: Settings) -> dict[str, Any]:
    limit = f" (limit {settings.memory_bytes / 1e9:.1f} GB)" if settings.memory_bytes else ""
    cause = f"it needs more memory than a worker may have{limit} — give --memory-limit more, or fewer workers"
    return {"exit": InputError.exit_code, "kind": "memory", "cause": cause}


def _bug(error: Exception) -> dict[str, Any]:
    lines = "".join(traceback.format_exception(error))[-4000:]
    return {"exit": EXIT_BUG, "kind": "bug", "cause": f"{type(error).__name__}: {error}"[:500], "traceback": lines}


def _dead(task: Task, deaths: int) -> Row:
    inputs = {role: describe(path) for role, path in task.pair.files.items()}
    cause = f"{deaths} workers died while they had it: perhaps it needs more memory than there is"
    return _row(task, inputs) | {"exit": EXIT_KILLED, "kind": "killed", "cause": cause, "seconds": 0.0}
