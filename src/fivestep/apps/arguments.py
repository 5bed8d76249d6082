"""What was typed, as arguments of `workflow`: --config, --set and the options, in this order, later ones first; files and folders as data.

A mistake is a `UsageError` that names the nearest spelling; nothing has been read or written then but the file itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fivestep.errors import MissingInputError, UsageError


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
    for part, example in (("data", "data.missing=NA"), ("split", "split.time=COLUMN")):
        if not isinstance(table.get(part, {}), dict):
            raise UsageError(f"{part}={table[part]!r} is no setting: {part} has options of its own, for example --set {example}")
    if isinstance(table.get("ignore"), str):
        table["ignore"] = [table["ignore"]]
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
        asked = dict(table.get("model_args", {}))
        made = {key: value for key, value in dict(recorded_model.get("args", {})).items() if key != "widths" or not asked.keys() & {"width", "depth"}}
        table["model_args"] = made | asked
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


def columns_of(file: str, options: dict[str, Any]) -> str:
    """ " FILE has the columns ...", for a file that can be read at all."""
    from fivestep.data.tables import read_table

    if not Path(file).exists():
        raise MissingInputError(f"There is no file or folder {file}.")
    names = read_table(file, **{key: options[key] for key in ("delimiter", "encoding", "quote") if key in options}).names
    return f" {file} has the columns {', '.join(names[:30])}{' ...' if len(names) > 30 else ''}."


def target_names(text: str) -> str | list[str]:
    return text if "," not in text else [name.strip() for name in text.split(",")]


def load_model(path: str, model_class: str | None, sha256: str | None) -> Any:
    from fivestep import workflow
    from fivestep.model.building import load_file_class

    if not Path(path).exists():
        raise MissingInputError(f"There is no run or artifact at {path}.")
    return workflow.load(path, load_file_class(model_class) if model_class else None, sha256=sha256)
