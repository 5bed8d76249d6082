"""JSON that comes back equal, to the bit, or not at all: `write_json` gives bytes, `read_json` takes them.

The decision that shaped it: what `json` alone lets through (duplicate keys, NaN, depth without end) is refused on both sides, so that whatever was written can
be read and whatever was read could have been written. Only the standard library is imported.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from fivestep.errors import ArtifactError, UsageError
from fivestep.quoting import printable

JSON_LIMIT = 1_000_000  # bytes of one JSON file, the manifest included (RELIABILITY A2)
JSON_DEPTH = 64
JSON_DIGITS = 20  # of an integer: 2**64 has 20

_JSON_TOKEN = re.compile(r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[\[{]|[\]}]|-?[0-9][0-9.eE+\-]*+|[A-Za-z]++', re.DOTALL)


def read_json(data: bytes | bytearray, *, limit: int = JSON_LIMIT, what: str) -> Any:
    """The object that strict JSON text means (RELIABILITY A3).

    `data` is UTF-8 without a byte order mark, at most `limit` bytes; `what` names the file in errors. Numbers come back with the bits that `write_json` was
    given. Raises ArtifactError, naming file and place, for duplicate keys, NaN and Infinity (also as `1e999`), integers over 20 digits, nesting deeper than 64,
    lone surrogates, and anything that is not JSON. (`json.loads` alone takes all of these but the last.)

    >>> read_json(b'{"a": [1, 2.5]}', what="example.json")
    {'a': [1, 2.5]}
    """

    def refuse(reason: str, position: int | None = None) -> NoReturn:
        place = "" if position is None else f", line {text.count(chr(10), 0, position) + 1}, column {position - text.rfind(chr(10), 0, position)}"
        raise ArtifactError(f"{what}{place}: {reason}. The file is damaged or was not written by fivestep.")

    text = ""
    if len(data) > limit:
        refuse(f"{len(data):,} bytes of JSON, at most {limit:,} are read")
    if data[:3] == b"\xef\xbb\xbf":
        refuse("begins with a byte order mark")
    try:
        text = bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(f"byte {error.start} is not UTF-8")

    # Depth, digits and words are looked at before json.loads sees the text: its C scanner recurses as deep as the text asks and may run out of stack.
    depth = 0
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        first = token[0]
        if first in "[{":
            depth += 1
            if depth > JSON_DEPTH:
                refuse(f"nested deeper than {JSON_DEPTH}", match.start())
        elif first in "]}":
            depth -= 1
        elif first == '"':
            continue
        elif first in "-0123456789":
            if len(token) > 2 * JSON_DIGITS or (token.lstrip("-").isdigit() and len(token.lstrip("-")) > JSON_DIGITS):
                refuse(f"a number of {len(token)} characters", match.start())
        elif token in ("NaN", "Infinity"):
            refuse(f"{token} is not a number in JSON", match.start())

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            refuse(f'the key "{printable(twice)}" stands twice in one object')
        return found

    def finite(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            refuse(f"{digits} is too large for a float", text.find(digits))
        return number

    try:
        found = json.loads(text, object_pairs_hook=unique, parse_float=finite)
    except json.JSONDecodeError as error:
        refuse(f"not JSON: {error.msg}", error.pos)
    if "\\u" in text:
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            refuse("a string holds half of a surrogate pair", text.find("\\u"))
    return found


def write_json(value: Any, *, indent: int | None = 2) -> bytes:
    """UTF-8 JSON that `read_json` gives back equal: order kept, floats by `repr` so that their bits survive, a newline at the end; tuples become lists.

    Raises UsageError, naming the place, for what would not come back: NaN and infinities, keys that are not text, other types, integers over 20 digits.

    >>> write_json({"b": 0.1, "a": None})
    b'{\\n  "b": 0.1,\\n  "a": null\\n}\\n'
    """
    _refuse_what_json_cannot_hold(value, "", 0)
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode("utf-8") + b"\n"


def _refuse_what_json_cannot_hold(value: Any, place: str, depth: int) -> None:
    reason = None
    if depth > JSON_DEPTH:
        reason = f"is nested deeper than {JSON_DEPTH}"
    elif value is None or isinstance(value, bool):
        pass
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            reason = f"is text that is not Unicode ({printable(value)})"
    elif isinstance(value, int):
        if abs(value) >= 10**JSON_DIGITS:
            reason = f"has more than {JSON_DIGITS} digits"
    elif isinstance(value, float):
        if not math.isfinite(value):
            reason = f"is {value}, which JSON has no word for; store None or leave it out"
    elif isinstance(value, list | tuple):
        for position, element in enumerate(value):
            _refuse_what_json_cannot_hold(element, f"{place}[{position}]", depth + 1)
    elif isinstance(value, dict):
        for key, element in value.items():
            if not isinstance(key, str):
                raise UsageError(f"cannot be written as JSON: the key {key!r} in {place or 'the value'} is a {type(key).__name__}, and would come back as text")
            _refuse_what_json_cannot_hold(key, f"{place}.{key} (the key)", depth + 1)
            _refuse_what_json_cannot_hold(element, f"{place}.{key}", depth + 1)
    else:
        reason = f"is a {type(value).__name__}; JSON knows text, numbers, true, false, null, lists and dicts"
    if reason is not None:
        raise UsageError(f"cannot be written as JSON: {place.lstrip('.') or 'the value'} {reason}")
