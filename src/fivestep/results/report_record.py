"""What a run was and how to have it again: findings, settings, versions, fingerprints, commands, the two lines of plain PyTorch, the ejected script.

Enters: a `Run`. Leaves: HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fivestep.errors import FivestepError
from fivestep.results import runs
from fivestep.results.page import Cell, code, folded, paragraph, table, text
from fivestep.results.report_verdict import unchecked


def findings_section(run: Any) -> str:
    findings: Sequence[Any] = run.findings
    if not findings and unchecked(run):
        return paragraph("Nothing was looked for: checks=False. What would be looked for stands in docs/findings.md.")
    if not findings:
        return paragraph("Nothing was found. What is looked for stands in docs/findings.md; a rule tells what it means by: fivestep explain CODE.")
    order = {"error": 0, "warning": 1, "note": 2}
    parts = []
    for finding in sorted(findings, key=lambda one: order.get(one.severity, 3)):
        accept = f' To accept it: <code>ignore=["{text(finding.code)}"]</code>.' if finding.severity != "note" else ""
        body = f"<p><strong>{text(finding.code)} {text(finding.severity)}: {text(finding.name)}</strong></p><p>{text(finding.what, 1500)}</p>"
        body += f"<p><b>Costs:</b> {text(finding.cause, 1500)}</p>" if finding.cause else ""
        body += f"<p><b>Fix:</b> {text(finding.fix, 1500)}{accept}</p>" if finding.fix else ""
        parts.append(f'<div class="finding {text(finding.severity)}">{body}</div>')
    return "".join(parts)


def settings_section(run: Any) -> str:
    settings = run.settings
    rows = [[name, Cell(text(shortly(value), 400), "long"), "asked for"] for name, value in settings.asked.items() if name not in ("folder", "name")]
    chosen = {name: value for name, value in settings.chosen.items() if name != "auto"}
    chosen |= {name: value for name, value in settings.chosen.get("auto", {}).items() if name not in chosen and name not in settings.asked}
    rows += [[name, Cell(text(shortly(value), 400), "long"), 'picked by "auto"'] for name, value in chosen.items()]
    shown = (
        table("Settings of fit; those not named stand at their defaults", ["setting", "value", "from"], rows)
        if rows
        else paragraph("All settings stand at their defaults.")
    )
    environment = runs.read(run.folder, "environment.json", {}) if run.folder is not None else {}
    environment = environment or runs.environment(run._predictor.device)
    facts = [
        [name, Cell(text((" ".join(map(str, value)) or "nothing") if isinstance(value, list) else value, 200), "long")] for name, value in environment.items()
    ]
    facts += [
        ["data and split, SHA-256", Cell(f"<code>{text(run.splits.fingerprint)}</code>", "long")],
        ["weights, SHA-256", Cell(f"<code>{text(run.weights_sha256)}</code>", "long")],
    ]
    try:
        from fivestep.model.summary import describe

        source = run._encoded["train"]
        summary = describe(run.model, source.take(torch.arange(min(2, len(source))))[0])
        layers = [
            [layer.name, layer.type, layer.output_shape or "–", Cell("–" if layer.parameters is None else f"{layer.parameters:,}", "n"), layer.trainable or "–"]
            for layer in summary.layers[:80]
        ]
        model = folded(
            "The model, layer by layer",
            table(f"{summary.name}: {summary._totals()[0]}", ["layer", "type", "output for 2 rows", "parameters", "trained"], layers),
        )
    except Exception as error:  # a user's module may refuse anything; the report is worth more than its layers
        model = paragraph(f"The model's layers could not be listed: {type(error).__name__}: {error}")
    return shown + model + "<h3>What the bits depend on</h3>" + table("Versions, machine and data", ["what", "value"], facts)


def shortly(value: Any) -> str:
    """A setting as it was typed: an imported class by its name, a class of torch's with its arguments, a text without quotes."""
    if isinstance(value, dict) and set(value) == {"import"}:
        return str(value["import"]).replace(":", ".")
    if isinstance(value, dict) and {"class", "arguments"} <= set(value):
        arguments = ", ".join(f"{name}={part!r}" for name, part in value["arguments"].items())
        return f"{value['class']}({arguments})" + (f" for {value['parameters']}" if value.get("parameters") not in (None, "all") else "")
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return f"{value['name']}({', '.join(f'{name}={part!r}' for name, part in value.items() if name != 'name')})"
    return value if isinstance(value, str) else repr(value)


def again_section(run: Any) -> str:
    folder = run.folder
    parts = []
    if folder is not None:
        artifact = f"{folder}/model.fivestep"
        own = own_model(run._recipe)
        given = "" if run._recipe.get("kind") == "built-in" else f", model={type(run.model).__name__}"
        commands = []
        source = run.splits.train.data.origin
        if run.splits.train.data.kind in ("table", "images") and Path(source).exists() and not run.splits.options.get("given"):
            commands += ["# the same run again, from its record", f"fivestep fit {quoted(source)} --config {quoted(f'{folder}/settings.json')}"]
        if run.splits.test is not None:
            commands += ["# the test rows, once, at the end", f"fivestep evaluate {quoted(folder)} --split test{own}"]
        if run.splits.columns is not None:
            commands += ["# predict new rows", f"fivestep predict {quoted(folder)} NEW.csv -o out.csv{own}"]
        if commands:
            parts += ["<h3>In the shell</h3>", code(*commands)]
        parts += ["<h3>In plain PyTorch</h3>", plain_pytorch(run, artifact)]
        parts += [
            "<h3>In Python</h3>",
            code(
                "import fivestep as fs",
                f"model = fs.load({artifact!r}{given})",
                "model.predict(new_rows)",
            ),
        ]
    else:
        parts.append(paragraph("This run was made with folder=None, so nothing of it lies on the disk. run.save(path) keeps the model."))
    script = ejected(run)
    if script:
        parts += ["<h3>The whole training as a script</h3>", paragraph("Plain PyTorch, without fivestep:"), folded("train.py", code(*script.splitlines()))]
    return "".join(parts)


def plain_pytorch(run: Any, artifact: str) -> str:
    """The two lines that load the weights into a module of the user's, without fivestep."""
    name = type(run.model).__name__
    weights = f"{artifact}/weights.safetensors"
    if not run.can_predict:
        weights = f"{run.folder}/weights.safetensors"
    load = f"model.load_state_dict(load_file({weights!r}))"
    if run._predictor.head is not None:
        load = f"model.load_state_dict({{k: v for k, v in load_file({weights!r}).items() if not k.startswith('loss:')}})"
    before = f"# model = {name}(...), built as for training"
    if run._recipe.get("kind") == "built-in":
        before = f"# model: the {name} of fivestep.model.models, or of the script that `fivestep eject` writes"
    told = "Weights alone; inputs must be encoded as in training." if run.splits.columns is not None else ""
    return code(before, "from safetensors.torch import load_file", load) + (paragraph(told) if told else "")


def own_model(recipe: dict[str, Any]) -> str:
    """` --model FILE:CLASS` where the shell needs it."""
    if recipe.get("kind") != "built-in" and recipe.get("file") and recipe.get("qualname"):
        return f" --model {recipe['file']}:{recipe['qualname']}"
    return ""


def quoted(value: Any) -> str:
    import shlex

    return shlex.quote(str(value))


def ejected(run: Any) -> str:
    """The training as a plain PyTorch script, where this run can be written as one; "" where it cannot."""
    eject = getattr(run, "eject", None)
    if eject is None:
        return ""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        try:
            eject(Path(folder) / "train.py")
        except FivestepError as error:
            return f"# This run cannot be written as a script: {error}"
        except Exception as error:  # a mistake of ours, which shall not cost the reader the page
            return f"# fivestep failed to write this run as a script, which is a mistake in fivestep: {type(error).__name__}: {error}"
        return (Path(folder) / "train.py").read_text()
