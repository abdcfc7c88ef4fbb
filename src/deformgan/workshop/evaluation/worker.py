"""A method in a process of its own, so that its peak memory is its own too.

``python -m deformgan.workshop.evaluation.worker`` reads one JSON job from stdin and answers on stdout, one JSON object
a line: ``{"row": …}`` for each case, or ``{"error": …}`` and no more. Everything else goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from deformgan.errors import DeformganError, InputError, UsageError
from deformgan.workshop.evaluation.methods import Compute, Spec

_ERRORS = {kind.__name__: kind for kind in (InputError, UsageError)}


def rows_in_worker(spec: Spec, jobs: Sequence[Any], compute: Compute) -> Iterator[dict[str, Any]]:
    """As `deformgan.workshop.evaluation.scoring.rows_of`, in a new process that ends when the caller stops listening.

    Raises:
        InputError, UsageError: As there, or the process was ended from outside, as for want of memory.
    """
    job = {"method": spec.text, "model": spec.model, "jobs": [asdict(one) for one in jobs], "compute": asdict(compute)}
    command = [sys.executable, "-m", "deformgan.workshop.evaluation.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=os.name == "posix"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            for line in process.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    kind, message, hint = answer["error"]
                    raise _ERRORS.get(kind, DeformganError)(message, hint)
                yield answer["row"]
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code < 0:
        raise InputError(f"{spec.name} was ended by signal {-code}", "it may have run out of memory: use smaller cases")
    if code:
        raise RuntimeError(f"{spec.name} failed, see above")


def main() -> int:
    """Do the job on stdin."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer

    def answer(**what: Any) -> None:
        answers.write(json.dumps(what, allow_nan=False) + "\n")
        answers.flush()

    import torch

    from deformgan.workshop.evaluation.methods import parse_method
    from deformgan.workshop.evaluation.scoring import Job, rows_of

    job = json.load(sys.stdin)
    compute = Compute(**job["compute"])
    torch.set_num_threads(compute.threads)
    try:
        for row in rows_of(parse_method(job["method"], job["model"]), [Job(**one) for one in job["jobs"]], compute):
            answer(row=row)
    except DeformganError as error:
        answer(error=[type(error).__name__, str(error.args[0]), error.hint])
    return 0


if __name__ == "__main__":
    sys.exit(main())
