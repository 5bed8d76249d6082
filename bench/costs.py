"""What stands beside a step: import time, the time to the first step, memory, cost against rows and parameters, and inference per row.

`python bench/costs.py [--quick] [--write]`, under six minutes. A part that fails or takes longer than its seconds says so, and the others go on; `--write` puts what
was found into bench/README.md. Every figure is taken in a process of its own, one thread; memory is the highest resident set of that process less that of
importing what the hand-written way needs. "by hand" is the plain torch code that does the same: one gather an epoch, `model(x)` under inference_mode.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

import readme

LONGEST = 90  # seconds of one process

PRELUDE = """
import json, os, resource, sys, time
began = time.perf_counter()
import torch
from torch import nn
torch.set_num_threads(1)
def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def mlp(width, hidden):
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
"""

IMPORT = {
    "import torch": "import time; began = time.perf_counter(); import torch; print(time.perf_counter() - began)",
    "import torch, fivestep": "import time; began = time.perf_counter(); import torch, fivestep; print(time.perf_counter() - began)",
    "import torch, fivestep.fit": "import time; began = time.perf_counter(); import torch, fivestep; fivestep.fit; print(time.perf_counter() - began)",
    "fivestep --version": "import subprocess, sys, time; began = time.perf_counter(); "
    "subprocess.run([sys.executable, '-m', 'fivestep', '--version'], stdout=subprocess.DEVNULL); print(time.perf_counter() - began)",
}

FIT = (
    PRELUDE
    + """
import fivestep as fs
rows, hidden, batch = {rows}, {hidden}, {batch}
x, y = torch.randn(rows, 16), torch.randn(rows, 1)
start = megabytes()
ends, began = [], time.perf_counter()
def watch(event):
    if type(event).__name__ in ("RunStarted", "EpochEnded"):
        ends.append(time.perf_counter())
fs.fit(lambda: mlp(16, hidden), fs.Splits((x, y)), loss="MSELoss", lr=1e-3, epochs={epochs}, batch_size=batch, observers=[watch], folder=None, quiet=True)
steps = -(-rows // batch)
print(json.dumps(dict(before=ends[0] - began, step=(ends[-1] - ends[1]) / ((len(ends) - 2) * steps), megabytes=megabytes() - start)))
"""
)

BY_HAND = (
    PRELUDE
    + """
rows, hidden, batch = {rows}, {hidden}, {batch}
x, y = torch.randn(rows, 16), torch.randn(rows, 1)
start = megabytes()
began = time.perf_counter()
model, criterion = mlp(16, hidden), nn.MSELoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
ends = [time.perf_counter()]
for epoch in range({epochs}):
    order = torch.randperm(rows)
    for inputs, targets in zip(x.index_select(0, order).split(batch), y.index_select(0, order).split(batch)):
        loss = criterion(model(inputs), targets)
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ends.append(time.perf_counter())
steps = -(-rows // batch)
print(json.dumps(dict(before=ends[0] - began, step=(ends[-1] - ends[1]) / ((len(ends) - 2) * steps), megabytes=megabytes() - start)))
"""
)

PREDICT = (
    PRELUDE
    + """
import tempfile, fivestep as fs
x = torch.randn(5000, 16)
run = fs.fit(lambda: mlp(16, 64), fs.Splits((x, x.sum(1, keepdim=True))), loss="MSELoss", epochs=1, folder=None, quiet=True)
model = run.model.eval()
found = {{}}
for rows in (1, 1000, 100000):
    new, times = torch.randn(rows, 16), {{"fivestep": [], "by hand": []}}
    for _ in range({repeats}):
        began = time.perf_counter()
        run.predict(new)
        times["fivestep"].append(time.perf_counter() - began)
        began = time.perf_counter()
        with torch.inference_mode():
            model(new)
        times["by hand"].append(time.perf_counter() - began)
    found[rows] = {{way: sorted(taken)[len(taken) // 2] for way, taken in times.items()}}
print(json.dumps(found))
"""
)

FILE = (
    PRELUDE
    + """
import subprocess, tempfile, numpy, polars
rows = {rows}
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    draw = numpy.random.default_rng(0)
    frame = polars.DataFrame({{f"x{{k}}": draw.normal(size=rows).round(4) for k in range(8)}} | {{"kind": draw.choice(["a", "b", "c"], rows)}})
    frame = frame.with_columns(y=polars.col("x0") * 2 + polars.col("x1"))
    frame[:5000].write_csv("train.csv")
    frame.drop("y").write_csv("new.csv")
    run = [sys.executable, "-m", "fivestep"]
    subprocess.run([*run, "fit", "train.csv", "--target", "y", "--epochs", "1", "--quiet", "--name", "one"], check=True, stdout=subprocess.DEVNULL)
    began = time.perf_counter()
    subprocess.run([*run, "predict", "runs/one", "new.csv", "-o", "out.csv"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    print(json.dumps(dict(seconds=seconds, megabytes=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)))
"""
)


class Failed(Exception):
    """A process ended with an error, or did not end: the last line it said."""


def run(program: str) -> str:
    """The last line that a program prints, in a process of its own. Raises Failed."""
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=LONGEST)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"not done after {LONGEST} seconds") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise Failed((done.stderr.strip().splitlines() or ["no message"])[-1][:200])
    return lines[-1]


def imports(repeats: int) -> list[str]:
    times: dict[str, list[float]] = {name: [] for name in IMPORT}
    for _ in range(repeats):
        for name, program in IMPORT.items():
            times[name].append(float(run(program)))
    rows = [f"| `{name}` | {statistics.median(taken):.2f} ({min(taken):.2f} to {max(taken):.2f}) |" for name, taken in times.items()]
    return [f"| import, {repeats} repeats | seconds |", "|---|---|", *rows]


def size(rows: int, hidden: int, batch: int, epochs: int, repeats: int) -> str:
    """One row of the table of sizes: fivestep and the loop by hand, in turn."""
    options = dict(rows=rows, hidden=hidden, batch=batch, epochs=epochs)
    pairs = [(json.loads(run(FIT.format(**options))), json.loads(run(BY_HAND.format(**options)))) for _ in range(repeats)]
    ours, theirs = ({key: statistics.median(pair[side][key] for pair in pairs) for key in pairs[0][side]} for side in (0, 1))
    told = " | ".join(f"{way['before']:.2f} | {1e6 * way['step']:,.1f} | {way['megabytes']:,.0f}" for way in (ours, theirs))
    return f"| {rows:,} | {18 * hidden + 1:,} | {batch:,} | {told} | {ours['step'] / theirs['step']:.2f} |"


def sizes(asked: list[tuple[int, int, int, int]], repeats: int) -> list[str]:
    head = ["rows", "parameters", "batch", "s before", "us a step", "MB", "by hand: s before", "us a step", "MB", "ratio of a step"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for rows, hidden, batch, epochs in asked:
        try:
            lines.append(size(rows, hidden, batch, epochs, 1 if rows > 100_000 or hidden > 1_024 else repeats))
        except Failed as error:
            lines.append(f"| {rows:,} | {18 * hidden + 1:,} | {batch:,} | failed: {error} |" + " |" * 6)
    return lines


def predictions(repeats: int) -> list[str]:
    found = json.loads(run(PREDICT.format(repeats=repeats)))
    rows = [f"| {int(count):,} | {1e6 * taken['fivestep'] / int(count):.2f} | {1e6 * taken['by hand'] / int(count):.2f} |" for count, taken in found.items()]
    return ["| rows predicted | fivestep, us a row | `model(x)` in one piece, us a row |", "|---|---|---|", *rows]


def file(rows: int) -> list[str]:
    found = json.loads(run(FILE.format(rows=rows)))
    return [f"`fivestep predict`, a CSV file of {rows:,} rows and 9 columns, to CSV: {found['seconds']:.1f} s in all, {found['megabytes']:.0f} MB."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, at most a hundred thousand rows")
    parser.add_argument("--write", action="store_true", help="put what was found into bench/README.md")
    asked = parser.parse_args()
    small = [(1_000, 64, 32, 30), (10_000, 64, 32, 4), (100_000, 64, 256, 2), (100_000, 1_024, 256, 2)]
    large = [(1_000_000, 64, 256, 2), (10_000_000, 64, 4_096, 2), (20_000, 16_384, 256, 2)]
    parts = [
        ("imports", lambda: imports(3 if asked.quick else 5)),
        ("sizes", lambda: sizes(small if asked.quick else small + large, 1 if asked.quick else 3)),
        ("predictions", lambda: predictions(3 if asked.quick else 7)),
        ("a file", lambda: file(100_000 if asked.quick else 1_000_000)),
    ]
    told: list[str] = []
    for name, part in parts:
        try:
            lines = part()
        except Failed as error:
            lines = [f"{name}: failed: {error}"]
        print("\n".join(lines), end="\n\n", flush=True)
        told += [*lines, ""]
        if asked.write:  # after each part: what is measured stays, whatever comes
            readme.write("costs.py", "\n".join(told).rstrip())


if __name__ == "__main__":
    main()
