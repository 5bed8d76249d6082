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


# -- the code on the pages -----------------------------------------------------------------------------------------------------------------------------------

FENCE = re.compile(r"^```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<code>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)

# The other side of "coming from": run where the package is installed, shown alone where it is not. The name stands in the fence: ```python title="Lightning"
OTHERS = {"Lightning": "lightning", "Keras": "keras", "skorch": "skorch", "fastai": "fastai"}
ALREADY_DONE = ("make ", "git ", "pip ", "tensorboard ")  # a reader's first lines: an environment is there when the tests run

PAGES = [document for document in DOCUMENTS if FENCE.search((ROOT / document).read_text(encoding="utf-8")) and document.parts[0] in ("README.md", "docs")]


def blocks(document: Path) -> list[tuple[str, str, str, int]]:
    """(language, what follows it in the fence, code, line) of every block of a page."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [(found["language"], found["info"].strip(), found["code"], text[: found.start()].count("\n") + 2) for found in FENCE.finditer(text)]


def installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def run_python(code: str, where: str, line: int, names: dict[str, object]) -> None:
    """As a cell of a notebook: what an earlier block of the page has defined is there; the source can be found, as tools that look for it expect."""
    import linecache

    source = "\n" * (line - 1) + code
    file = f"{where}:{line}"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), names)


def run_shell(code: str, where: str, line: int) -> str:
    """The commands of a block, stopping at the first that fails; `fivestep` is this checkout's."""
    import os
    import tempfile

    kept = "\n".join(row for row in code.splitlines() if not row.startswith(ALREADY_DONE))
    with tempfile.TemporaryDirectory() as programs:
        for name, command in {"fivestep": "-m fivestep", "python": ""}.items():
            program = Path(programs) / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
            program.chmod(0o755)
        environment = {**os.environ, "COLUMNS": "120", "PATH": f"{programs}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", kept], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, f"{where} line {line}: {done.stderr[-2000:]}"
    return done.stdout


def said(printed: str, promised: str) -> list[str]:
    """The promised lines that were not printed, blanks aside; `...` stands for anything."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    wanted = [" ".join(line.split()) for line in promised.splitlines() if line.strip() not in ("", "...")]
    return [line for line in wanted if not any(re.fullmatch(re.sub(r"(?:\\\.){3}(?!\\\.)", ".*", re.escape(line)), there) for there in lines)]


@pytest.mark.parametrize("document", PAGES, ids=str)
def test_the_code_on_a_page_runs_and_prints_what_the_page_says(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks of Python and of the shell in their order, in one empty folder; a block of text behind one holds lines that it printed."""
    names: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for language, info, code, line in blocks(document):
        title = re.search(r'title="([^"]+)"', info)
        if language == "python":
            package = OTHERS.get(title[1]) if title else None
            if package is not None and not installed(package):
                continue
            capsys.readouterr()
            run_python(code, str(document), line, names)
            printed = capsys.readouterr().out
        elif language == "sh":
            printed = run_shell(code, str(document), line)
        elif language == "text" and (title is None or title[1] == "for example"):
            masked = (lambda text: re.sub(r"-?\d[\d,.]*", "#", text)) if title else str  # the numbers are an example: another processor may round otherwise
            assert not said(masked(printed), masked(code)), f"{document} line {line}, printed was:\n{printed}"
        else:
            assert language in ("text", "toml", "json"), f"{document} line {line}: a block of {language or 'no language'} is neither run nor compared"


def test_a_page_that_promises_other_output_is_found() -> None:
    assert said("a  1\nb 2.345\n", "b 2....\na 1\n") == []
    assert said("a 1\n", "a 2\n...\n") == ["a 2"]


def test_every_page_is_on_the_menu() -> None:
    menu = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert menu == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").glob("**/*.md")}


def test_every_public_name_stands_once_in_the_reference() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "reference.py")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    import fivestep

    found = re.findall(r"^### fs\.(\w+)$", done.stdout, re.MULTILINE)
    assert sorted(found) == sorted(name for name in dir(fivestep) if not name.startswith("_"))
    members = re.findall(r"^#{3,4} ([\w.]+)$", done.stdout, re.MULTILINE)
    events = {f"fs.watch.{name}" for name in ("RunStarted", "EpochEnded", "RunEnded")}
    assert {"Sweep", "Sweep.table", "Sweep.effects", "Sweep.best", "Comparison", "Comparison.better", "Run.predict", *events} <= set(members)
    internal = {"from_artifact", "evaluate_part", "scored", "looked", "numbered_as", "encoded", "values_of", "with_looks", "told"}
    assert not internal & {name.rpartition(".")[2] for name in members}


def table_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in text.splitlines() if row.startswith("| `")]


def test_the_page_of_fit_tells_every_argument_and_its_default() -> None:
    import ast
    import inspect

    import fivestep

    told = {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in table_of("stages/fit.md", "All arguments")}
    parameters = inspect.signature(fivestep.fit).parameters
    assert told == {name: parameter.default for name, parameter in parameters.items() if name not in ("model", "splits")}
    assert not [name for name in told if f"`{name}" not in (fivestep.fit.__doc__ or "")]


def test_the_page_of_models_tells_every_built_in_one_with_its_arguments_and_defaults() -> None:
    import ast

    from fivestep.model.models import BUILT_IN

    filled_in = ("num_inputs", "num_outputs", "num_categories", "image_shape", "task")
    told = {row[0].strip('`"'): dict(re.findall(r"`(\w+)=(.*?)`", row[2])) for row in table_of("stages/model.md", "Built-in models")}
    assert told.pop("auto") == {}
    assert {name: {key: ast.literal_eval(value) for key, value in arguments.items()} for name, arguments in told.items()} == {
        name: {key: argument.default for key, argument in network.arguments.items() if key not in filled_in} for name, network in BUILT_IN.items()
    }


def test_the_pages_build_offline_and_strict_with_nothing_fetched(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]+src=[\"']?(https?:[^\"'> ]+)|<link[^>]+rel=\"?stylesheet\"?[^>]*href=[\"']?(https?:[^\"'> ]+)",
            page.read_text(encoding="utf-8"),
        )
        assert not loaded, f"{page.name} would fetch {loaded}"
