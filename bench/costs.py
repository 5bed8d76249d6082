"""What stands beside a step: import time, the time to the first step, memory, cost against rows and parameters, and inference per row.

`python bench/costs.py [--quick]`. Every figure is taken in a process of its own, one thread; memory is the highest resident set of that process less that of
importing what the hand-written way needs. "by hand" is the plain torch code that does the same: one gather an epoch, `model(x)` under inference_mode.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

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


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, at most a hundred thousand rows")
    quick = parser.parse_args().quick
    repeats = 3 if quick else 7

    print(f"import, seconds (median of {repeats}, interleaved)")
    times: dict[str, list[float]] = {name: [] for name in IMPORT}
    for _ in range(repeats):
        for name, program in IMPORT.items():
            times[name].append(float(run(program)))
    for name, taken in times.items():
        print(f"  {name:28} {statistics.median(taken):6.2f}")

    print("\nrows, hidden units, batch: seconds before the first step; us a step; MB beyond the data   fivestep | by hand | ratio of a step")
    sizes = [(1_000, 64, 32, 30), (10_000, 64, 32, 4), (100_000, 64, 256, 4), (100_000, 1_024, 256, 3)]
    sizes += [] if quick else [(1_000_000, 64, 256, 3), (10_000_000, 64, 1_024, 3), (100_000, 16_384, 256, 3)]
    for rows, hidden, batch, epochs in sizes:
        options = dict(rows=rows, hidden=hidden, batch=batch, epochs=epochs)
        pairs = [(json.loads(run(FIT.format(**options))), json.loads(run(BY_HAND.format(**options)))) for _ in range(1 if rows > 1_000_000 else 3)]
        ours, theirs = ({key: statistics.median(pair[side][key] for pair in pairs) for key in pairs[0][side]} for side in (0, 1))
        shown = " | ".join(f"{way['before']:6.2f} s {1e6 * way['step']:9.1f} us {way['megabytes']:7.0f} MB" for way in (ours, theirs))
        print(f"  {rows:>10,} {hidden:>6,} {batch:>5,}  {shown} | {ours['step'] / theirs['step']:.2f}")

    print("\npredict, arrays of 16 numbers: us a row   fivestep | model(x) in one piece")
    for count, taken in json.loads(run(PREDICT.format(repeats=repeats))).items():
        print(f"  {int(count):>9,} rows  {1e6 * taken['fivestep'] / int(count):9.2f} | {1e6 * taken['by hand'] / int(count):9.2f}")

    rows = 100_000 if quick else 1_000_000
    found = json.loads(run(FILE.format(rows=rows)))
    print(f"\nfivestep predict, a CSV file of {rows:,} rows and 9 columns, to CSV: {found['seconds']:.1f} s in all, {found['megabytes']:.0f} MB")


if __name__ == "__main__":
    main()
