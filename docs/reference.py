"""The reference page, from the signatures and docstrings of the public names, whenever the pages are built (a hook of mkdocs). `python docs/reference.py` prints it.

Nothing is kept that could be out of date, and nothing is fetched. The examples in docstrings are run by tests/test_docstrings.py.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import fivestep

GROUPS = {
    "Data": ["Data", "Splits", "datasets"],
    "Train, check, go on": ["fit", "check", "resume"],
    "Use": ["Run", "Model", "Scores", "load", "verify"],
}
MADE_FOR_YOU = {"Data", "Run", "Model", "Scores", "Finding"}  # nobody calls these: what they take is no promise
PLACE = "<!-- the reference stands here -->"


def groups() -> dict[str, list[str]]:
    """Every public name once, under the heading it belongs to; what no heading names stands under the last two."""
    named = [name for names in GROUPS.values() for name in names]
    rest = [name for name in dir(fivestep) if not name.startswith("_") and name not in named]
    errors = [name for name in rest if isinstance(getattr(fivestep, name), type) and issubclass(getattr(fivestep, name), Exception)]
    return {**GROUPS, "More": [name for name in rest if name not in errors], "Errors": errors}


def page() -> str:
    parts = []
    for heading, names in groups().items():
        parts.append(f"## {heading}\n")
        for name in names:
            value = getattr(fivestep, name)
            parts.append(f"### fs.{name}\n\n{entry(f'fs.{name}', value, with_signature=heading != 'Errors' and name not in MADE_FOR_YOU)}")
            if inspect.isclass(value) and heading != "Errors":
                parts += [f"#### {name}.{member}\n\n{entry(called, item)}" for member, called, item in members(value)]
            elif inspect.ismodule(value):
                functions = [(key, item) for key, item in vars(value).items() if inspect.isfunction(item) and not key.startswith("_")]
                parts += [f"#### fs.{name}.{key}\n\n{entry(f'fs.{name}.{key}', item)}" for key, item in functions]
    return "\n".join(parts)


def members(kind: type) -> list[tuple[str, str, Any]]:
    """(name, how it is called, the function or property) of what a class of ours gives its users, inherited ones of ours included."""
    found: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        if parent.__module__.startswith("fivestep"):
            found |= {name: value for name, value in vars(parent).items() if not name.startswith("_")}
    kept = []
    for name, value in found.items():
        without_self = isinstance(value, (staticmethod, classmethod))
        item = value.__func__ if without_self else value
        if (inspect.isfunction(item) or isinstance(item, property)) and inspect.getdoc(item):
            kept.append((name, f"fs.{kind.__name__}.{name}" if without_self else f"{kind.__name__.lower()}.{name}", item))
    return kept


def entry(called: str, value: Any, *, with_signature: bool = True) -> str:
    signature = ""
    if with_signature and callable(value) and not inspect.ismodule(value):
        signature = f"```text\n{called}{shown_signature(value)}\n```\n\n"
    return signature + with_fences(inspect.getdoc(value) or "") + "\n"


def shown_signature(value: Any) -> str:
    """One argument a line where there are many."""
    try:
        signature = inspect.signature(value)
    except ValueError:
        return ""
    kept = [parameter.replace(annotation=Plain(parameter.annotation)) for name, parameter in signature.parameters.items() if name not in ("self", "cls")]
    shown = str(signature.replace(parameters=kept, return_annotation=inspect.Signature.empty))
    if len(shown) < 100:
        return shown
    star = any(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in kept)
    lines = []
    for parameter in kept:
        if star and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            lines.append("    *,")
            star = False
        lines.append(f"    {parameter},")
    return "(\n" + "\n".join(lines) + "\n)"


class Plain:
    """An annotation as it stands in the source, without quotes."""

    def __init__(self, annotation: Any):
        self.annotation = annotation

    def __repr__(self) -> str:
        return "Any" if self.annotation is inspect.Parameter.empty else str(self.annotation)


def with_fences(text: str) -> str:
    """A docstring as Markdown: its examples (`>>>` and what follows up to an empty line) become blocks of code."""
    text = re.sub(r"(?m)^>>> (?:.+\n?)+", lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
    return text.replace("  # doctest: +SKIP", "")


def on_config(config: Any) -> None:
    """mkdocs' hook: no 404.html, which only a server would show. These pages are opened from the disk, where its links lead nowhere."""
    config.theme.static_templates.discard("404.html")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs' hook."""
    return markdown.replace(PLACE, globals()["page"]()) if PLACE in markdown else markdown


def on_post_page(output: str, **_: Any) -> str:
    """mkdocs' hook: what Material's templates leave without a name for those who hear the page."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


if __name__ == "__main__":
    print(page())
