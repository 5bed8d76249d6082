"""The values of a column as its kind means them: float64 numbers and seconds with NaN for missing, text for categories.

Enters: a column as it was read, a kind, how numbers and days are written. Leaves: an array or texts, and which rows hold something else. The decision that shaped
it: what is no value is never dropped here; it is told, and `kinds` decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fivestep.data.records import shown
from fivestep.data.tables import ReadOptions
from fivestep.errors import UsageError

if TYPE_CHECKING:
    import polars

# These texts mean "no value" in columns of numbers, booleans and times. In a category only an empty field does: NA may be Namibia.
MISSING = ("", "NA", "N/A", "n/a", "na", "NULL", "Null", "null", "NaN", "nan", "NAN", "None", "none", "<NA>", "#N/A")
NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"  # [0-9], not \d, which takes Arabic digits; no 1_000, 0x1f, inf, 1,000
NUMBER_COMMA = NUMBER.replace(r"\.", ",")
TRUE, FALSE = ("true", "yes", "t", "y"), ("false", "no", "f", "n")
DAYS = {  # how the day is written -> the same as a regular expression with the groups y, m and d
    "%Y-%m-%d": r"(?P<y>[0-9]{4})-(?P<m>[0-9]{1,2})-(?P<d>[0-9]{1,2})",
    "%Y/%m/%d": r"(?P<y>[0-9]{4})/(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})",
    "%d.%m.%Y": r"(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>[0-9]{4})",
    "%d/%m/%Y": r"(?P<d>[0-9]{1,2})/(?P<m>[0-9]{1,2})/(?P<y>[0-9]{4})",
    "%m/%d/%Y": r"(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{4})",
    "%d-%m-%Y": r"(?P<d>[0-9]{1,2})-(?P<m>[0-9]{1,2})-(?P<y>[0-9]{4})",
    "%m-%d-%Y": r"(?P<m>[0-9]{1,2})-(?P<d>[0-9]{1,2})-(?P<y>[0-9]{4})",
}
TIMES = ("date", "datetime", "time")


def missing_tokens(options: ReadOptions, *, category: bool = False) -> list[str]:
    """The texts that mean "no value": those asked for beside the stated list; in a category only those asked for and the empty text."""
    asked = list(options.missing or ())
    return ["", *asked] if category else [*MISSING, *asked]


def missing_mask(values: Any) -> np.ndarray:
    return np.isnan(values) if isinstance(values, np.ndarray) else values.is_null().to_numpy()


def count_missing(values: Any) -> int:
    return int(np.isnan(values).sum()) if isinstance(values, np.ndarray) else int(values.null_count())


def as_text(series: polars.Series, options: ReadOptions) -> polars.Series:
    """The column as text with null for missing: text as it is written, whole floats as integers (pandas turns integers with gaps to floats)."""
    import polars

    if series.dtype == polars.String:
        missing = missing_tokens(options, category=True)
        stripped = series.str.strip_chars()
        if not bool(stripped.is_in(missing).any()) and not series.null_count():
            return series
        return series.to_frame().select(polars.when(stripped.is_in(missing)).then(None).otherwise(polars.col(series.name)).alias(series.name)).to_series()
    if series.dtype.is_float():
        return number_text(series.to_numpy().astype(np.float64)).alias(series.name)
    if series.dtype in (polars.Categorical, polars.Enum):
        return as_text(series.cast(polars.String), options)
    if series.dtype.is_nested() or series.dtype in (polars.Binary, polars.Object):
        return polars.Series(series.name, [None if value is None else repr(value) for value in series.to_list()], dtype=polars.String)
    if series.dtype == polars.Duration:
        series = series.cast(polars.Duration("us")).cast(polars.Int64) / 1_000_000
        return number_text(series.to_numpy().astype(np.float64)).alias(series.name)
    return series.cast(polars.String)


def number_text(values: np.ndarray) -> polars.Series:
    """Numbers as the text of a category: `3` for 3.0, the shortest exact text otherwise, null for NaN."""
    import polars

    distinct, inverse = np.unique(values, return_inverse=True)
    texts = [None if value != value else str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value) for value in _finite(distinct)]
    return polars.Series(texts, dtype=polars.String).gather(inverse)


def _finite(values: np.ndarray) -> list[float]:
    return [value if abs(value) != float("inf") else float("nan") for value in values.tolist()]


def read_as(series: polars.Series, kind: str, form: str, options: ReadOptions) -> tuple[np.ndarray, np.ndarray]:
    """A column as the float64 values of a kind other than category, and which rows hold something else (their value is NaN)."""
    import polars

    dtype, num_rows = series.dtype, len(series)
    nothing = np.zeros(num_rows, bool)
    if dtype == polars.Null:
        return np.full(num_rows, np.nan), nothing
    if dtype in (polars.Categorical, polars.Enum):
        series, dtype = series.cast(polars.String), polars.String()
    if dtype == polars.String:
        stripped = series.str.strip_chars()
        is_missing = stripped.is_in(missing_tokens(options)).fill_null(True).to_numpy()
        if kind == "number":
            pattern = NUMBER
            if options.decimal == ",":
                pattern = NUMBER_COMMA
            good = stripped.str.contains(pattern).fill_null(False).to_numpy() & ~is_missing
            if options.decimal == ",":
                stripped = stripped.str.replace(",", ".", literal=True)
            values = stripped.cast(polars.Float64, strict=False).to_numpy().copy()
        elif kind == "boolean":
            folded = stripped.str.to_lowercase()
            true, false = folded.is_in([*TRUE, "1"]).fill_null(False).to_numpy(), folded.is_in([*FALSE, "0"]).fill_null(False).to_numpy()
            good, values = (true | false) & ~is_missing, true.astype(np.float64)
        else:
            distinct = stripped.unique()
            parsed, wrong = times_of(distinct, form, kind)
            codes = polars.DataFrame({"text": stripped}).join(
                polars.DataFrame({"text": distinct, "at": np.arange(len(distinct))}), on="text", how="left", maintain_order="left"
            )
            at = codes["at"].fill_null(0).to_numpy()
            values, good = parsed[at], ~wrong[at] & ~is_missing
        values[~good] = np.nan
        return values, ~good & ~is_missing
    is_null = series.is_null().to_numpy()
    if kind in TIMES:
        if dtype == polars.Time and kind == "time":
            return np.where(is_null, np.nan, series.cast(polars.Int64).fill_null(0).to_numpy() / 1e9), nothing
        if dtype in (polars.Date, polars.Datetime) and kind != "time":
            micro = series.cast(polars.Datetime("us")).cast(polars.Int64).fill_null(0).to_numpy()
            return np.where(is_null, np.nan, micro / 1e6), nothing
        return np.full(num_rows, np.nan), ~is_null
    if dtype == polars.Duration:
        return np.where(is_null, np.nan, series.cast(polars.Duration("us")).cast(polars.Int64).fill_null(0).to_numpy() / 1e6), nothing
    if not (dtype.is_numeric() or dtype == polars.Boolean):
        return np.full(num_rows, np.nan), ~is_null
    values = series.cast(polars.Float64).to_numpy().copy()  # null becomes NaN
    stray = np.isinf(values) if kind == "number" else ~np.isnan(values) & (values != 0) & (values != 1)
    values[stray] = np.nan
    return values, stray


def times_of(texts: polars.Series, form: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Texts as seconds since 1970 (times of day: since midnight), and which of them are none. Without an offset a time is taken as UTC."""
    import polars

    if kind != "time" and form not in DAYS and form:  # a format of the user's own
        try:
            parsed = texts.str.to_datetime(form, time_unit="us", strict=False) if kind == "datetime" else texts.str.to_date(form, strict=False)
        except polars.exceptions.PolarsError as error:
            raise UsageError(
                f'"{kind}:{form}" is no format of a {kind} ({shown(str(error), 80)}); for example "date:%d.%m.%Y", "datetime:%d.%m.%Y %H:%M"'
            ) from error
        micro = parsed.cast(polars.Datetime("us")).cast(polars.Int64)
        wrong = micro.is_null().to_numpy()
        return np.where(wrong, np.nan, micro.fill_null(0).to_numpy() / 1e6), wrong
    day = "" if kind == "time" else DAYS[form or "%Y-%m-%d"]
    clock = r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}(?:\.[0-9]+)?))?"
    pattern = f"^{clock}$" if kind == "time" else rf"^{day}(?:[ T]{clock} ?(?:Z|(?P<sign>[+-])(?P<oh>[0-9]{{2}}):?(?P<om>[0-9]{{2}}))?)?$"
    parts = texts.str.extract_groups(pattern).struct.unnest()
    fits = texts.str.contains(pattern).fill_null(False).to_numpy()

    def number(name: str) -> np.ndarray:
        return parts[name].cast(polars.Float64, strict=False).fill_null(0).to_numpy()

    seconds = number("hour") * 3600 + number("minute") * 60 + number("second")
    wrong = ~fits | (number("hour") > 23) | (number("minute") > 59) | (number("second") >= 60)
    if kind != "time":
        written = parts.select(polars.concat_str([polars.col("y").str.zfill(4), polars.col("m").str.zfill(2), polars.col("d").str.zfill(2)], separator="-"))
        days = written.to_series().str.to_date("%Y-%m-%d", strict=False).cast(polars.Int32)
        wrong |= days.is_null().to_numpy()
        sign = np.where((parts["sign"] == "-").fill_null(False).to_numpy(), -1.0, 1.0)
        seconds = days.fill_null(0).to_numpy() * 86400.0 + seconds - sign * (number("oh") * 3600 + number("om") * 60)
    return np.where(wrong, np.nan, seconds), wrong
