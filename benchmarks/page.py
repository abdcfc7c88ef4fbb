"""Renders the results of the topics below as one page: what was measured, when, on what machine, newest first.

    python benchmarks/page.py [--root benchmarks]

writes ``RESULTS.md`` there, and ``scaling/results/scaling.svg``, the curves of the newest scaling run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from deformgan.io.atomic import atomic

KINDS = {
    "speed": "Time and memory",
    "scaling": "Growth with the volume",
    "roofline": "What of the processor is used",
    "losses": "Losses against other implementations",
    "affine": "The affine stage",
    "lesions": "What a lesion mask keeps",
}


def found(root: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """For each kind its results, newest first, with the time in their names."""
    kept: dict[str, list[tuple[str, dict[str, Any]]]] = {kind: [] for kind in KINDS}
    for path in sorted(root.glob("*/results/*.json"), key=lambda path: path.name, reverse=True):
        stamp, _, kind = path.stem.rpartition("-")
        if kind in kept and kind == path.parts[-3]:
            kept[kind].append((stamp, json.loads(path.read_text(encoding="utf-8"))))
    return kept


def where(result: dict[str, Any]) -> str:
    """The machine in a few words."""
    machine = result.get("machine", {})
    words = [machine.get("processor") or machine.get("cpu") or "unknown processor"]
    words += [f"{machine[k]} {k}" for k in ("cores",) if k in machine]
    words += [f"load {machine[k]:.1f}" for k in ("load", "load_at_start") if k in machine]
    threads = result.get("threads", machine.get("threads"))
    return ", ".join([*words, *([f"{threads} threads"] if threads else [])])


def speed(result: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['median_s']:.3f}", f"{row['best_s']:.3f}", f"{row['peak_mb']:.0f}" if "peak_mb" in row else "–"]
        for name, row in result["rows"].items()
    ]
    return table(["what", "median s", "best s", "peak MB"], rows)


def scaling(result: dict[str, Any]) -> str:
    rows = [
        [f"{r['side']}³", str(r["threads"]), f"{r['wall_s']:.2f}", f"{r['processor_s']:.2f}", f"{r['peak_mb']:.0f}"]
        for r in result["rows"]
    ]
    fits = [
        [threads, name, f"{fit['exponent']:.2f}", f"{fit['start']:.2f}", f"{fit['per_million_voxels']:.3f}"]
        for threads, of in result["fits"].items()
        for name, fit in of.items()
        if not name.startswith("stage")
    ]
    return "\n".join(
        [
            f"{result['refine_steps']} refinement steps.\n",
            table(["voxels", "threads", "wall s", "processor s", "peak MB"], rows),
            table(["threads", "cost", "exponent", "start-up", "per million voxels"], fits),
        ]
    )


def roofline(result: dict[str, Any]) -> str:
    rows = [
        [r["what"], r["precision"], f"{r['flops'] / 1e9:.1f}", f"{r['seconds']:.4f}",
         f"{r['flops_per_second'] / 1e9:.0f}", f"{r['of_convolution']:.0%}"]
        for r in result["rows"]
    ]  # fmt: skip
    head = ["what", "precision", "GFLOP", "seconds", "GFLOP/s", "of the convolution"]
    return f"Memory {result['bytes_per_second'] / 1e9:.1f} GB/s.\n\n{table(head, rows)}"


def losses(result: dict[str, Any]) -> str:
    rows = [
        [name, f"{r['ours_ms']:.0f}", f"{r['theirs_ms']:.0f}", f"{r['ratio']:.1f}"]
        for name, r in result["losses"].items()
        if "theirs_ms" in r
    ]
    return table(["loss, value and gradient", "ours, ms", "theirs, ms", "ratio"], rows)


def affine(result: dict[str, Any]) -> str:
    limit = result["success_mm"]
    rows = []
    for method, starts in (entry for entry in result["rows"].items() if entry[1]):
        errors, seconds = ([start[name] for start in starts] for name in ("error_mm", "s"))
        good = sum(error < limit for error in errors)
        share = f"{good} of {len(starts)} ({good / len(starts):.0%})"
        rows.append([method, share, f"{median(errors):.2f}", f"{max(errors):.1f}", f"{median(seconds):.2f}"])
    return table(["method", f"below {limit:g} mm", "median error, mm", "largest, mm", "median s"], rows)


def plain(result: dict[str, Any]) -> str:
    """The summary that a benchmark wrote beside its figures."""
    rows = result.get("summary", [])
    if isinstance(rows, dict):
        rows = [{"": name, **row} for name, row in rows.items() if isinstance(row, dict)]
    if not rows:
        return "See the file.\n"
    head = list(rows[0])
    return table(head, [[number(row.get(name)) for name in head] for row in rows])


def number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def curves(result: dict[str, Any], path: Path) -> None:
    """Time and memory against the volume, both axes logarithmic, with a line of slope 1 to compare with."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "deformgan"  # the same file every time
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, name, label in zip(axes, ("wall_s", "peak_mb"), ("wall time, s", "peak memory, MB"), strict=True):
        for threads in sorted({row["threads"] for row in result["rows"]}):
            rows = [row for row in result["rows"] if row["threads"] == threads]
            volumes = [row["side"] ** 3 / 1e6 for row in rows]
            axis.plot(volumes, [row[name] for row in rows], "o-", label=f"{threads} thread{'s' * (threads > 1)}")
        last = max(result["rows"], key=lambda row: row["side"])
        line = [last[name] * volume / volumes[-1] for volume in volumes]
        axis.plot(volumes, line, ":", color="grey", label="proportional to voxels")
        axis.set(xscale="log", yscale="log", xlabel="million voxels", ylabel=label)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="small")
    with atomic(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})


def page(kept: dict[str, list[tuple[str, dict[str, Any]]]]) -> str:
    parts = [
        "# Results of the benchmarks\n",
        "Made of the files in `TOPIC/results/` by `python benchmarks/page.py`; newest first. A busy machine makes "
        "seconds wander: mind the load.\n",
    ]
    renderers = {"speed": speed, "scaling": scaling, "roofline": roofline, "losses": losses, "affine": affine}
    for kind, title in KINDS.items():
        for number, (stamp, result) in enumerate(kept[kind]):
            parts.append(f"## {title}, {stamp[:10]}\n" if number else f"## {title}: the newest, {stamp[:10]}\n")
            parts.append(f"`{kind}/results/{stamp}-{kind}.json` · {where(result)}\n")
            if kind == "scaling" and number == 0:
                parts.append("![Time and memory against the volume](scaling/results/scaling.svg)\n")
            parts.append(renderers.get(kind, plain)(result))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    kept = found(options.root)
    if kept["scaling"]:
        curves(kept["scaling"][0][1], options.root / "scaling" / "results" / "scaling.svg")
    with atomic(options.root / "RESULTS.md") as partial:
        partial.write_text(page(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
