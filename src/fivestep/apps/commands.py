"""The commands of the shell, thin over `workflow`: each reads its options, calls, and prints.

torch takes a second to import, so each command imports what it needs when it runs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fivestep.errors import CannotCreateError, DataError, FivestepError, MissingInputError, StorageError, UsageError

DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # exit 74; every other refusal to open is "cannot create", exit 73

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Any PyTorch model through the whole workflow.",
)

Target = Annotated[str | None, typer.Option(help="The column to predict; several with commas.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting: optimizer.momentum=0.9, model.width=64, data.missing=?, split.group=patient")]
Config = Annotated[str | None, typer.Option(help="Settings from run.toml or RUN/settings.json.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="CSV, TSV or Parquet file, or a folder of images.")],
    target: Target = None,
    val: Annotated[str | None, typer.Option(help="Validation rows in a file of their own.")] = None,
    test: Annotated[str | None, typer.Option(help="Test rows in a file of their own.")] = None,
    model: Annotated[str | None, typer.Option(help="auto, linear, mlp, resnet, cnn, or FILE.py:CLASS")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    lr: Annotated[float | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    folder: Annotated[str | None, typer.Option(help="Where runs are kept (default: runs).")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name; default: the file's name and a number.")] = None,
    config: Config = None,
    set_: SetOption = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A finding's code not to be looked for.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
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
    run = workflow.fit(model or named_model or "auto", splits, quiet=quiet, **settings)
    scores = run.evaluate("val" if splits.val is not None else "train")
    report = None
    if run.folder is not None:
        from fivestep.results import runs

        runs.write(run.folder, "scores.json", scores.to_json())
        report = str(run.report())
    company = company_of(run)
    if as_json:
        emit({"run": str(run.folder) if run.folder else None, "report": report, "scores": scores.to_json(), "company": company.to_json() if company else None,
              "epochs": len(run.history), "weights_sha256": run.weights_sha256, "findings": [finding.to_json() for finding in run.findings]})  # fmt: skip
        return
    print_scores(scores)
    if company is not None:
        print(company)
    if run.folder is not None:
        print(f"\nrun    {run.folder}\nmodel  {run.folder}/model.fivestep\nreport {report}")
        own = f" --model {model or named_model}" if ".py:" in str(model or named_model) else ""
        commands = [] if Path(data).is_dir() else [f"fivestep predict {run.folder} NEW.csv -o out.csv{own}"]
        if splits.test is not None:
            commands.append(f"fivestep evaluate {run.folder} --split test{own}")
        if commands:
            print("next   " + "\n       ".join(commands))


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="The folder of a run that was stopped or killed, or is to become longer.")],
    epochs: Annotated[int | None, typer.Option(help="Train up to so many epochs in all.")] = None,
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own that cannot be found again.")] = None,
    allow_inexact: Annotated[bool, typer.Option("--allow-inexact", help="Go on though another torch or device may give other bits.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Go on from the newest checkpoint, to the same bits as if the run had never stopped."""
    from fivestep import workflow
    from fivestep.model.building import load_file_class
    from fivestep.results import runs

    objects = {"model": load_file_class(model_class)} if model_class else {}
    ended = workflow.resume(run, epochs=epochs, allow_inexact=allow_inexact, quiet=quiet, **objects)
    scores = ended.evaluate("val" if ended.splits.val is not None else "train")
    if not (Path(run) / "scores.json").exists() or epochs is not None:
        runs.write(Path(run), "scores.json", scores.to_json())
    if as_json:
        emit({"run": run, "scores": scores.to_json(), "epochs": len(ended.history), "weights_sha256": ended.weights_sha256})
        return
    print_scores(scores)
    print(f"\nrun    {run}\nmodel  {run}/model.fivestep")


@app.command()
def sweep(
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
    epochs: Annotated[int | None, typer.Option()] = None,
    folder: Annotated[str | None, typer.Option(help="Where runs are kept (default: runs).")] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name; default: sweep and a number.")] = None,
    config: Config = None,
    set_: SetOption = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train many variants, say what helped and what could be luck, and train the best again as one run."""
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
        quiet=quiet, **settings,
    )  # fmt: skip
    best = found.best
    if as_json:
        emit({"sweep": str(found.folder) if found.folder else None, "best": str(best.folder) if best.folder else None, "best_settings": found.best_settings,
              "comparison": found.comparison.to_json(), "table": found.table.to_dicts()})  # fmt: skip
        return
    print(found)
    if best.folder is not None:
        print(f"\nbest   {best.folder}\nmodel  {best.folder}/model.fivestep")
        if splits.test is not None:
            print(f"next   fivestep evaluate {best.folder} --split test")


@app.command()
def compare(
    paths: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs on the same rows.")],
    split: Annotated[str, typer.Option(help="val, or test (which counts as a look for each run).")] = "val",
    metric: Annotated[str | None, typer.Option(help="loss, or a metric's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Runs beside each other, paired by row and seed: what is better, and what could be luck."""
    from fivestep import experiments

    compared = experiments.compare(*paths, split=split, metric=metric)
    emit(compared.to_json()) if as_json else print(compared)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A run or an artifact.")],
    file: Annotated[str, typer.Argument(help="CSV, TSV or Parquet with the same columns.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where predictions go (.csv or .parquet); default: CSV on stdout.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="A column of probability for each class too.")] = False,
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own.")] = None,
    sha256: Annotated[str | None, typer.Option("--expect-sha256", help="SHA-256 that MANIFEST.json must have.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
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
    if not quiet:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if output is not None:
            print(f"{written:,} predictions in {output}", file=sys.stderr)
    if as_json:
        emit({"output": output, "rows": written, "notes": list(notes)})


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run or an artifact.")],
    file: Annotated[str | None, typer.Argument(help="A file with the target's column.")] = None,
    split: Annotated[str | None, typer.Option(help="val or test rows of the run's own data.")] = None,
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Scores with intervals and a no-skill baseline; looks at the test split are counted."""
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


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="CSV, TSV or Parquet file.")],
    target: Target = None,
    config: Config = None,
    set_: SetOption = None,
    as_json: AsJson = False,
) -> int:
    """All problems of a file in one pass, and how each column is read."""
    from fivestep.data.columns import inspect_file

    _, options, _, _ = put_together(config, set_)
    if not Path(file).exists():
        raise MissingInputError(f"There is no file {file}.")
    if Path(file).is_dir():
        raise UsageError(f"{file} is a folder; check reads a table. A folder of images is looked at by: fivestep fit {file}")
    known_options(options, "data")
    allowed = {key: value for key, value in options.items() if key not in ("target", "scale_target", "categories")}  # those concern the model, not the file
    report = inspect_file(file, target=target_names(target) if target is not None else options.get("target"), **allowed)
    if as_json:
        columns = [
            {"name": line.name, "kind": line.kind, "use": line.use, "missing": line.num_missing, "examples": list(line.examples)}
            for line in report.columns.lines
        ]
        emit({"file": file, "rows": report.num_rows, "columns": columns, "problems": list(report.problems), "notes": list(report.notes)})
    else:
        print(report)
    return 65 if report.problems else 0


@app.command()
def explain(code: Annotated[str, typer.Argument(help="The code of a finding, such as O01.")], as_json: AsJson = False) -> None:
    """What a finding means, why it matters, and the mistake beside its mend."""
    from fivestep.checks.catalogue import CATALOGUE

    rule = CATALOGUE.get(code.upper())
    if rule is None:
        raise UsageError(f"There is no finding {code!r}.{near_codes(code)}")
    if as_json:
        emit(asdict(rule))
    else:
        print(rule)


@app.command()
def show(what: Annotated[str, typer.Argument(help="A run or an artifact.")], as_json: AsJson = False) -> None:
    """What a run or an artifact holds."""
    facts = describe_path(Path(what))
    if as_json:
        emit(facts)
        return
    for key, value in facts.items():
        if value is not None:
            print(
                f"{key:14}{', '.join(f'{k}={short(v)}' for k, v in value.items()) if isinstance(value, dict) else f'{value:,}' if isinstance(value, int) else value}"
            )


@app.command()
def verify(what: Annotated[str, typer.Argument(help="A run or an artifact.")], as_json: AsJson = False) -> int:
    """Every byte of an artifact against its manifest."""
    from fivestep import workflow

    if not Path(what).exists():
        raise MissingInputError(f"There is nothing at {what}.")
    problems = workflow.verify(what)
    emit({"path": what, "problems": list(problems)}) if as_json else print("\n".join(problems) or f"{what}: sound")
    return 66 if problems else 0


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="The folder of a run whose data can be read again.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where the report goes (default: RUN/report.html).")] = None,
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """What was trained, how good it is and where it errs, as one HTML file that works offline."""
    from fivestep import workflow
    from fivestep.model.building import load_file_class

    objects = {"model": load_file_class(model_class)} if model_class else {}
    written = workflow.load_run(run, **objects).report(output)
    emit({"run": run, "report": str(written)}) if as_json else print(written)


@app.command()
def eject(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The script to write; its files stand beside it.")] = "train.py",
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own that cannot be found again.")] = None,
    as_json: AsJson = False,
) -> None:
    """The run as one script of plain PyTorch that ends in the same weights."""
    from fivestep import workflow
    from fivestep.model.building import load_file_class

    objects = {"model": load_file_class(model_class)} if model_class else {}
    written = [str(path) for path in workflow.load_run(run, **objects).eject(output)]
    emit({"script": written[0], "files": written[1:]}) if as_json else print("\n".join(written))


@app.command()
def reproduce(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    model_class: Annotated[str | None, typer.Option("--model", help="FILE.py:CLASS of a model of your own that cannot be found again.")] = None,
    as_json: AsJson = False,
) -> int:
    """Fit again from the record and compare the weights; exit code 70 where they differ."""
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


@app.command()
def demo(folder: Annotated[str, typer.Option(help="Where the runs are kept.")] = "runs", as_json: AsJson = False, quiet: Quiet = False) -> None:
    """The whole workflow on real data that comes with fivestep: penguins as a table, digits as images."""
    from fivestep.apps.demo import run_demo

    results = run_demo(folder, quiet=quiet, as_json=as_json)
    if as_json:
        emit(results)


@app.callback()
def options() -> None:
    """Results on stdout, messages on stderr; --debug shows where an error happened."""


def put_together(config: str | None, assignments: list[str] | None, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], Any]:
    """-> (settings of fit, options of Data.table, options of split, model): the config file, then --set, then the options that were typed."""
    from fivestep import settings

    table: dict[str, Any] = settings.read_config(config) if config else {}
    recorded = table.pop("recorded_data", {})
    recorded_model = table.pop("recorded_model", {})
    for assignment in assignments or []:
        path, value = settings.parse_assignment(assignment)
        settings.put(table, path, value)
    table |= {key: value for key, value in given.items() if value is not None}
    data = dict(recorded.get("options", {})) | dict(table.pop("data", {}))
    earlier = recorded.get("split_options", {})
    split = ({"seed": earlier["seed"]} if earlier.get("given") else earlier) | dict(table.pop("split", {}))
    if isinstance(data.get("missing"), (str, int)):
        data["missing"] = [str(data["missing"])]
    if isinstance(data.get("drop"), str):
        data["drop"] = [data["drop"]]
    model_table = table.pop("model", None)
    model: Any = None
    if isinstance(model_table, dict):
        model = model_table.pop("name", None)
        if model_table:
            table["model_args"] = dict(table.get("model_args", {})) | model_table
    elif model_table is not None:
        model = model_table
    if model is None and recorded_model:
        model = recorded_model.get("name") or f"{recorded_model.get('file')}:{recorded_model.get('qualname')}"
        table["model_args"] = dict(recorded_model.get("args", {})) | dict(table.get("model_args", {}))
    return table, data, split, model


def read_over(text: str) -> tuple[str, Any]:
    """`lr=0.1,0.01` -> ("lr", [0.1, 0.01]); `lr=1e-4..1e-1` is a distribution, on a logarithmic scale where it spans more than two decades."""
    from fivestep.settings import parse_value

    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        raise UsageError(f"--over {text!r}: write a setting and its values, for example --over lr=0.1,0.01")
    low, dots, high = values.partition("..")
    if dots:
        bounds = [parse_value(low.strip()), parse_value(high.strip())]
        if not all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in bounds):
            raise UsageError(f"--over {text!r}: a range is two numbers, for example --over lr=1e-4..1e-1")
        whole = all(isinstance(bound, int) for bound in bounds)
        return name.strip(), {"low": bounds[0], "high": bounds[1], "log": 0 < 100 * bounds[0] <= bounds[1], "int": whole}
    parsed = parse_value(values.strip())
    if isinstance(parsed, (list, tuple)):
        return name.strip(), list(parsed)
    return name.strip(), [parse_value(value.strip()) for value in values.split(",")]


def data_and_splits(source: str, data: dict[str, Any], split: dict[str, Any], val: str | None, test: str | None) -> Any:
    from fivestep.data.data import Data, Splits

    for path in (val, test):
        if path is not None and not Path(path).exists():
            raise MissingInputError(f"There is no file or folder {path}.")
    known_options(split, "split")
    if not Path(source).exists():
        raise MissingInputError(f"There is no file or folder {source}.")
    if Path(source).is_dir():
        others = [key for key in data if key != "size"]
        if others:
            raise UsageError(f"{source} is a folder of images, whose classes are the names of its folders; data.{others[0]} is an option of tables.")
        made = Data.images(source, **data)
    else:
        known_options(data, "data")
        made = Data.table(source, **data)
    if test or val:
        chosen = [key for key, value in split.items() if key not in ("seed", "shuffle") and value]
        if chosen:
            raise UsageError(f"split.{chosen[0]} divides one file, and --val or --test name files that are divided already. Leave one of the two out.")
        read = (lambda path: Data.images(path, **data)) if Path(source).is_dir() else (lambda path: Data.table(path, **data))
        return Splits(made, val=read(val) if val else 0.15, test=read(test) if test else None)
    return made.split(**split)


def known_options(options: dict[str, Any], part: str) -> None:
    """Refuse an option that Data.table (part "data") or split (part "split") does not have."""
    import inspect

    from fivestep.data.data import Data
    from fivestep.model.building import nearest

    allowed = [key for key in inspect.signature(Data.table if part == "data" else Data.split).parameters if key not in ("self", "source")]
    for key in options:
        if key not in allowed:
            raise UsageError(f"There is no option {part}.{key}.{nearest(key, allowed)}")


def unknown_settings(settings: dict[str, Any]) -> None:
    import inspect

    from fivestep import workflow
    from fivestep.checks.catalogue import CATALOGUE
    from fivestep.data.data import Data
    from fivestep.model.building import nearest

    allowed = [key for key in inspect.signature(workflow.fit).parameters if key not in ("model", "splits", "quiet")]
    for key in settings:
        if key not in allowed:
            homes = [part for part, function in (("data", Data.table), ("split", Data.split)) if key in inspect.signature(function).parameters]
            raise UsageError(f"There is no setting {key!r}." + (f" Did you mean {homes[0]}.{key}?" if homes else nearest(key, allowed)))
    for code in settings.get("ignore") or ():
        if code not in CATALOGUE:
            raise UsageError(f"--ignore {code}: there is no such finding.{near_codes(str(code))}")


def near_codes(code: str) -> str:
    """`Did you mean 'O01'? fivestep explain O01` for a code that is none; all of its letter where none is near."""
    import difflib

    from fivestep.checks.catalogue import CATALOGUE

    near = difflib.get_close_matches(code.upper(), CATALOGUE, 3) or [known for known in CATALOGUE if known[0] == code[:1].upper()]
    return (
        f" Near are: {', '.join(near)}." if near else " A code is a letter and two digits: D data, S split, M model, L loss, O optimizer, T training, E scores."
    )


def company_of(run: Any) -> Any:
    """Who else does how well on validation, kept beside the scores; None where there is nothing to compare (images, several labels, no validation rows)."""
    if (
        run.splits.val is None
        or run.splits.columns is None
        or run._predictor.decoding.task not in ("regression", "binary", "multiclass")
        or not run.can_predict
    ):
        return None
    company = run.company("val")
    if run.folder is not None:
        from fivestep.results import runs

        runs.write(run.folder, "company.json", company.to_json())
    return company


def columns_of(file: str, options: dict[str, Any]) -> str:
    """ " FILE has the columns ...", for a file that can be read at all."""
    from fivestep.data.tables import read_table

    if not Path(file).exists():
        raise MissingInputError(f"There is no file or folder {file}.")
    names = read_table(file, **{key: options[key] for key in ("delimiter", "encoding", "quote") if key in options}).names
    return f" {file} has the columns {', '.join(names[:30])}{' ...' if len(names) > 30 else ''}."


def short(value: Any) -> Any:
    """A value as a line shows it: a long list by its length."""
    return f"{len(value)} values" if isinstance(value, list) and len(value) > 8 else value


def target_names(text: str) -> str | list[str]:
    return text if "," not in text else [name.strip() for name in text.split(",")]


def load_model(path: str, model_class: str | None, sha256: str | None) -> Any:
    from fivestep import workflow
    from fivestep.model.building import load_file_class

    if not Path(path).exists():
        raise MissingInputError(f"There is no run or artifact at {path}.")
    return workflow.load(path, load_file_class(model_class) if model_class else None, sha256=sha256)


def predicted_chunks(loaded: Any, file: str, probabilities: bool, notes: dict[str, None]) -> Iterator[Any]:
    """Polars frames of predictions, in the file's order, at least one (a file without rows gives the header). Adds what is to be told to `notes`."""
    import polars

    predictor = loaded._predictor
    if predictor.columns is None:
        raise UsageError("This model was trained on arrays or images; from the shell only tables can be predicted. Use fs.load(...).predict(array) in Python.")
    if not Path(file).exists():
        raise MissingInputError(f"There is no file {file}.")
    for numbers, codes, chunk_notes in predictor.columns.iter_prediction_chunks(file):
        notes |= dict.fromkeys(chunk_notes)
        named = predictor.frame(numbers, codes, probabilities=probabilities)
        notes |= dict.fromkeys(predictor.columns.beyond_targets(named))
        yield polars.DataFrame({key: values.tolist() if values.dtype == object else values for key, values in named.items()})


def predict_file(loaded: Any, file: str, output: str | None, probabilities: bool, notes: dict[str, None]) -> int:
    """Read a file in chunks, predict each, write in order; returns the number of rows. The output appears under its name only when it is whole."""
    import polars

    target = Path(output) if output else None
    if target is not None:
        check_output(target, file)
    separator = "\t" if target is not None and target.suffix == ".tsv" else ","
    kept, written = [], 0
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}") if target is not None else None
    stream = None
    try:
        stream = sys.stdout.buffer if temporary is None else open(temporary, "xb")  # noqa: SIM115  closed below, before the rename
        for frame in predicted_chunks(loaded, file, probabilities, notes):
            if target is not None and target.suffix == ".parquet":
                kept.append(frame)  # predictions alone, a few numbers a row; the input is not kept
            elif len(frame) or not written:
                stream.write(frame.write_csv(include_header=not written, separator=separator).encode())
            written += len(frame)
        if kept:
            polars.concat(kept).write_parquet(stream)  # type: ignore[arg-type]
        stream.flush()
        if temporary is not None and target is not None:
            os.fsync(stream.fileno())
            stream.close()
            os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, (BrokenPipeError, FivestepError)):
            raise
        where = "" if output is None else " Nothing was left under that name."
        if stream is None and error.errno not in DISK_REFUSES:
            raise CannotCreateError(f"-o {output} cannot be created: {error.strerror}.") from error
        raise StorageError(f"{output or 'stdout'} cannot be written: {error.strerror}.{where}") from error
    finally:
        if temporary is not None and stream is not None:
            with contextlib.suppress(OSError):  # what could not be flushed was told above
                stream.close()
            temporary.unlink(missing_ok=True)
    return written


def check_output(target: Path, file: str) -> None:
    """Refuse an output that cannot become the predictions, before any work is done."""
    if target.suffix not in (".csv", ".tsv", ".parquet"):
        raise UsageError(f"-o {target}: the name must end in .csv, .tsv or .parquet.")
    if not target.parent.is_dir():
        raise CannotCreateError(f"-o {target}: there is no folder {target.parent}.")
    if target.is_dir():
        raise CannotCreateError(f"-o {target} is a folder.")
    if target.exists() and Path(file).exists() and target.samefile(file):
        raise UsageError(f"-o {target} is the file that is read: its rows would be lost. Choose another name.")


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


def print_scores(scores: Any) -> None:
    from fivestep.watch import console

    console.print_scores(scores)


def emit(value: Any) -> None:
    print(json.dumps(value, allow_nan=False, default=str))
