"""The commands of the shell, thin over `workflow`: each reads its options, calls, and prints.

torch takes a second to import, so each command imports what it needs when it runs.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fivestep.apps.arguments import (
    columns_of,
    data_and_splits,
    known_options,
    load_model,
    near_codes,
    put_together,
    read_over,
    target_names,
    unknown_settings,
)
from fivestep.apps.ending import emit, end_run, has_ended, print_scores
from fivestep.apps.predicting import predict_file, predicted_chunks
from fivestep.apps.spelling import with_shell_spelling
from fivestep.errors import DataError, MissingInputError, UsageError
from fivestep.terminal import print_lines

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Any PyTorch model through the whole workflow.",
)

# --quiet and --debug are taken by `cli.run` before a command sees its words; `context.obj` says whether it is to be quiet.
command = functools.partial(app.command, epilog="Everywhere: --quiet shows no progress and no notes; --debug shows where an error happened.")

Target = Annotated[str | None, typer.Option(help="The column to predict; several with commas.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting: optimizer.momentum=0.9, model.width=64, data.missing=?, split.group=patient")]
Config = Annotated[str | None, typer.Option(help="Settings from run.toml or RUN/settings.json.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object on stdout.")]


@command()
def fit(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="CSV, TSV or Parquet file, or a folder of images.")],
    target: Target = None,
    val: Annotated[str | None, typer.Option(help="Validation rows in a file of their own.")] = None,
    test: Annotated[str | None, typer.Option(help="Test rows in a file of their own.")] = None,
    model: Annotated[str | None, typer.Option(help="auto, linear, mlp, resnet, cnn, or FILE.py:CLASS")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows, at most.")] = None,
    lr: Annotated[float | None, typer.Option(help="The optimizer's learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of a step.")] = None,
    folder: Annotated[str | None, typer.Option(help="Where runs are kept (default: runs).")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name; default: the file's name and a number.")] = None,
    config: Config = None,
    set_: SetOption = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A finding's code not to be looked for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Split, check, train, score validation, save the model."""
    from fivestep import workflow

    settings, options, split, named_model = put_together(
        config, set_, epochs=epochs, lr=lr, batch_size=batch_size, folder=folder, name=name, ignore=ignore or None
    )
    if target is not None:
        options["target"] = target_names(target)
    if options.get("target") is None and not Path(data).is_dir():
        raise UsageError(f"Which column is to be predicted? Name it: --target COLUMN.{columns_of(data, options)}")
    unknown_settings(settings)
    splits = data_and_splits(data, options, split, val, test)
    run = workflow.fit(model or named_model or "auto", splits, quiet=context.obj, **settings)
    own_model = model or named_model
    end_run(run, as_json=as_json, own_model=own_model if ".py:" in str(own_model) else None)


@command()
def resume(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The folder of a run that was stopped or killed, or is to become longer.")],
    epochs: Annotated[int | None, typer.Option(help="Train up to so many epochs in all.")] = None,
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own that cannot be found again.")] = None,
    allow_inexact: Annotated[bool, typer.Option("--allow-inexact", help="Go on though another torch or device may give other bits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go on from the newest checkpoint, to the bits of a run unstopped."""
    from fivestep import workflow
    from fivestep.model.building import load_file_class

    objects = {"model": load_file_class(model_class)} if model_class else {}
    ended = workflow.resume(run, epochs=epochs, allow_inexact=allow_inexact, quiet=context.obj, **objects)
    if epochs is not None or not has_ended(Path(run)):
        found_again = ended.settings.model  # a class of one's own that was found again is named in what to type next, as `fit` names it
        own_model = model_class or (f"{found_again['file']}:{found_again['qualname']}" if "file" in found_again and "qualname" in found_again else None)
        end_run(ended, as_json=as_json, own_model=own_model)
        return
    scores = ended.evaluate("val" if ended.splits.val is not None else "train")
    if as_json:
        emit({"run": run, "scores": scores.to_json(), "epochs": len(ended.history), "weights_sha256": ended.weights_sha256})
        return
    print_scores(scores)
    print(f"\nrun    {run}\nmodel  {run}/model.fivestep\nreport {run}/report.html")


@command()
def sweep(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="CSV, TSV or Parquet file, or a folder of images.")],
    target: Target = None,
    over: Annotated[
        list[str] | None, typer.Option(help="What is varied: lr=0.1,0.01 or model.width=32,64 or lr=1e-4..1e-1 with --search random; again for more.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each variant; with one nothing can be said to be better.")] = 1,
    search: Annotated[str, typer.Option(help="grid, random, halving or optuna")] = "grid",
    trials: Annotated[int | None, typer.Option(help="How many variants are drawn where it is no grid.")] = None,
    storage: Annotated[str | None, typer.Option(help="Of an Optuna study: a journal file or a database's URL.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes for what is not stacked.")] = None,
    model: Annotated[str | None, typer.Option(help="auto, linear, mlp, resnet, cnn, or FILE.py:CLASS")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows, at most.")] = None,
    folder: Annotated[str | None, typer.Option(help="Where runs are kept (default: runs).")] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name; default: sweep and a number.")] = None,
    config: Config = None,
    set_: SetOption = None,
    as_json: AsJson = False,
) -> None:
    """Train many variants; say what helped and what could be luck.

    The best is trained again alone, as a run to keep.
    """
    from fivestep import experiments

    settings, options, split, named_model = put_together(config, set_, epochs=epochs, folder=folder, name=name)
    if target is not None:
        options["target"] = target_names(target)
    if options.get("target") is None and not Path(data).is_dir():
        raise UsageError("Which column is to be predicted? Name it: --target COLUMN")
    if not over:
        raise UsageError("What is to be varied? Name it: --over lr=0.1,0.01 --over model.width=32,64")
    unknown_settings(settings)
    splits = data_and_splits(data, options, split, None, None)
    found = experiments.sweep(
        model or named_model or "auto", splits, dict(map(read_over, over)), seeds=seeds, search=search, trials=trials, storage=storage, workers=workers,
        quiet=context.obj, **settings,
    )  # fmt: skip
    report = str(found.report()) if found.folder is not None else None
    best = found.best
    if as_json:
        emit({"sweep": str(found.folder) if found.folder else None, "report": report, "best": str(best.folder) if best.folder else None, "best_settings": found.best_settings,
              "comparison": found.comparison.to_json(), "table": found.table.to_dicts()})  # fmt: skip
        return
    print_lines(found)
    if best.folder is not None:
        print(f"\nbest   {best.folder}\nmodel  {best.folder}/model.fivestep\nreport {report}")
        if splits.test is not None:
            print(f"next   fivestep evaluate {best.folder} --split test")


@command()
def compare(
    paths: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs on the same rows.")],
    split: Annotated[str, typer.Option(help="val, or test (which counts as a look for each run).")] = "val",
    metric: Annotated[str | None, typer.Option(help="loss, or a metric's name.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="A report of it too, as one HTML file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Runs paired by row: what is better, and what could be luck."""
    from fivestep import experiments

    compared = experiments.compare(*paths, split=split, metric=metric)
    if output is not None:
        compared.report(output)
    emit(compared.to_json()) if as_json else print_lines(compared)


@command()
def predict(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A run or an artifact.")],
    file: Annotated[str, typer.Argument(help="CSV, TSV or Parquet with the same columns; of a model of images a file or a folder.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where predictions go (.csv or .parquet); default: CSV on stdout.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="A column of probability for each class too.")] = False,
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own.")] = None,
    sha256: Annotated[str | None, typer.Option("--expect-sha256", help="SHA-256 that MANIFEST.json must have.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the rows of a file, in its order, streaming."""
    loaded = load_model(model, model_class, sha256)
    notes: dict[str, None] = {}
    if as_json and output is None:
        import polars

        frame = polars.concat(predicted_chunks(loaded, file, probabilities, notes))
        emit({"rows": len(frame), "predictions": frame.to_dict(as_series=False), "notes": list(notes)})
        return
    written = predict_file(loaded, file, output, probabilities, notes)
    if not context.obj:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if output is not None:
            print(f"{written:,} predictions in {output}", file=sys.stderr)
    if as_json:
        emit({"output": output, "rows": written, "notes": list(notes)})


@command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run or an artifact.")],
    file: Annotated[str | None, typer.Argument(help="A file with the target's column.")] = None,
    split: Annotated[str | None, typer.Option(help="val or test rows of the run's own data.")] = None,
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Scores with intervals beside no skill; test looks are counted."""
    if file is not None and split is not None:
        raise UsageError(f"Two things to score: the file {file} and --split {split}. Name one of them.")
    loaded = load_model(model, model_class, None)
    if file is not None:
        if not Path(file).exists():
            raise MissingInputError(f"There is no file {file}.")
        scores = loaded.evaluate(file)
    else:
        scores = evaluate_split(Path(model), loaded, split or "val")
    emit(scores.to_json()) if as_json else print_scores(scores)


@command()
def check(
    file: Annotated[str, typer.Argument(help="CSV, TSV or Parquet file.")],
    target: Target = None,
    config: Config = None,
    set_: SetOption = None,
    as_json: AsJson = False,
) -> int:
    """All problems of a file in one pass; how each column is read."""
    from fivestep.data.file_report import inspect_file

    _, options, _, _ = put_together(config, set_)
    if not Path(file).exists():
        raise MissingInputError(f"There is no file {file}.")
    if Path(file).is_dir():
        raise UsageError(f"{file} is a folder; check reads a table. A folder of images is looked at by: fivestep fit {file}")
    known_options(options, "data")
    allowed = {
        key: value for key, value in options.items() if key not in ("target", "scale_target", "categories", "units")
    }  # those concern the model, not the file
    report = inspect_file(file, target=target_names(target) if target is not None else options.get("target"), **allowed)
    if as_json:
        columns = [
            {"name": line.name, "kind": line.kind, "use": line.use, "missing": line.num_missing, "examples": list(line.examples)}
            for line in report.columns.lines
        ]
        emit({"file": file, "rows": report.num_rows, "columns": columns, "problems": list(report.problems), "notes": list(report.notes)})
    else:
        problems = "\n".join(report.problems)
        print(f"{report}{with_shell_spelling(problems).removeprefix(problems)}")
    return 65 if report.problems else 0


@command()
def explain(code: Annotated[str, typer.Argument(help="The code of a finding, such as O01.")], as_json: AsJson = False) -> None:
    """What a finding means, and the mistake beside its mend."""
    from fivestep.checks.catalogue import CATALOGUE

    rule = CATALOGUE.get(code.upper())
    if rule is None:
        raise UsageError(f"There is no finding {code!r}.{near_codes(code)}")
    if as_json:
        emit(asdict(rule))
    else:
        print(rule)


@command()
def show(what: Annotated[str, typer.Argument(help="A run or an artifact.")], as_json: AsJson = False) -> None:
    """What a run or an artifact holds."""
    facts = describe_path(Path(what))
    if as_json:
        emit(facts)
        return
    for key, value in facts.items():
        if value not in (None, {}):
            print(
                f"{key:16}{', '.join(f'{k}={short(v)}' for k, v in value.items()) if isinstance(value, dict) else f'{value:,}' if isinstance(value, int) else value}"
            )


@command()
def verify(what: Annotated[str, typer.Argument(help="A run or an artifact.")], as_json: AsJson = False) -> int:
    """Check every byte of a run or an artifact; exit 66 if damaged.

    Of a run: checkpoints, history, records and model.
    """
    from fivestep import workflow

    found = workflow.verify(what)
    damage = [finding for finding in found if finding.severity == "error"]
    if as_json:
        emit({"path": what, "sound": not damage, "problems": [finding.what for finding in damage], "findings": [finding.to_json() for finding in found]})
    else:
        print("\n".join([str(finding) for finding in found] + ([] if damage else [f"{what}: sound"])))
    return 66 if damage else 0


@command()
def report(
    run: Annotated[str, typer.Argument(help="The folder of a run whose data can be read again, or of a sweep.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where the report goes (default: RUN/report.html).")] = None,
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """One HTML file: what was trained, how good it is, where it errs; of a sweep: what helped and what could be luck."""
    from fivestep import workflow
    from fivestep.model.building import load_file_class

    if (Path(run) / "sweep.json").exists():
        from fivestep.experiments.sweeps import read_sweep

        written = read_sweep(run).report(output)
    else:
        objects = {"model": load_file_class(model_class)} if model_class else {}
        written = workflow.load_run(run, **objects).report(output)
    emit({"run": run, "report": str(written)}) if as_json else print(written)


@command()
def eject(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The script to write; its files stand beside it.")] = "train.py",
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own that cannot be found again.")] = None,
    as_json: AsJson = False,
) -> None:
    """The run as one plain PyTorch script that ends in its weights."""
    from fivestep import workflow
    from fivestep.model.building import load_file_class

    objects = {"model": load_file_class(model_class)} if model_class else {}
    written = [str(path) for path in workflow.load_run(run, **objects).eject(output)]
    emit({"script": written[0], "files": written[1:]}) if as_json else print("\n".join(written))


@command()
def reproduce(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own that cannot be found again.")] = None,
    as_json: AsJson = False,
) -> int:
    """Fit again from the record; exit 70 where the weights differ."""
    from fivestep import workflow
    from fivestep.model.building import load_file_class

    objects = {"model": load_file_class(model_class)} if model_class else {}
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        same = workflow.reproduce(run, **objects)
    if as_json:
        emit({"run": run, "same": same})
    else:
        print("The weights are the same, bit for bit." if same else "The weights differ.")
    return 0 if same else 70


@command()
def demo(context: typer.Context, folder: Annotated[str, typer.Option(help="Where the runs are kept.")] = "runs", as_json: AsJson = False) -> None:
    """The whole workflow on a table and on images that come along."""
    from fivestep.apps.demo import run_demo

    results = run_demo(folder, quiet=context.obj, as_json=as_json)
    if as_json:
        emit(results)


@app.callback()
def options() -> None:
    """Results on stdout, messages on stderr; --debug shows where an error happened."""


def short(value: Any) -> Any:
    """A value as a line shows it: a list of more than eight values, or of decimals, by its length; a decimal to six digits."""
    if isinstance(value, list) and (len(value) > 8 or any(isinstance(each, float) for each in value)):
        return f"{len(value)} values"
    return f"{value:.6g}" if isinstance(value, float) else value


def evaluate_split(path: Path, loaded: Any, split: str) -> Any:
    """A split of a run's own data: the file is read and split again as recorded, and must be the same file."""
    from fivestep.results import runs
    from fivestep.resuming import splits_again

    if not (path / "settings.json").exists():
        raise UsageError("An artifact knows no splits; name a file: fivestep evaluate MODEL FILE")
    recorded = runs.read_settings(path).data
    splits = splits_again(recorded)
    if splits.fingerprint != recorded["fingerprint"]:
        raise DataError(
            f"{recorded['source']} has changed since this run: its rows or their split are not those the model was trained on. A score on it would not be honest."
        )
    return loaded.evaluate_part(splits, splits.part(split), folder=path)


def describe_path(path: Path) -> dict[str, Any]:
    from fivestep.results import artifact, runs

    if not path.exists():
        raise MissingInputError(f"There is no run or artifact at {path}.")
    runs.refuse_sweep(path)
    facts: dict[str, Any] = {}
    model_path = path
    if (path / "settings.json").exists():
        settings = runs.read_settings(path)
        history = runs.read_history(path)
        facts |= {"run": str(path), "data": settings.data.get("source"), "rows": settings.data.get("sizes"), "settings": settings.asked, "epochs": len(history)}
        if history:
            facts["last epoch"] = {key: value for key, value in history[-1].items() if key in ("train_loss", "val_loss")}
        model_path = path / "model.fivestep"
        if not model_path.exists():
            return facts | {"model": "none: the run has not ended"}
    found = artifact.read_artifact(model_path)
    tensors = sum(tensor.numel() for tensor in found.state.values())
    recipe = found.recipe
    facts |= {"model": recipe.get("name") or recipe.get("qualname") or recipe.get("class"), "model args": recipe.get("args", {}), "numbers": tensors}
    return (
        facts
        | {"task": found.decoding.get("task"), "classes": found.decoding.get("classes"), "sha256": found.digest}
        | {"weights_sha256": found.facts.get("weights_sha256")}
    )
