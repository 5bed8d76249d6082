"""A7: text from files has no effect on a terminal."""

from fivestep.quoting import printable


def test_A7_text_from_files_is_printed_with_control_characters_escaped() -> None:
    assert printable("a\x1b[31m\n\u202e\ud800é") == "a\\x1b[31m\\n\\u202e\\ud800é"
    assert printable("x" * 1000) == "x" * 100 + "…"
