"""Time of T under PyTorch, ONNX Runtime and OpenVINO, and of importing each, in one run.

    python benchmarks/runtimes/run.py [--model t1-t2] [--threads 1 2] [--rounds 5] [--results DIR]

Each runtime at each number of threads is a process of its own. Import seconds are those of a fresh process that has
numpy; load is reading the network; the median and best of the rounds come after one that does not count. OpenVINO
(`pip install openvino`) is left out, with the reason, where it is not installed or refuses the graph. Shared machines
wander: compare within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

RUNTIMES = ("pytorch-fp32", "pytorch-bf16", "onnxruntime-fp32", "openvino-fp32", "openvino-bf16")


def measure(runtime: str, threads: int, weights: str, graph: str, rounds: int) -> dict[str, object]:
    """One runtime in this process: seconds of import, load and run, and the largest difference from fp32 PyTorch."""
    import numpy as np

    pair = dict(np.load(Path(graph).with_suffix(".npz")))
    expected = pair.pop("expected")
    tool, precision = runtime.rsplit("-", 1)
    start = time.perf_counter()
    if tool == "pytorch":
        import torch

        imported = time.perf_counter()
        from deformgan.models.load import load_model

        torch.set_num_threads(threads)
        model = load_model(weights)
        images = [torch.from_numpy(pair[name]) for name in ("fixed", "moving")]

        def run() -> np.ndarray:
            return model.predict(*images, precision=precision).numpy()
    elif tool == "onnxruntime":
        import onnxruntime

        imported = time.perf_counter()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

        def run() -> np.ndarray:
            return session.run(None, pair)[0]
    else:
        import openvino

        imported = time.perf_counter()
        hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
        compiled = openvino.compile_model(graph, "CPU", settings)

        def run() -> np.ndarray:
            return compiled(pair)[0]

    loaded = time.perf_counter()
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - begin)
    return {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "first_s": seconds[0],
        "median_s": statistics.median(seconds[1:]),
        "best_s": min(seconds[1:]),
        "max_difference_voxels": float(np.abs(result - expected).max()),
    }


def prepare(weights: str, graph: Path) -> None:
    """The graph, a pair of images and what fp32 PyTorch makes of it."""
    import numpy as np
    import torch

    from deformgan.models.load import load_model
    from deformgan.models.onnx_export import export_onnx

    model = load_model(weights)
    export_onnx(model, graph)
    fixed, moving = torch.rand(2, 1, 1, *model.grid_shape, generator=torch.Generator().manual_seed(1))
    expected = model.predict(fixed, moving, "fp32")
    np.savez(graph.with_suffix(".npz"), fixed=fixed.numpy(), moving=moving.numpy(), expected=expected.numpy())


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="t1-t2")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # runtime and graph, for the child process
    options = parser.parse_args()
    if options.one:
        row = measure(options.one[0], options.threads[0], options.model, options.one[1], options.rounds)
        sys.stdout.write(json.dumps(row) + "\n")
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "t.onnx"
        prepare(options.model, graph)
        for threads in options.threads:
            for runtime in RUNTIMES:
                command = [sys.executable, __file__, "--model", options.model, "--rounds", str(options.rounds)]
                command += ["--threads", str(threads), "--one", runtime, str(graph)]
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                )
                if done.returncode:
                    row = {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
                else:
                    row = json.loads(done.stdout.splitlines()[-1])
                rows.append({"runtime": runtime, "threads": threads, "load": os.getloadavg()[0], **row})
                sys.stderr.write(f"{runtime}, {threads} threads: {row}\n")
    columns = ("import_s", "load_s", "first_s", "median_s", "best_s", "max_difference_voxels")
    sys.stdout.write("| runtime | threads | " + " | ".join(columns) + " |\n|---|---:|" + "---:|" * len(columns) + "\n")
    for row in rows:
        cells = [row["error"]] if "error" in row else [f"{row[c]:.3g}" for c in columns]
        sys.stdout.write(f"| {row['runtime']} | {row['threads']} | " + " | ".join(cells) + " |\n")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from measuring import keep, processor  # not in the child processes, whose imports are timed

    names = ("torch", "onnxruntime", "openvino", "numpy")
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    machine["packages"] = {name: installed(name) for name in names}
    sys.stderr.write(f"{keep('runtimes', {'machine': machine, 'rows': rows}, options.results)}\n")


if __name__ == "__main__":
    main()
