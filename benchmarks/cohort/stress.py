"""Many small pairs through a scheduler and four workers, each a process, which are killed again and again.

    python benchmarks/cohort/stress.py -o OUT [--pairs 10000] [--workers 4] [--kill-every 5] [--kill-client 2]

The pairs are balls of 16³ voxels with a smaller ball on one side, and the weights an untrained network of that size, so
that the engine and not the registration is what is tried; one pair in a hundred is broken (no file, half a gzip, a
text). A worker is killed (SIGKILL) every so many seconds, once all four are at work, and another started; the command
itself is killed as often as said and started again.
Afterwards every pair is looked for in the table, in the rows and in the workers' journals: none may be lost, none done
twice. A JSON file joins results/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

from deformgan.models.load import save_model
from deformgan.networks import build

RESULTS = Path(__file__).parent / "results"
NETWORK = {"kind": "unet", "widths": [4, 8]}
DIFFERENT = 20  # images; the pairs take turns
BROKEN_EVERY = 100
QUICK = ["--transform", "deform", "--refine-steps", "0", "--no-inverse", "--no-jacobian", "--no-report"]


def write_inputs(folder: Path, count: int) -> Path:
    """Images, weights and the table of pairs."""
    folder.mkdir(parents=True)
    torch.manual_seed(4)
    save_model(folder / "weights", build(NETWORK), {"network": NETWORK, "grid": {"shape": [16] * 3, "spacing": 10.0}})
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij"))
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    for number in range(DIFFERENT):
        radius = np.sqrt((axes**2).sum(0)) * (1 + 0.01 * number)
        # not the same left and right: else a mirror image would fit as well, and be looked at three times
        aside = np.sqrt(((axes - np.array([0.4, 0.1, 0.0])[:, None, None, None]) ** 2).sum(0))
        image = ((radius < 0.8) * (1 + (aside < 0.3)) * 100).astype(np.uint8)
        nib.Nifti1Image(image, affine).to_filename(folder / f"{number}_fixed.nii.gz")
        nib.Nifti1Image(np.roll(image, 1, 0), affine).to_filename(folder / f"{number}_moving.nii.gz")
    whole = (folder / "0_moving.nii.gz").read_bytes()
    (folder / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("no image")
    damaged = ["none.nii.gz", "half.nii.gz", "text.nii.gz"]
    lines = ["id,fixed,moving"]
    for number in range(count):
        moving = f"{number % DIFFERENT}_moving.nii.gz"
        if number % BROKEN_EVERY == BROKEN_EVERY // 2:
            moving = damaged[number // BROKEN_EVERY % len(damaged)]
        lines.append(f"p{number:06d},{number % DIFFERENT}_fixed.nii.gz,{moving}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


class Cluster:
    """A scheduler and workers as processes of their own."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0")
        while not file.exists():
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]
        self.workers = [self._worker() for _ in range(workers)]
        self.kills = 0

    def _start(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        log = open(self._folder / f"{kind}.log", "ab")  # noqa: SIM115 — the process has it
        command = [sys.executable, "-m", "dask", kind, *words]
        return subprocess.Popen(command, stdout=log, stderr=log)

    def _worker(self) -> subprocess.Popen[bytes]:
        quiet = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]
        return self._start("worker", self.address, *quiet, "--local-directory", str(self._folder / "dask"))

    def all_at_work(self, out: Path) -> bool:
        """Whether every worker has begun a pair, which its journal says: else a busy machine would only start them."""
        folder = out / ".cohort" / "journal"
        return all((folder / f"{socket.gethostname()}-{worker.pid}.jsonl").exists() for worker in self.workers)

    def kill_one(self) -> None:
        """Kill a worker and start another."""
        place = random.randrange(len(self.workers))
        self.workers[place].kill()
        self.workers[place].wait()
        self.workers[place] = self._worker()
        self.kills += 1

    def end(self) -> None:
        """End all of it."""
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


def usage(pid: int) -> dict[str, float]:
    """Processor seconds, and resident MB now and at most, of a living process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {
        "processor_s": seconds,
        # a process that has ended and was not yet waited for has none
        "memory_mb": round(int(lines.get("VmRSS", "0").split()[0]) / 1e3, 1),
        "most_memory_mb": round(int(lines.get("VmHWM", "0").split()[0]) / 1e3, 1),
    }


def command(cluster: Cluster, table: Path, out: Path) -> list[str]:
    """The command line."""
    words = [sys.executable, "-m", "deformgan", "cohort", str(table), "-o", str(out), *QUICK]
    return [*words, "--model", str(table.parent / "weights"), "--scheduler", cluster.address, "--json"]


def retry(cluster: Cluster, table: Path, out: Path) -> dict[str, Any]:
    """The command once more with ``--retry-failed`` and without kills; what its answer says."""
    words = [*command(cluster, table, out), "--retry-failed"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    return {name: answer[name] for name in ("total", "done", "failed", "causes", "to_do_before")}


def run(cluster: Cluster, table: Path, out: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The command, from its first start to its own end."""
    words = command(cluster, table, out)
    start, before, samples = time.monotonic(), usage(cluster.scheduler.pid), []
    starts, next_kill, client_cpu = 1, start + given.kill_every, 0.0
    with open(table.parent / "client.log", "ab") as log:
        client = subprocess.Popen(words, stdout=log, stderr=log)
        while client.poll() is None:
            time.sleep(0.5)
            now = time.monotonic()
            if now > next_kill and cluster.all_at_work(out):
                cluster.kill_one()
                next_kill = now + given.kill_every * random.uniform(0.5, 1.5)
            if client.poll() is not None:
                break
            client_cpu = usage(client.pid)["processor_s"]
            done = sum(1 for _ in (out / ".cohort" / "rows").glob("??/*.json"))
            samples.append({"s": round(now - start, 1), "rows": done, **usage(cluster.scheduler.pid)})
            if starts <= given.kill_client and done > starts * given.pairs / (given.kill_client + 1):
                client.send_signal(signal.SIGKILL)
                client.wait()
                starts += 1
                client = subprocess.Popen(words, stdout=log, stderr=log)
    after = usage(cluster.scheduler.pid)
    return {
        "wall_s": round(time.monotonic() - start, 1),
        "exit_code": client.returncode,
        "client_starts": starts,
        "last_client_processor_s": client_cpu,
        "load": round(os.getloadavg()[0], 1),
        "workers_killed": cluster.kills,
        "scheduler_processor_ms_a_pair": round(1e3 * (after["processor_s"] - before["processor_s"]) / given.pairs, 2),
        "scheduler_memory_mb": [before["memory_mb"], after["memory_mb"], after["most_memory_mb"]],
        "samples": samples[:: max(1, len(samples) // 20)],
    }


def examine(out: Path, pairs: int) -> dict[str, Any]:
    """What became of every pair, by three independent books."""
    ended: Counter[str] = Counter()
    begun: Counter[str] = Counter()
    for path in (out / ".cohort" / "journal").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            (begun if event["event"] == "begun" else ended)[event["id"]] += 1
    header, *lines = [line.split("\t") for line in (out / "group_registration.tsv").read_text().splitlines()]
    status = Counter(line[header.index("status")] for line in lines)
    names = [f"p{number:06d}" for number in range(pairs)]
    broken = [name for n, name in enumerate(names) if n % BROKEN_EVERY == BROKEN_EVERY // 2]
    failed = {line[0]: line[header.index("cause")] for line in lines if line[header.index("status")] == "failed"}
    return {
        "table_rows": len(lines),
        "table_complete": [line[0] for line in lines] == names,
        "status": dict(status),
        "lost": sum(1 for name in names if not ended[name]),
        "ended_twice": sum(1 for name in names if ended[name] > 1),
        "begun_again_after_a_kill": sum(begun.values()) - len(begun),
        "broken": len(broken),
        "broken_named": sum(1 for name in broken if name in failed),
        "failed_without_being_broken": {name: cause for name, cause in failed.items() if name not in set(broken)},
        "left_in_claims": len(os.listdir(out / ".cohort" / "claims")),
        "unfinished_folders": sum(1 for _ in (out / "pairs").glob(".deformgan-*")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=5.0)
    parser.add_argument("--kill-client", type=int, default=2)
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    table = write_inputs(given.out, given.pairs)
    cluster = Cluster(given.out, given.workers)
    try:
        ran = run(cluster, table, given.out / "out", given)
        found = examine(given.out / "out", given.pairs)
        found["retried"] = retry(cluster, table, given.out / "out")
    finally:
        cluster.end()
    asked = {"pairs": given.pairs, "workers": given.workers, "kill_every_s": given.kill_every}
    found = {"machine": machine(), **asked, **ran, **found}
    sys.stdout.write(json.dumps({name: one for name, one in found.items() if name != "samples"}, indent=1) + "\n")
    sys.stdout.write(f"{keep('stress', found, RESULTS)}\n")


if __name__ == "__main__":
    main()
