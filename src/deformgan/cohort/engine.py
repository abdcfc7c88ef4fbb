"""Running tasks on workers: a few for each worker at a time, so that a million pairs never sit in the scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from deformgan.cohort.pair import Row, Task
from deformgan.cohort.worker import run_task
from deformgan.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, Future

FOR_EACH_WORKER = 4
FEWEST = 16
_LOOK_SECONDS = 5.0
STORAGE = "storage"  # the kind of failure that leaves no row
_MOST_BLAMED = 50


def run(
    client: Client, tasks: Iterator[Task], told: Callable[[dict[str, Any]], None], *, one_at_a_time: bool = False
) -> None:
    """Hand out tasks until there are none left; ``told`` hears of each as it ends.

    What is heard is what `run_task` returns. A task whose worker died is handed out again; `run_task` itself counts the
    deaths and gives the pair up.

    Args:
        one_at_a_time: No worker gets a task before it has ended the last, so that ``tasks`` may end at any moment.

    Raises:
        InputError: The scheduler went away, or its workers cannot do this work at all.
    """
    from distributed import as_completed

    window = _Window(client, one_at_a_time)
    asked: dict[tuple[str, str, str, int], tuple[Task, int]] = {}
    futures = as_completed(loop=client.loop)

    def ask(task: Task, time_again: int = 0) -> None:
        # the first of a key is what the scheduler keeps statistics of, for ever: it must not be a pair's name
        key = ("deformgan", task.pair.name, task.run, time_again)
        asked[key] = task, time_again
        futures.add(client.submit(run_task, task, key=key, pure=False))

    for task in islice(tasks, window.size()):
        ask(task)
    for future in futures:
        task, time_again = asked.pop(future.key)
        found = _result(future, task, time_again)
        future.release()
        if found is None:
            ask(task, time_again + 1)
        else:
            told(found)
        for following in islice(tasks, max(0, window.size() - len(asked))):
            ask(following)


class _Window:
    """How many tasks may be with the scheduler, by the number of its workers now."""

    def __init__(self, client: Client, one_at_a_time: bool) -> None:
        self._client = client
        self._fewest, self._each = (1, 1) if one_at_a_time else (FEWEST, FOR_EACH_WORKER)
        self._size, self._until = self._fewest, 0.0

    def size(self) -> int:
        if time.monotonic() > self._until:
            workers = len(cast(dict[str, int], self._client.nthreads()))
            self._size = max(self._fewest, self._each * workers)
            self._until = time.monotonic() + _LOOK_SECONDS
        return self._size


def _result(future: Future, task: Task, time_again: int) -> dict[str, Any] | None:
    """What came of a task; None where it is to be handed out again."""
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise InputError("the scheduler went away", "start it, then the same command again: what is done stays done")
    error = cast(BaseException | None, future.exception())  # the client is not asynchronous
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker) and time_again < _MOST_BLAMED:
        return None
    if isinstance(error, ImportError):
        hint = "install the same deformgan[cohort] there"
        raise InputError(f"the workers cannot run deformgan: {error}", hint)
    return _unwritten(task, error)


def _unwritten(task: Task, error: BaseException) -> Row:
    """A pair whose row could not even be written; the next run begins it again."""
    cause = f"{type(error).__name__}: {error}"
    row = {"id": task.pair.name, "status": "failed", "verdict": None, "kind": STORAGE, "cause": cause}
    return row | {"seconds": None, "again": True}
