"""The shared corpus of silent mistakes, by its own judge: at least 90 % found, nothing false on healthy twins, nothing broken."""

import subprocess
import sys
from pathlib import Path

import pytest

JUDGE = Path(__file__).parents[3] / "shared" / "cases" / "judge.py"


@pytest.mark.skipif(not JUDGE.exists(), reason="the shared cases do not lie beside this checkout")
def test_the_judge_of_the_shared_cases_is_content():
    judged = subprocess.run([sys.executable, str(JUDGE)], capture_output=True, text=True, timeout=900, check=False)
    assert judged.returncode == 0, judged.stdout
