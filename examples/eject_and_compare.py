"""A run as a script of plain PyTorch, and the proof that it is the same training: both end in the same SHA-256 of the weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fivestep as fs

splits = fs.Data.table(fs.datasets.penguins(), target="body_mass_g", without_target="drop").split(seed=0)
run = fs.fit("mlp", splits, scheduler="CosineAnnealingLR", epochs=20, quiet=True)

folder = Path("plain")
folder.mkdir()
script, *beside = run.eject(folder / "train.py")
print(f"{script} has {len(script.read_text().splitlines())} lines" + (f", and beside it {', '.join(path.name for path in beside)}" if beside else ""))

# The script is run where fivestep cannot be imported.
blocked = f"import runpy, sys; sys.modules['fivestep'] = None; runpy.run_path({str(script)!r}, run_name='__main__')"
printed = subprocess.run([sys.executable, "-c", blocked], check=True, capture_output=True, text=True).stdout
print(printed.splitlines()[-1])
print("the script ended in the same weights:", printed.split()[-1] == run.weights_sha256)

# The other way round: the run fitted again from its record.
print("and so did the run, fitted again:", fs.reproduce(run.folder))
