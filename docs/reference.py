"""The reference page, from the signatures and docstrings of the public names, whenever the pages are built (a hook of mkdocs). `python docs/reference.py` prints it.

Nothing is kept that could be out of date, and nothing is fetched. The examples in docstrings are run by tests/test_docstrings.py.
"""

from __future__ import annotations

import inspect
import re
from functools import cached_property
from typing import Any

import fivestep
from fivestep.experiments.sweeps import Sweep
from fivestep.results.comparing import Comparison

GROUPS = {
    "Data": ["Data", "Splits", "datasets"],
    "Train, check, go on": ["fit", "check", "resume", "load_run", "reproduce", "watch"],
    "Improve": ["sweep", "cross_validate", "compare"],
    "Use": ["Run", "Model", "Scores", "load", "verify"],
}
RETURNED = {"cross_validate": Sweep, "compare": Comparison}  # what comes back has no public name of its own: shown behind the last function that returns it
MADE_FOR_YOU = {"Data", "Run", "Model", "Scores", "Finding", "Sweep", "Comparison"}  # nobody calls these: what they take is no promise
# Open to other modules of the package, and no promise to users.
INTERNAL = {
    "Data": {"numbered_as", "unit", "with_unit"},
    "Splits": {"encoded", "values_of", "with_categories"},
    "Model": {"from_artifact", "evaluate_part"},
    "Run": {"from_artifact", "evaluate_part", "scored", "looked"},
    "Scores": {"with_looks", "told"},
    "Sweep": {"run", "fingerprint", "locked_folder", "measured", "told_group", "told"},
    "Comparison": {"told"},
}
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
                parts += shown_members(value)
            elif inspect.ismodule(value):
                ours = {key: item for key, item in vars(value).items() if getattr(item, "__module__", "").startswith("fivestep.") and not key.startswith("_")}
                held = [(key, item) for key, item in ours.items() if inspect.isfunction(item) or inspect.isclass(item)]
                parts += [f"#### fs.{name}.{key}\n\n{entry(f'fs.{name}.{key}', item)}" for key, item in held]
            if name in RETURNED:
                parts += [f"### {RETURNED[name].__name__}\n\n{entry('', RETURNED[name], with_signature=False)}", *shown_members(RETURNED[name])]
    return "\n".join(parts)


def shown_members(kind: type) -> list[str]:
    return [f"#### {kind.__name__}.{member}\n\n{entry(called, item)}" for member, called, item in members(kind)]


def members(kind: type) -> list[tuple[str, str, Any]]:
    """(name, how it is called, the function or property) of what a class of ours gives its users, inherited ones of ours included."""
    found: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        if parent.__module__.startswith("fivestep"):
            found |= {name: value for name, value in vars(parent).items() if not name.startswith("_") and name not in INTERNAL.get(kind.__name__, ())}
    kept = []
    for name, value in found.items():
        without_self = isinstance(value, (staticmethod, classmethod))
        item = value.__func__ if without_self else value
        if (inspect.isfunction(item) or isinstance(item, (property, cached_property))) and inspect.getdoc(item):
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
