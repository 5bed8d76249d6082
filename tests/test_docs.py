"""The documents are what the code says, and what they point to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md")])


def test_the_pages_written_from_the_code_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "write_tables.py"), "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_of_losses_tells_every_loss_of_torch() -> None:
    import torch

    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    names = {name for name, value in vars(torch.nn).items() if isinstance(value, type) and issubclass(value, torch.nn.modules.loss._Loss)}
    assert not sorted(name for name in names if f"| `{name}` |" not in page)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]
    assert not [link for link in links if link and not (ROOT / document.parent / link).exists()]
