"""How many threads are taken, and that work goes on in forked, spawned and threaded programs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from deformgan.spatial.native import threads
from deformgan.spatial.native.threads import (
    Usage,
    _quota,
    available_cpus,
    beside,
    free_cpus,
    kernels_first,
    native_threads,
    one_thread,
    pytorch_too,
)
from deformgan.spatial.native.use import usable, without_kernels

LINE = "cpu{} {} {} {} 900 5 {} {} {} 0 0\n"  # core, user, nice, system, …, irq, softirq, steal


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job/one", {"job/cpu.max": "150000 100000", "job/one/cpu.max": "max 100000"}, 1.5),
        ("0::/job/one", {"cpu.max": "400000 100000", "job/cpu.max": "150000 100000"}, 1.5),
        ("0::/of/the/host", {"cpu.max": "50000 100000"}, 0.5),
        ("3:cpu,cpuacct:/x\n2:memory:/y", {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000"}, 3.0),
        ("3:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1"}, None),
        ("0::/job", {"job/cpu.max": "nonsense"}, None),
        ("", {}, None),
        ("nonsense", {"cpu.max": "max 100000"}, None),
    ],
)
def test_a_quota_is_found(tmp_path: Path, membership: str, files: dict[str, str], expected: float | None) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        if name.endswith("quota_us"):
            (path.parent / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "membership").write_text(membership + "\n")
    assert _quota(tmp_path, tmp_path / "membership") == expected
    assert _quota(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.5, 1), (1.0, 1), (1.5, 2), (2.1, 2), (64.0, 8)])
def test_a_quota_counts_and_not_the_host(monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "_quota", lambda root, membership: quota)
    assert available_cpus() == expected


def test_work_goes_on_beside_and_is_waited_for() -> None:
    before, go_on, ran_on = torch.get_num_threads(), threading.Event(), []

    def work() -> int:
        ran_on.append(threading.current_thread())
        assert go_on.wait(60)
        return 42

    torch.set_num_threads(2)
    try:
        found = beside(work)
        go_on.set()
        assert (found(), found()) == (42, 42)
    finally:
        torch.set_num_threads(before)
    assert len(ran_on) == 1
    assert ran_on[0] is not threading.current_thread()


def test_on_one_thread_nothing_goes_on_beside() -> None:
    ran_on = []
    with one_thread():
        found = beside(lambda: ran_on.append(threading.current_thread()))
        assert ran_on == []
        assert (found(), found()) == (None, None)
    assert ran_on == [threading.current_thread()]


@pytest.mark.parametrize("count", [1, 2])
def test_what_goes_wrong_beside_is_raised_where_it_is_asked_for(count: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        found = beside(lambda: 1 // 0)
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ZeroDivisionError):
        found()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_pinned_to_one_core_one_thread_is_taken() -> None:
    code = "from deformgan.spatial.native.threads import available_cpus; assert available_cpus() == 1"
    core = min(os.sched_getaffinity(0))
    pin = f"import os; os.sched_setaffinity(0, {{{core}}}); "
    subprocess.run([sys.executable, "-c", pin + code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("others", "expected"), [(0.0, 4), (0.4, 4), (1.0, 3), (2.2, 2), (4.0, 1), (9.0, 1), (-0.5, 4)]
)
def test_what_others_take_is_left_to_them(monkeypatch: pytest.MonkeyPatch, others: float, expected: int) -> None:
    monkeypatch.setattr(threads, "available_cpus", lambda: 4)
    before, after = Usage(100.0, 5000.0, 1.0), Usage(102.0, 5000.0 + 2 * others + 1.8, 2.8)
    assert free_cpus(before, after) == expected
    assert free_cpus(None, after) == 4
    assert free_cpus(before, None) == 4
    assert free_cpus(before, Usage(100.1, 5000.4, 1.0)) == 4  # too short to tell


def test_patient_programs_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "cpu 1 1 1 1\n" + LINE.format(0, 100, 7000, 30, 1, 2, 3) + LINE.format(1, 5, 0, 5, 0, 0, 0) + "intr 5\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    found = Usage.now()
    assert found is not None
    assert found.busy == pytest.approx((100 + 30 + 1 + 2 + 3) / 100)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system does not tell what others do")
def test_the_present_is_read() -> None:
    before = Usage.now()
    assert before is not None
    while (after := Usage.now()) is not None and after.at - before.at < 0.3:
        pass  # busy on purpose
    assert after is not None
    assert after.own > before.own
    assert after.busy >= before.busy


WORK = """
import torch
import sys, multiprocessing, threading
from deformgan.spatial.field import integrate
torch.set_num_threads(2)
def work(seed):
    velocity = torch.randn(1, 3, 20, 30, 30, generator=torch.Generator().manual_seed(seed))
    return float(integrate(velocity).square().mean() + torch.mm(velocity[0, 0, 0], velocity[0, 0, 1]).sum())
if __name__ == "__main__":
    expected = [work(seed) for seed in range(4)]  # both pools of threads are there now
    def check(way, found):
        assert torch.allclose(*map(torch.tensor, (found, expected)), rtol=1e-4), (way, found, expected)
        print(way, torch.get_num_threads(), flush=True)
"""
WAYS = {
    "fork": "with multiprocessing.get_context('fork').Pool(2) as pool: found = pool.map(work, range(4))",
    "spawn": "with multiprocessing.get_context('spawn').Pool(2) as pool: found = pool.map(work, range(4))",
    "threads": """found = [None] * 4
    def one(seed): found[seed] = work(seed)
    all_of_them = [threading.Thread(target=one, args=(seed,)) for seed in range(4)]
    [t.start() for t in all_of_them]; [t.join() for t in all_of_them]""",
    "joblib": "import joblib; found = joblib.Parallel(2)(joblib.delayed(work)(seed) for seed in range(4))",
    "futures": """from concurrent.futures import ProcessPoolExecutor
    found = list(ProcessPoolExecutor(2, multiprocessing.get_context('fork')).map(work, range(4)))""",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ways", "native"),
    [(("fork", "futures", "threads", "spawn"), "1"), (("fork", "joblib"), "0")],
    ids=["kernels", "pytorch"],
)
def test_programs_of_many_processes_and_threads(tmp_path: Path, ways: tuple[str, ...], native: str) -> None:
    """One way after the other in one program, which begins with an import; what it prints tells how far it came."""
    forks, has_joblib = hasattr(os, "fork"), importlib.util.find_spec("joblib") is not None
    ways = tuple(way for way in ways if (forks or way not in ("fork", "futures")) and (has_joblib or way != "joblib"))
    script = tmp_path / "work.py"
    script.write_text(WORK + "".join(f"    {WAYS[way]}\n    check({way!r}, found)\n" for way in ways))
    environment = {**os.environ, "DEFORMGAN_NATIVE": native, "GOMP_SPINCOUNT": "0"}
    environment.pop("OMP_NUM_THREADS", None)
    # without limits a hang would be found only by the suite's own
    done = subprocess.run([sys.executable, str(script)], env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "".join(f"{way} 2\n" for way in ways)


def test_one_thread_inside_and_as_many_as_before_afterwards() -> None:
    before, seen = torch.get_num_threads(), []

    @one_thread()
    def fails() -> None:
        seen.append(torch.get_num_threads())
        raise ValueError("inside")

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="inside"):
            fails()
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_kernels_have_the_threads_to_themselves_but_for_what_pytorch_does_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def now() -> tuple[int, int]:
        return torch.get_num_threads(), native_threads(1 << 20)

    if not usable():
        pytest.skip("no kernels here")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    before, beside_it = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        with kernels_first():
            assert now() == (1, 3)
            beside(lambda: beside_it.append(now()))()
            with pytorch_too():
                assert now() == (3, 3)
            with one_thread():
                assert now() == (1, 1)
                with kernels_first():
                    assert now() == (1, 1)
            assert now() == (1, 3)
            with kernels_first():
                assert now() == (1, 3)
        assert now() == (3, 3)
        with without_kernels(), kernels_first():
            assert torch.get_num_threads() == 3
        with pytest.raises(ValueError, match="inside"), kernels_first():
            raise ValueError("inside")
        assert now() == (3, 3)
        monkeypatch.setenv("GOMP_SPINCOUNT", "0")
        with kernels_first():
            assert now() == (3, 3), "threads that sleep are in nobody's way"
    finally:
        torch.set_num_threads(before)
    assert beside_it == [(1, 3)]
