"""How long the command and other tools take for one pair: whole processes, in turn, so that ratios are of one run.

    python benchmarks/rivals/seconds.py CASE [--rounds 3] [--threads 2] [--rivals PYTHON] [--avx2] [--tools NAME ...]

CASE has fixed.nii.gz and moving.nii.gz on one RAS+ grid of cubic voxels. Other tools run through tools.py, by the
interpreter that --rivals names; those that it does not have are left out. Seconds are the clock's and the processor's,
from the start of a process to its end: start-up, reading, writing and the command's report included. Each round gives
ratios to greedy of that round, and their medians are told. --avx2 keeps PyTorch to that instruction set, as most
laptops have it. A JSON file joins benchmarks/rivals/results. For a quiet machine: `load` in the file tells.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

REFERENCE = "greedy-nmi"
OURS = {"deformgan": [], "deformgan-refine-0": ["--refine-steps", "0"]}
RIVALS = ("greedy-nmi", "ants-syn-mi", "niftyreg-nmi", "convexadam")
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
LIMITS = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OPENBLAS_NUM_THREADS")


def command(name: str, case: Path, out: Path, threads: int, rivals: str) -> list[str]:
    """The words that run one tool."""
    if name not in OURS:
        return [rivals, str(Path(__file__).with_name("tools.py")), name, str(case), str(out), str(threads)]
    words = ["register", "-f", str(case / "fixed.nii.gz"), "-m", str(case / "moving.nii.gz"), "-o", str(out / "out")]
    return [sys.executable, "-m", "deformgan", *words, "--force", "--threads", str(threads), *OURS[name]]


def run(words: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Seconds by the clock and of the processor, of the process and its children.

    Raises:
        RuntimeError: It failed.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start, load = time.perf_counter(), os.getloadavg()[0]
    child = subprocess.Popen(words, env=environment, **quiet)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 4):  # 4: done, but the quality check failed
        raise RuntimeError(f"exit code {child.returncode} of {' '.join(words)}")
    return {"s": time.perf_counter() - start, "processor_s": usage.ru_utime + usage.ru_stime, "load": load}


def is_there(name: str, rivals: str) -> bool:
    """Whether a rival can be run by that interpreter."""
    code = f"import sys, tools; sys.exit(not tools.installed({name!r}))"
    folder = Path(__file__).parent
    return subprocess.run([rivals, "-c", code], cwd=folder, capture_output=True, check=False).returncode == 0


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Of each tool the medians, and its ratios to the reference of the same round."""
    found: dict[str, dict[str, Any]] = {}
    for name in rounds[0]:
        found[name] = {key: statistics.median(one[name][key] for one in rounds) for key in ("s", "processor_s")}
        for key in ("s", "processor_s") if REFERENCE in rounds[0] else ():
            found[name][f"{key}_ratios"] = ratios = [one[name][key] / one[REFERENCE][key] for one in rounds]
            found[name][f"{key}_ratio"] = statistics.median(ratios)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rivals", default=sys.executable, help="interpreter of an environment with the other tools")
    parser.add_argument("--tools", nargs="+", choices=[*RIVALS, *OURS], default=[*RIVALS, *OURS])
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    console = Console()
    tools = [name for name in options.tools if name in OURS or is_there(name, options.rivals)]
    console.print(f"left out, not installed: {sorted(set(options.tools) - set(tools))}")
    ours = {**os.environ, **(AVX2 if options.avx2 else {})}
    theirs = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    theirs |= dict.fromkeys(LIMITS, str(options.threads))
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as work:
        run(command("deformgan", options.case, Path(work), options.threads, ""), ours)  # files are in memory now
        for _ in range(options.rounds):
            rounds.append({})
            for name in tools:
                words = command(name, options.case, Path(work), options.threads, options.rivals)
                rounds[-1][name] = run(words, ours if name in OURS else theirs)
                console.print(name, rounds[-1][name])
    tool_figures = summary(rounds)
    table = Table("tool", "s", "processor s", f"s / {REFERENCE}", f"processor s / {REFERENCE}")
    for name, of in tool_figures.items():
        keys = ("s", "processor_s", "s_ratio", "processor_s_ratio")
        table.add_row(name, *(f"{of[key]:.3g}" if key in of else "–" for key in keys))
    console.print(table)
    result = {"machine": machine(), "threads": options.threads, "avx2": options.avx2, "tools": tool_figures}
    console.print(str(keep("seconds", result | {"rounds": rounds}, options.results)))


if __name__ == "__main__":
    main()
