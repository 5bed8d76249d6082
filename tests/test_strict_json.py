"""A3: what is written as JSON comes back as it was, and hostile text is refused quickly, with the place."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from fivestep.errors import ArtifactError, UsageError
from fivestep.strict_json import JSON_DEPTH, read_json, write_json

HOSTILE_JSON = {
    "byte order mark": b"\xef\xbb\xbf{}",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "duplicate": b'{"a": 1, "a": 1}',
    "duplicate inside": b'{"x": [{"a": 1, "b": 2, "a": 1}]}',
    "duplicate by escape": b'{"a": 1, "\\u0061": 1}',
    "NaN": b'{"a": NaN}',
    "Infinity": b"[Infinity]",
    "-Infinity": b"[-Infinity]",
    "overflow": b"[1e999]",
    "-overflow": b"[-1e400]",
    "deep": b"[" * 65 + b"]" * 65,
    "very deep": b"[" * 500_000,
    "deep objects": b'{"a":' * 400_000,
    "digits": b"[" + b"9" * 21 + b"]",
    "million digits": b"1" * 999_999,
    "digits after the point": b"[0." + b"1" * 100 + b"]",
    "half a pair": b'["\\ud800"]',
    "half a pair, the other": b'{"\\udc00": 1}',
    "empty": b"",
    "nothing": b"   ",
    "two": b"{} {}",
    "comma": b"[1,]",
    "single quotes": b"{'a': 1}",
    "comment": b"[1] // one",
    "control character": b'["\n"]',
    "NUL": b"[1]\0",
    "plus": b"[+1]",
    "leading zero": b"[01]",
    "hexadecimal": b"[0x10]",
    "cut": b'{"a": [1, 2',
    "open string": b'{"a',
    "quotes": b'"\\"' * 300_000,
    "backslashes": b'"' + b"\\" * 999_990,
    "too long": b" " * 1_000_001,
    "Arabic digits": "[١]".encode(),
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_A3_hostile_json_is_refused_quickly_and_names_the_file(name: str) -> None:
    began = time.monotonic()
    with pytest.raises(ArtifactError, match=r"^settings\.json"):
        read_json(HOSTILE_JSON[name], what="settings.json")
    assert time.monotonic() - began < 2


def test_A3_the_place_is_told() -> None:
    with pytest.raises(ArtifactError, match=r"settings.json, line 2, column 7: NaN"):
        read_json(b'{\n "a": NaN}', what="settings.json")
    with pytest.raises(ArtifactError, match=r'the key "b\\x1b" stands twice'):
        read_json(b'{"b\\u001b": 1, "b\\u001b": 2}', what="settings.json")
    with pytest.raises(ArtifactError, match=r"line 1, column 6"):
        read_json(b'{"a" 1}', what="settings.json")


def test_A3_every_number_and_text_comes_back_as_it_was() -> None:
    rng = random.Random(0)
    floats = [float.fromhex(f"{rng.choice('+-')}0x1.{rng.getrandbits(52):013x}p{rng.randint(-1022, 1023)}") for _ in range(2000)]
    value = {
        "floats": [*floats, 0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e22],
        "integers": [0, -1, 2**63 - 1, -(2**63), 2**64 - 1],
        "text": ["", "NaN", "\\", '"', "\0\x1f\x7f", "é漢😀", "\u2028", "[{" * 100, "\\ud800"],
        "rest": [True, False, None, [], {}, [[[]]]],
        "z": {"order": 1, "kept": 2, "a": 3},
    }
    found = read_json(write_json(value), what="x")
    assert repr(found) == repr(value) and list(found) == list(value)  # repr, as -0.0 == 0.0 and True == 1
    assert read_json(write_json(value, indent=None), what="x") == value
    assert write_json(found) == write_json(value) and write_json(value).endswith(b"}\n")
    assert json.loads(write_json(value)) == value


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"scores": [{"mae": float("nan")}]}, r"scores\[0\]\.mae is nan"),
        ([float("inf")], r"\[0\] is inf"),
        ({1: 2}, "the key 1"),
        ({"a": {None: 2}}, r"the key None in \.a"),
        ({"a": {1, 2}}, "a is a set"),
        ({"a": b"x"}, "a is a bytes"),
        ({"a": "\udc80"}, "not Unicode"),
        ({"a": 10**20}, "20 digits"),
        (object(), "the value is a object"),
    ],
)
def test_A3_what_would_not_come_back_is_not_written(value: Any, place: str) -> None:
    with pytest.raises(UsageError, match=place):
        write_json(value)


def test_A3_what_is_written_is_never_too_deep_to_be_read() -> None:
    value: Any = 1
    for _ in range(JSON_DEPTH):
        value = [value]
    assert read_json(write_json(value), what="x") == value
    with pytest.raises(UsageError, match="deeper than 64"):
        write_json([value])
