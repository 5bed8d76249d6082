"""Every file in examples/ runs as a reader would run it, in an empty folder, and prints what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

# A sentence that only a run which went well prints; a new example needs one here.
PRINTED = {
    "eject_and_compare": "the script ended in the same weights: True",
    "fine_tune": "backbone.0.weight moved by 0.00000",
    "gan": "samples mean",
    "images": "predictions ",
    "several_optimizers": "learning rates by epoch",
    "table": "probability_Gentoo",
    "token_dict": "accuracy",
    "two_inputs": "the same flat in district 4: +1.",
    "vae": "radius of new samples: ",
    "workflow_chapter": "loaded predictions are equal: True",
}


def test_no_example_is_left_out() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_example_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / f"{name}.py")], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert PRINTED[name] in done.stdout, done.stdout + done.stderr[-2000:]
