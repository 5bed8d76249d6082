"""What a checkpoint costs: 20 saves of a model and its Adam state, pruned to 3."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

torch.set_num_threads(1)
from fivestep import files
from fivestep.train import checkpoints
from fivestep.train.epochs import Training
from fivestep.train.stopping import Stopping

where = sys.argv[1] if len(sys.argv) > 1 else None
for name, width in (("small MLP", 64), ("10M parameters", 1800)):
    model = nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 1)
    )
    n = sum(p.numel() for p in model.parameters())
    o = torch.optim.Adam(model.parameters())
    for _ in range(2):
        o.zero_grad()
        model(torch.randn(8, 64)).mean().backward()
        o.step()
    t = Training(model, None, o, stopping=Stopping(None))
    with tempfile.TemporaryDirectory(dir=where) as folder:
        seconds, cpu = [], []
        for k in range(20 if width < 100 else 8):
            t.step = k
            a, c = time.perf_counter(), time.process_time()
            checkpoints.write(Path(folder), t, {})
            files.prune(Path(folder), 3)
            seconds.append(time.perf_counter() - a)
            cpu.append(time.process_time() - c)
        size = sum(p.stat().st_size for p in sorted(Path(folder).iterdir())[-1].iterdir())
    print(
        f"{name}: {n:,} parameters, {size / 1e6:.1f} MB; a checkpoint takes {statistics.median(seconds) * 1e3:.0f} ms (least {min(seconds) * 1e3:.0f}), {statistics.median(cpu) * 1e3:.0f} ms of the processor"
    )
