"""The whole table: W1 to W4 by fivestep, by loops written by hand, by every framework and by JAX. `make bench` runs it in an environment of its own.

Each way runs in its own process (`ways.py`), one thread, in turn: way after way, and that again for every repeat, so that a slow minute of the machine meets
them all. Prints microseconds a step (median, least to most), the ratio to the tuned loop and to the tutorial loop (of medians), the seconds before the first
step, and the final training loss, which must be the same for all: no way may be faster by doing less. `--write` puts the table into bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import readme
from ways import WAYS, WORKLOADS

HERE = Path(__file__).parent
PACKAGES = ("torch", "lightning", "keras", "skorch", "fastai", "pytorch-ignite", "accelerate", "transformers", "scikit-learn", "jax", "numpy")
LONGEST = 600  # seconds of one way on one workload
CANNOT = {("scikit-learn MLP", "W4"): "has no convolution"}


def run_once(way: str, workload: str, epochs: int | None) -> dict[str, float] | str:
    """What `ways.py` measured, or the last line of what went wrong."""
    command = [sys.executable, str(HERE / "ways.py"), way, workload, *([str(epochs)] if epochs else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return f"not done after {LONGEST} seconds"
    answer = done.stdout.strip().splitlines()[-1:]
    if done.returncode or not answer:
        return (done.stderr.strip().splitlines() or ["no message"])[-1][:200].replace("|", "/")
    return json.loads(answer[0])


def measure(ways: list[str], workload: str, repeats: int, epochs: int | None) -> list[list[str]]:
    """The rows of one workload's table."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    failed: dict[str, str] = {way: why for (way, where), why in CANNOT.items() if where == workload}
    for _ in range(repeats):
        for way in ways:
            if way in failed:
                continue
            once = run_once(way, workload, epochs)
            if isinstance(once, str):
                failed[way] = once
                print(f"{workload}  {way}: {once}", file=sys.stderr)
            else:
                found[way].append(once)
    medians = {way: statistics.median(once["seconds_a_step"] for once in runs) for way, runs in found.items() if runs}
    rows = []
    for way in ways:
        if way in failed:
            rows.append([way, failed[way], "", "", "", ""])
            continue
        micros = [1e6 * once["seconds_a_step"] for once in found[way]]
        loss = found[way][-1]["loss"]
        ratios = [f"{medians[way] / medians[to]:.2f}" if to in medians else "" for to in ("tuned loop", "tutorial loop")]
        before = statistics.median(once["before"] for once in found[way])
        middle = statistics.median(micros)
        rows.append([way, f"{middle:,.1f} ({min(micros):,.1f} to {max(micros):,.1f})", *ratios, f"{before:.1f}", "" if loss is None else f"{loss:.4g}"])
    return rows


def table(rows: list[list[str]]) -> str:
    head = ["", "us a step (least to most)", "/ tuned", "/ tutorial", "s before", "final loss"]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    line = lambda row: "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"  # noqa: E731
    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def machine() -> str:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.processor())
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{time.strftime('%Y-%m-%d')}, {model}, {os.cpu_count()} cores, one thread; Python {platform.python_version()}, " + ", ".join(versions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--ways", default=",".join(WAYS).replace("Lightning, all off", "Lightning/ all off"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="timed epochs, instead of each workload's own")
    parser.add_argument("--write", action="store_true", help="put the table into bench/README.md")
    asked = parser.parse_args()
    ways = [way.replace("/", ",") for way in asked.ways.split(",")]
    told = [machine() + f"; {asked.repeats} repeats, interleaved.", ""]
    print(told[0])
    for workload in asked.workloads.split(","):
        rows = measure(ways, workload, asked.repeats, asked.epochs)
        text = table(rows)
        print(f"\n{workload}\n{text}", flush=True)
        told += [f"## {workload}", "", text, ""]
        if asked.write:  # after each workload: what is measured stays, whatever comes
            readme.write("peers.py", "\n".join(told))


if __name__ == "__main__":
    main()
