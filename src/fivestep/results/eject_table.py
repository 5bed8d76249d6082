"""The table reader of an ejected script: polars calls, and what was fitted on the training rows as literal numbers.

Enters: the typed table and fitted columns of a run. Leaves: text that ends in `x` (or `numbers` and `codes`), `y` and `w` over all rows of the file. The
decision that shaped it: each line is tried on the file while it is written and must give the recorded values to the bit, so the reader holds only what this
file needs (no token for a missing value that never appears); what no plain line gives is refused with `NotPlain`, and the caller writes the numbers to a file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fivestep.data.values import DAYS, FALSE, TRUE, missing_mask, missing_tokens
from fivestep.model.weights import same_bits
from fivestep.results.eject_code import Script, enclosed, literal

if TYPE_CHECKING:
    import polars

CASTS = {torch.float32: ".float()", torch.float64: ".double()", torch.bfloat16: ".bfloat16()", torch.float16: ".half()"}
CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S%.f")


class NotPlain(Exception):
    """There is no plain text for this; the message says what."""


class Tried:
    """Names and values of a script so far; `gives` runs a text as the script would and returns what it evaluates to."""

    def __init__(self) -> None:
        import polars

        self.names: dict[str, Any] = {"torch": torch, "np": np, "pl": polars, "Path": Path}

    def run(self, text: str) -> None:
        exec(text, self.names)  # our own text, which the user is about to run

    def gives(self, text: str) -> Any:
        return eval(text, self.names)

    def equals(self, text: str, expected: Tensor) -> bool:
        """Whether the text can be evaluated and gives these bits."""
        try:
            return same_bits(self.gives(text), expected) or _equal_numbers(self.gives(text), expected)
        except Exception:  # a candidate that polars refuses is no candidate
            return False


def _equal_numbers(found: Any, expected: Tensor) -> bool:
    """Equal values where NaN equals NaN whatever its bits: what is missing is filled anyway."""
    return isinstance(found, Tensor) and found.dtype == expected.dtype and np.array_equal(found.numpy(), expected.numpy(), equal_nan=True)


class TableReader:
    """Writes the lines for one table; `tried` knows what they give."""

    def __init__(self, script: Script, tried: Tried, columns: Any, typed: Any):
        self.script, self.tried, self.columns, self.typed = script, tried, columns, typed
        self.cleaning = ""

    # -- reading --------------------------------------------------------------------------------------------------------------------------------------------

    def read(self, places: list[str], kept: list[np.ndarray]) -> str:
        """`table = pl.read_csv(...)` for the files named by the texts `places`; rows that were left out for want of a target are filtered."""
        options = self.typed.options
        reads = []
        for place in places:
            arguments = [place]
            if ".parquet" not in place:
                arguments.append("infer_schema=False")
                separator = options.delimiter or ("\t" if re.search(r"\.(tsv|tab)\"", place) else ",")
                arguments += [f"separator={literal(separator)}"] if separator != "," else []
                arguments += ["quote_char=None"] if options.quote is None else [f"quote_char={literal(options.quote)}"] if options.quote != '"' else []
                arguments += [f"encoding={literal(options.encoding)}"] if options.encoding.lower().replace("_", "-") not in ("utf-8", "utf8") else []
            reads.append(f"pl.read_{'parquet' if '.parquet' in place else 'csv'}({', '.join(arguments)})")
        text = f"table = {reads[0]}" if len(reads) == 1 else f"table = pl.concat({enclosed('[', reads, ']', 8)})"
        comment = "" if ".parquet" in places[0] else "# Every column is read as text first.\n"
        self.script.imports.add("import polars as pl")
        text = comment + text
        self.tried.run(text)
        table = self.tried.names["table"]
        if [name for name in self.typed.names if name not in table.columns]:
            raise NotPlain("polars names the columns otherwise")
        rows = np.concatenate(kept)
        if table.height > len(rows):
            text += "\n" + self._filtered(table, rows)
            table = self.tried.names["table"]
        if table.height != len(rows):
            raise NotPlain(f"polars reads {table.height} rows instead of {len(rows)}")
        return text

    def _filtered(self, table: polars.DataFrame, rows: np.ndarray) -> str:
        """Only rows with a target."""
        import polars

        names = list(self.typed.targets)
        keep = np.zeros(table.height, bool)
        keep[rows] = True
        for tokens in ("", "tokens"):
            lines = []
            for name in names:
                if not tokens:
                    lines.append(f"pl.col({literal(name)}).is_not_null()")
                    continue
                left_out = table[name].filter(polars.Series(~keep)).drop_nulls().str.strip_chars().unique().sort().to_list()
                lines.append(f"~pl.col({literal(name)}).str.strip_chars().is_in({literal(left_out)}).fill_null(True)")
            text = f"table = table.filter({', '.join(lines)})  # rows without a target are left out"
            self.tried.names["table"] = table
            self.tried.run(text)
            filtered = self.tried.names["table"]
            if filtered.height == len(rows) and all(filtered[name].equals(table[name].gather(rows.tolist())) for name in self.typed.names):
                return text
        raise NotPlain("rows without a target")

    # -- columns --------------------------------------------------------------------------------------------------------------------------------------------

    def number(self, name: str, expected: Tensor) -> str:
        """`number("age")`."""
        text = f"number({literal(name)})"
        if "number" in self.tried.names and self.tried.equals(text, expected):
            return text
        before = self.tried.names.get("number")
        for cleaning in self._cleanings(name):
            if cleaning == self.cleaning and before is not None:
                continue
            function = number_function(cleaning)
            self.tried.run(function)
            if self.tried.equals(text, expected) and all(self.tried.equals(f"number({literal(other)})", known) for other, known in self._numbers.items()):
                self.cleaning = cleaning
                self.script.functions["number"] = function
                self._numbers[name] = expected
                return text
        raise NotPlain(f"column {name!r}")

    @property
    def _numbers(self) -> dict[str, Tensor]:
        if not hasattr(self, "_known_numbers"):
            self._known_numbers: dict[str, Tensor] = {}
        return self._known_numbers

    def _cleanings(self, name: str) -> list[str]:
        """Ways to clean a text before it is a number, the shortest first: only tokens for "no value" that stand in the file."""
        import polars

        series = self.tried.names["table"][name]
        if series.dtype != polars.String:
            return [""]
        comma = '.str.replace(",", ".", literal=True)' if self.typed.options.decimal == "," else ""
        texts = series.drop_nulls().str.strip_chars().unique().to_list()
        earlier = re.search(r"\.replace\((\[.*?\]), None\)", self.cleaning)
        tokens = sorted({*(text for text in texts if text in missing_tokens(self.typed.options)), *(eval(earlier[1]) if earlier else [])})
        replaced = f".replace({literal(tokens)}, None)" if tokens else ""
        return [comma, replaced + comma, ".str.strip_chars()" + replaced + comma]

    def boolean(self, name: str, expected: Tensor) -> str:
        """1 and 0 for the words that stand in the file, NaN for anything else."""
        import polars

        series = self.tried.names["table"][name]
        if series.dtype != polars.String:
            return self.number(name, expected)
        words = dict.fromkeys((*TRUE, "1"), 1) | dict.fromkeys((*FALSE, "0"), 0)
        found = {text: words[text.strip().lower()] for text in sorted(series.drop_nulls().unique().to_list()) if text.strip().lower() in words}
        gaps = any(column.kind == "boolean" and column.num_missing for column in self.typed.columns)
        function = BOOLEAN_WITH_GAPS if gaps else BOOLEAN
        self.script.define("boolean", function)
        self.tried.run(function)
        text = f"boolean(table[{literal(name)}], {literal(found)})"
        if not self.tried.equals(text, expected):
            raise NotPlain(f"column {name!r}")
        return text

    def moment(self, column: Any) -> tuple[str, str]:
        """(variable, line) of a date, datetime or time column."""
        import polars

        name = column.name
        series = self.tried.names["table"][name]
        variable = identifier(name, set(self.tried.names))
        source = f"table[{literal(name)}]"
        candidates = [source]
        if series.dtype == polars.String:
            forms = [column.form] if column.form and column.form not in DAYS else []
            day = column.form if column.form in DAYS else "%Y-%m-%d"
            strict = ", strict=False" if missing_mask(self.typed.column(name).values).any() else ""
            if column.kind == "date":
                candidates = [f'{source}.str.to_date("{form}"{strict})' for form in (*forms, day)]
            elif column.kind == "time":
                candidates = [f'{source}.str.to_time("{form}"{strict})' for form in CLOCKS]
            else:
                forms += [f"{day}{between}{clock}{zone}" for between in (" ", "T") for clock in CLOCKS for zone in ("", "Z")]
                candidates = [f'{source}.str.to_datetime("{form}", time_unit="us"{strict})' for form in forms]
        values = torch.from_numpy(np.asarray(self.typed.column(name).values))
        seconds = {"date": "{}.cast(pl.Int32).cast(pl.Float64).to_torch() * 86400", "time": "{}.cast(pl.Int64).cast(pl.Float64).to_torch() / 1e9"}.get(
            column.kind, '({}.dt.epoch("us") / 1e6).to_torch()'
        )
        for candidate in candidates:
            if self.tried.equals(seconds.format(f"({candidate})"), values):
                line = f"{variable} = {candidate}"
                self.tried.run(line)
                return variable, line
        raise NotPlain(f"column {name!r}")

    def time_part(self, variable: str, kind: str, part: str, expected: Tensor) -> str:
        """The text of one number made of a moment: its year, its month on a circle, ..."""
        name, _, cycle = part.partition(" ")
        clock = f"{variable}.cast(pl.Int64)" if kind == "time" else f"{variable}.dt.time().cast(pl.Int64)"
        turns = {"month": f"{variable}.dt.month() - 1, 12", "weekday": f"{variable}.dt.weekday() - 1, 7", "time": f"{clock}, 86400e9"}  # nanoseconds
        if cycle:
            function = {"sin": "sine", "cos": "cosine"}[cycle]
            self.script.define(function, circle_function(function), "import numpy as np")
            self.tried.run(self.script.functions[function])
            text = f"{function}({turns[name]})"
        elif name == "days":
            # torch divides: polars multiplies by 1 / 86400, whose last bit differs
            text = f"{variable}.cast(pl.Int32).cast(pl.Float64).to_torch()" if kind == "date" else f'({variable}.dt.epoch("us") / 1e6).to_torch() / 86400'
        else:
            text = f"{variable}.dt.{name}().cast(pl.Float64).to_torch()"
        if not self.tried.equals(text, expected):
            raise NotPlain(f"{part} of {variable}")
        return text

    def category(self, column: Any) -> str:
        """How a category column is reached: `table["city"]`, with null where it has no value."""
        import polars

        series = self.tried.names["table"][column.name]
        text = f"table[{literal(column.name)}]"
        if series.dtype != polars.String:
            text += ".cast(pl.String)"
        else:
            tokens = missing_tokens(self.typed.options, category=True)
            found = [one for one in series.drop_nulls().unique().sort().to_list() if one.strip() in tokens]
            text += f".replace({literal(found)}, None)" if found else ""
        if not self.tried.gives(text).equals(self.typed.column(column.name).values.cast(polars.String)):
            raise NotPlain(f"column {column.name!r}")
        return text

    # -- inputs ---------------------------------------------------------------------------------------------------------------------------------------------

    def inputs(self, names: list[str]) -> str:
        """The encoded inputs, over all rows, in the variables `names` (one, or numbers and codes)."""
        columns = self.columns
        raw, _ = columns.raw(self.typed)
        before: list[str] = []
        rows: list[tuple[str, list[float]]] = []
        flags: list[tuple[int, str]] = []
        missing = bool(raw.isnan().any())
        at = 0
        for column in columns.inputs:
            if column.is_category:
                continue
            flags += [(at, column.name)] if column.flag else []
            variable = ""
            if column.parts != ("value",):
                variable, line = self.moment(column)
                before.append(line)
            for part, *fitted in zip(column.parts, column.fill, column.center, column.scale):
                expected = raw[:, at].contiguous()
                at += 1
                if variable:
                    text = self.time_part(variable, column.kind, part, expected)
                else:
                    text = self.boolean(column.name, expected) if column.kind == "boolean" else self.number(column.name, expected)
                rows.append((text, fitted))
        x = names[0]
        parts = []
        lines = [*before]
        if rows:
            by_mean = all(fill == mean for _, (fill, mean, _) in rows)  # what is missing is filled by the mean, so the mean says it
            fills = missing and not by_mean
            what = "fill value, mean and deviation of the training rows" if fills else "mean and deviation of the training rows"
            written = [f"    ({text}, {', '.join(map(literal, fitted if fills else fitted[1:]))}),\n" for text, fitted in rows]
            lines.append(f"columns = [  # values, {what}\n" + "".join(written) + "]")
            lines.append("numbers = torch.stack([values for values, *_ in columns], dim=1)  # float64 (rows, columns)" + (", NaN: no value" if missing else ""))
            fitted_names = "fill, mean, deviation" if fills else "mean, deviation"
            lines.append(f"{fitted_names} = torch.tensor([fitted for _, *fitted in columns], dtype=torch.float64).T")
            if missing:
                lines.append("missing = numbers.isnan()")
            filled = f"torch.where(missing, {'fill' if fills else 'mean'}, numbers)" if missing else "numbers"
            lines.append(f"{x} = (({filled} - mean) / deviation).float()")
            parts.append(x)
        if flags:
            parts.append(f"missing[:, {[place for place, _ in flags]}].float()")
            flag_names = ", ".join(name for _, name in flags)
        categories = [column for column in columns.inputs if column.is_category]
        if columns.categories == "onehot":
            parts += [part for column in categories for part in self._one_hot(column)]
        if len(parts) > 1 or not rows:
            joined = [f"{part}" for part in parts] or ["torch.zeros(len(table), 0)"]
            text = f"{x} = {joined[0]}" if len(joined) == 1 else enclosed(f"{x} = torch.cat([", joined, "], dim=1)")
            if flags:
                text = (
                    f"# Beside the numbers stand marks of those that were missing ({flag_names})"
                    + (" and one input a category.\n" if categories and columns.categories == "onehot" else ".\n")
                    + text
                )
            lines.append(text)
        if columns.categories == "codes":
            codes = [self._codes(column) for column in categories]
            lines.append(enclosed(f"{names[1]} = torch.stack([", codes, "], dim=1)"))
        text = "\n".join(lines)
        self.tried.run(text)
        return text

    def _one_hot(self, column: Any) -> list[str]:
        gaps = any(one.is_category and self.typed.column(one.name).num_missing for one in self.columns.inputs)
        function = ONE_HOT_WITH_GAPS if gaps else ONE_HOT
        self.script.define("one_hot", function)
        self.tried.run(function)
        known: list[Any] = [*column.vocabulary, *([None] if column.flag else [])]
        source = self.category(column)
        parts = [enclosed(f"one_hot({source}, [", [literal(value) for value in known], "])", 4)]
        if column.other:
            self.script.define("other", OTHER)
            self.tried.run(OTHER)
            parts.append(enclosed(f"other({source}, [", [literal(value) for value in column.vocabulary], "])", 4))
        return parts

    def _codes(self, column: Any) -> str:
        self.script.define("codes_of", CODES)
        self.tried.run(CODES)
        return enclosed(f"codes_of({self.category(column)}, [", [literal(value) for value in column.vocabulary], "])", 4)

    # -- targets and weights ----------------------------------------------------------------------------------------------------------------------------------

    def target(self, decoding: Any, like: Tensor) -> str:
        """`y`, over all rows, as the loss got it: its shape and dtype are those of `like`."""
        columns = self.columns
        center, scale = decoding.target_center, decoding.target_scale
        if columns.task in ("binary", "multiclass"):
            text = self._classes(columns.targets_[0])
            if like.is_floating_point():
                signs = bool((like < 0).any())
                text = f"torch.where({text} == 0, -1.0, 1.0)" if signs else text + CASTS[like.dtype]
                text += "[:, None]" if like.dim() == 2 else ""
            return f"y = {text}"
        raw = columns.targets(self.typed)
        texts = []
        for position, column in enumerate(columns.targets_):
            read = self.boolean if column.kind == "boolean" else self.number
            texts.append(read(column.name, raw[:, position].contiguous()))
        if len(texts) == 1:
            text = texts[0]
            if center is not None:
                text = f"({text} - {literal(center[0])}) / {literal(scale[0])}"
                text = f"({text})" if CASTS[like.dtype] != ".double()" or like.dim() == 2 else text
            text += "" if like.dtype == torch.float64 else CASTS[like.dtype]
            text += "[:, None]" if like.dim() == 2 else ""
        else:
            text = enclosed("torch.stack([", texts, "], dim=1)")
            text += "" if like.dtype == torch.float64 else CASTS[like.dtype]
            if center is not None:
                numbers = [enclosed("torch.tensor([", list(map(literal, values)), "], dtype=torch.float64)") for values in (center, scale)]
                stacked = enclosed("torch.stack([", texts, "], dim=1)")
                cast = "" if like.dtype == torch.float64 else CASTS[like.dtype]
                return f"target_mean = {numbers[0]}  # of the training rows\ntarget_deviation = {numbers[1]}\ny = {stacked}\ny = ((y - target_mean) / target_deviation){cast}"
        return f"y = {text}" + ("  # standardised by the training rows" if center is not None else "")

    def _classes(self, target: Any) -> str:
        import polars

        expected = self.columns.targets(self.typed)
        name, texts = target.name, list(target.texts)
        series = self.tried.names["table"][name]
        if target.form == "integer" and texts == [str(number) for number in range(len(texts))]:
            numbers = torch.from_numpy(np.asarray(expected, dtype=np.float64))
            return self.number(name, numbers) + ".long()"
        if series.dtype != polars.String:
            texts = [text == "true" for text in texts] if target.form == "boolean" else [int(text) for text in texts]
        text = enclosed(f"table[{literal(name)}].replace_strict(", [literal(texts), f"range({len(texts)})", "return_dtype=pl.Int64"], ").to_torch()", 4)
        if not self.tried.equals(text, expected):
            raise NotPlain(f"the target {name!r}")
        return text

    def weights(self) -> str:
        return f"w = {self.number(self.columns.weight, self.typed.weights())}.float()"


def identifier(name: str, taken: set[str]) -> str:
    """A column's name as a Python variable."""
    found = re.sub(r"\W+", "_", name).strip("_").lower()
    found = found if found and found.isascii() and found.isidentifier() and not found[0].isdigit() else "moment"
    return (
        f"{found}_column"
        if found in taken or found in ("x", "y", "w", "table", "columns", "numbers", "codes", "train", "val", "order", "class", "from")
        else found
    )


# -- the functions that stand in the script --------------------------------------------------------------------------------------------------------------------


def number_function(cleaning: str) -> str:
    return (
        "def number(name):\n"
        '    """A column as float64 (rows,)' + (", NaN where it has no value" if "replace([" in cleaning else "") + '."""\n'
        f"    return table[name]{cleaning}.cast(pl.Float64).to_torch()"
    )


def circle_function(name: str) -> str:
    function = {"sine": "sin", "cosine": "cos"}[name]
    return (
        f"def {name}(place, period):\n"
        f'    """The {name} of a place on a circle that is `period` around: December lies beside January."""\n'
        f"    return torch.from_numpy(np.{function}(2 * np.pi * (place.cast(pl.Float64).to_numpy() / period)))"
    )


BOOLEAN = '''def boolean(column, words):
    """float64 (rows,): 1 or 0 for these words."""
    return column.replace_strict(words, return_dtype=pl.Float64).to_torch()'''

BOOLEAN_WITH_GAPS = '''def boolean(column, words):
    """float64 (rows,): 1 or 0 for these words, NaN for anything else."""
    return column.replace_strict(words, default=None, return_dtype=pl.Float64).to_torch()'''

ONE_HOT = '''def one_hot(column, categories):
    """float32 (rows, categories): 1 where the column has this category."""
    return torch.stack([(column == category).to_torch() for category in categories], dim=1).float()'''

ONE_HOT_WITH_GAPS = '''def one_hot(column, categories):
    """float32 (rows, categories): 1 where the column has this category; None stands for no value."""
    return torch.stack([column.eq_missing(category).to_torch() for category in categories], dim=1).float()'''

OTHER = '''def other(column, categories):
    """float32 (rows, 1): 1 where the column has a category that is rare or new."""
    return (column.is_not_null() & ~column.is_in(categories).fill_null(False)).to_torch().float()[:, None]'''

CODES = '''def codes_of(column, categories):
    """int64 (rows,): from 2 on for these categories in order, 1 for no value, 0 for any other."""
    codes = column.replace_strict(categories, range(2, 2 + len(categories)), default=0, return_dtype=pl.Int64).to_torch()
    return torch.where(column.is_null().to_torch(), 1, codes)'''
