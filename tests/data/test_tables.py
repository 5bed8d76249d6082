"""Reading sources: every promise of RELIABILITY section 6 about a file's bytes and structure, by its id."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zipfile
from datetime import date, datetime, time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fivestep.data.records import Dialect, Limits, Scan
from fivestep.data.tables import ReadOptions, Table, iter_tables, read_table
from fivestep.errors import DataError, MissingInputError, UsageError


@pytest.fixture
def write(tmp_path):
    """Write bytes or text to a file, give its path."""

    def make(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def problems_of(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_table(source, **options)
    assert caught.value.problems
    assert caught.value.exit_code == 65
    return "\n".join(caught.value.problems)


def rows_of(table: Table) -> list[tuple]:
    return table.frame.rows()


# ------------------------------------------------------------------------------------------------------------------ a file that is fine


def test_a_plain_file_becomes_named_columns_of_text_with_physical_lines(write):
    table = read_table(write('name,age\nAda,36\n"Grace\nHopper",85\r\nEdsger,72'))
    assert table.names == ["name", "age"]
    assert rows_of(table) == [("Ada", "36"), ("Grace\nHopper", "85"), ("Edsger", "72")]
    assert table.lines is not None and table.lines.tolist() == [2, 3, 5]
    assert table.place(2) == "line 5"
    assert table.places(np.array([0, 2])) == "lines 2, 5"
    assert table.column("age").to_list() == ["36", "85", "72"]


def test_take_keeps_rows_lines_and_order(write):
    table = read_table(write("a,b\n1,x\n2,y\n3,z\n")).take([2, 0])
    assert rows_of(table) == [("3", "z"), ("1", "x")]
    assert table.lines is not None and table.lines.tolist() == [4, 2]


def test_a_column_that_is_not_there_is_named_with_near_names(write):
    with pytest.raises(DataError, match="did you mean 'price'"):
        read_table(write("price,b\n1,x\n")).column("prize")


def test_tsv_is_split_at_tabs(write):
    assert rows_of(read_table(write("a\tb\n1,5\t2\n", "x.tsv"))) == [("1,5", "2")]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(st.text(st.sampled_from('ab",\n\r;é 0'), max_size=5), min_size=width, max_size=width), min_size=1, max_size=12)
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from([1, 2, 7, 64, 1 << 20]),
)
@example([["a\r"], ["\r\r"]], "\n", True, 1)
def test_D1_any_quoted_table_reads_as_python_csv_reads_it_at_any_block_size(rows, ending, quote_all, block_bytes):
    width = len(rows[0])
    quote_all |= any("\r" in field for row in rows for field in row)  # csv writes a bare return unquoted, which cannot be told from a line end
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator=ending, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    writer.writerow([f"column {number}" for number in range(width)])
    writer.writerows(rows)
    content = buffer.getvalue()
    scan = Scan(io.BytesIO(content.encode()), Dialect(), Limits(), block_bytes)
    blocks = list(scan)
    assert scan.problems == []
    assert sum(len(block) for block in blocks) == len(rows) + 1
    assert {int(count) for block in blocks for count in block.num_fields} == {width}
    spans = b"\n".join(block.bytes_of(record) for block in blocks for record in range(len(block)))
    assert list(csv.reader(io.StringIO(spans.decode(), newline=""))) == list(csv.reader(io.StringIO(content, newline="")))
    lines = [int(line) for block in blocks for line in block.lines]
    starts = np.cumsum([0] + [block.bytes_of(record).count(b"\n") + 1 for block in blocks for record in range(len(block))])[:-1]
    assert lines == (starts + 1).tolist()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(st.text(st.sampled_from('ab",\n;é 0'), min_size=1, max_size=4), min_size=width, max_size=width), min_size=1, max_size=9)
    )
)
def test_D1_values_survive_writing_and_reading(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    header = [f"column {number}" for number in range(len(rows[0]))]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    if any(row == header for row in rows):
        return
    assert rows_of(read_table(path)) == [tuple(row) for row in rows]
    chunks = list(iter_tables(path, ReadOptions(), rows=2))
    assert [row for chunk in chunks for row in rows_of(chunk)] == [tuple(row) for row in rows]


# --------------------------------------------------------------------------------------------------------------------------------- D1


def test_D1_a_byte_order_mark_is_dropped(write):
    assert read_table(write(b"\xef\xbb\xbfa,b\n1,2\n")).names == ["a", "b"]


def test_D1_latin1_is_named_with_byte_and_line_and_its_option_accepts_it(write):
    path = write("city,n\nBonn,1\nMalmö,2\n".encode("latin-1"))
    text = problems_of(path)
    assert "line 3, byte 18: 0xf6 is not UTF-8" in text and "Malmö" in text and 'encoding="latin-1"' in text
    assert rows_of(read_table(path, encoding="latin-1"))[1] == ("Malmö", "2")


def test_D1_windows_1252_is_told_from_latin1(write):
    path = write("a,b\n“quoted”,1\n".encode("cp1252"))
    assert 'encoding="cp1252"' in problems_of(path)
    assert rows_of(read_table(path, encoding="cp1252")) == [("“quoted”", "1")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_D1_utf16_is_named_and_its_option_accepts_it(write, encoding):
    path = write("name,age\nAda,36\nÉva,41\n".encode(encoding))
    text = problems_of(path)
    assert "UTF-" in text and f'encoding="{encoding}' in text
    assert rows_of(read_table(path, encoding=encoding)) == [("Ada", "36"), ("Éva", "41")]


def test_D1_a_nul_byte_is_named_with_byte_and_line(write):
    text = problems_of(write(b"a,b\n1,2\n3,\x004\n\x00,5\n"))
    assert "line 3, byte 10: a NUL byte" in text and "2 NUL bytes in all" in text


@pytest.mark.parametrize("block_bytes", [3, 8, 1 << 20])
def test_D1_bytes_and_lines_are_those_of_the_file_whatever_the_block(block_bytes):
    content = b"\xef\xbb\xbfa,b\n1,2\n3,4\n5,\xff\n"
    scan = Scan(io.BytesIO(content), Dialect(), Limits(), block_bytes)
    list(scan)
    assert scan.problems[0].startswith(f"line 4, byte {content.index(0xFF)}: 0xff is not UTF-8")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "gzip"),  # the name of the test must be the same in both of its processes
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b'{"a": [1, 2]}', "JSON"),
        (b'[{"a": 1}, {"a": 2}]', "JSON"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "Excel"),
        (b"%PDF-1.7 ....", "PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    ],
)
def test_D1_other_formats_are_named(write, content, word):
    assert word in problems_of(write(content))


def test_D1_an_excel_workbook_is_named(write):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert "Excel workbook" in problems_of(write(buffer.getvalue()))


def test_D1_a_header_may_begin_like_a_magic_number(write):
    assert read_table(write("ORC,BZh\n1,2\n")).names == ["ORC", "BZh"]
    assert read_table(write("[a],{b}\n1,2\n")).names == ["[a]", "{b}"]


def test_D1_mixed_line_ends_are_fine_and_bare_returns_are_named(write):
    assert rows_of(read_table(write(b"a,b\r\n1,2\n3,4\r\n"))) == [("1", "2"), ("3", "4")]
    assert "carriage return" in problems_of(write(b"a,b\r1,2\r3,4\r"))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_named(write, content):
    assert "empty" in problems_of(write(content))


def test_a_header_alone_is_a_table_without_rows(write):
    table = read_table(write("a,b\n"))
    assert table.num_rows == 0 and table.names == ["a", "b"]
    (chunk,) = iter_tables(write("a,b\n"), ReadOptions())
    assert chunk.num_rows == 0 and chunk.names == ["a", "b"]


def test_what_is_no_file_is_told(tmp_path, write):
    write("a\n1\n", "houses.csv")
    with pytest.raises(MissingInputError, match=r"did you mean .*houses\.csv"):
        read_table(tmp_path / "house.csv")
    with pytest.raises(DataError, match="a folder"):
        read_table(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="a pipe"):  # and does not wait for a writer
        read_table(tmp_path / "pipe")


# --------------------------------------------------------------------------------------------------------------------------------- D2


def test_D2_a_ragged_row_is_named_with_line_found_and_expected(write):
    text = problems_of(write('a,b,c\n"1\n1",2,3\n4,5\n6,7,8\n9,10,11,12\n1,2,3\n'))
    assert "line 4 has 2 fields, the header has 3" in text and "2 lines: 4, 6" in text


def test_D2_a_column_of_row_names_is_no_implicit_index(write):
    assert "a column of row names without a name" in problems_of(write("a,b\nr1,1,2\nr2,3,4\n"))


def test_D2_an_unclosed_quote_is_named_by_the_line_where_it_began(write):
    text = problems_of(write('a,b\n1,2\n3,"x\n4,y\n5,z\n'))
    assert "line 3" in text and "never closed" in text and "quote=None" in text


def test_D2_a_quote_that_runs_into_the_next_one_is_named_where_it_began(write):
    text = problems_of(write('a,b\n1,"x\n4,"y"\n5,z\n'))
    assert text.startswith("line 2") and "line 3" in text


def test_D2_a_quote_inside_a_field_is_refused_and_quote_none_accepts_it(write):
    path = write('size,n\n5" pipe,1\n6" pipe,2\n')
    assert "line 2" in problems_of(path) and "quote=None" in problems_of(path)
    assert rows_of(read_table(path, quote=None)) == [('5" pipe', "1"), ('6" pipe', "2")]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_D2_another_delimiter_is_recognised_and_its_option_accepts_it(write, delimiter):
    path = write("\n".join(delimiter.join(row) for row in (["a", "b", "c"], ["1,5", "2", "3"], ["4", "5,5", "6"])))
    option = {"\t": '"\\t"'}.get(delimiter, f'"{delimiter}"')
    assert f"delimiter={option}" in problems_of(path)
    assert rows_of(read_table(path, delimiter=delimiter)) == [("1,5", "2", "3"), ("4", "5,5", "6")]


def test_D2_one_column_is_fine_and_blank_lines_are_told(write):
    assert rows_of(read_table(write("text\nhello world\n\nx\n"))) == [("hello world",), (None,), ("x",)]
    table = read_table(write("a,b\n1,2\n\n3,4\n\n"))
    assert rows_of(table) == [("1", "2"), ("3", "4")]
    assert table.lines is not None and table.lines.tolist() == [2, 4]
    assert table.notes == ("blank lines skipped: line 3, 5",)


# --------------------------------------------------------------------------------------------------------------------------------- D3


def test_D3_empty_and_repeated_names_are_refused_and_drop_accepts_them(write):
    path = write(",a,b,a\n0,1,2,3\n")
    text = problems_of(path)
    assert "field 1 is empty" in text and "index=False" in text and "'a' stands in the header at fields 2, 4" in text
    table = read_table(path, columns={"": "drop", "a": "drop"})
    assert table.names == ["b"] and rows_of(table) == [("2",)]


def test_D3_names_are_compared_after_trimming(write):
    assert "'a' stands in the header at fields 1, 2" in problems_of(write("a, a\n1,2\n"))
    table = read_table(write("a, b\n1,2\n"))
    assert table.names == ["a", "b"] and "'b'" in table.notes[0]


def test_D3_a_repeated_header_is_named(write):
    assert "line 4: the header stands there again" in problems_of(write("a,b\n1,2\n3,4\na,b\n5,6\n"))


def test_D3_a_file_without_header_is_recognised(write):
    assert "file without header" in problems_of(write("5.1,3.5,1.4,setosa\n4.9,3.0,1.4,setosa\n"))


def test_D3_a_name_in_columns_that_is_not_there_is_refused(write):
    assert "did you mean 'zip'" in problems_of(write("zip,b\n1,2\n"), columns={"zipp": "category"})


# --------------------------------------------------------------------------------------------------------------------------------- D8


def test_D8_limits_are_told_with_the_option_that_raises_them(write):
    path = write("a,b,c\n1,2,3\n")
    assert "limits=Limits(num_columns=3)" in problems_of(path, limits=Limits(num_columns=2))
    assert read_table(path, limits=Limits(num_columns=3)).num_rows == 1
    path = write("a,b\n1," + "x" * 50 + "\n")
    assert "line 2, field 2: 50 bytes" in problems_of(path, limits=Limits(field_bytes=49))
    assert read_table(path, limits=Limits(field_bytes=50)).num_rows == 1
    assert "GiB" in problems_of(path, limits=Limits(memory_share=0.0))


def test_D8_a_record_without_end_does_not_fill_the_memory():
    scan = Scan(io.BytesIO(b"a,b\n" + b'1,"' + b"x" * 10_000), Dialect(), Limits(record_bytes=1000), block_bytes=100)
    list(scan)
    assert "never closed" in scan.problems[0] and scan.file.tell() < 3000


def test_D8_chunks_are_small_and_give_the_same_rows(write):
    path = write("a,b\n" + "".join(f"{number},{number % 7}\n" for number in range(1000)))
    whole = read_table(path)
    chunks = list(iter_tables(path, ReadOptions(), rows=64))
    assert [chunk.num_rows for chunk in chunks] == [64] * 15 + [40]
    assert [row for chunk in chunks for row in rows_of(chunk)] == rows_of(whole)
    assert chunks[3].place(0) == whole.place(192)


def test_all_problems_of_a_file_are_told_at_once(write):
    with pytest.raises(DataError) as caught:
        read_table(write(b",a,a\n1,2\n3,4,\xff\n"))
    assert len(caught.value.problems) == 4  # an empty name, a repeated name, a short row, bytes that are not UTF-8


# --------------------------------------------------------------------------------------------------------------------------------- D9


def test_D9_the_fingerprint_is_of_the_bytes_and_the_shape(write):
    one, same, other = (read_table(write(content, name)).fingerprint for content, name in (("a\n1\n", "1.csv"), ("a\n1\n", "2.csv"), ("a\n2\n", "3.csv")))
    assert one == same != other
    assert one.endswith(":1x1") and len(one.partition(":")[0]) == 64


def test_D9_the_fingerprint_of_a_frame_is_of_its_content():
    import pandas
    import polars

    content = {"a": [1, 2, 3], "b": ["x", "yz", ""]}
    prints = [read_table(source).fingerprint for source in (content, polars.DataFrame(content), pandas.DataFrame(content))]
    assert prints[0] == prints[1] == prints[2]
    assert read_table({"a": [1, 2, 3], "b": ["xy", "z", ""]}).fingerprint != prints[0]
    assert read_table({"a": [1, 3, 2], "b": ["x", "yz", ""]}).fingerprint != prints[0]


# --------------------------------------------------------------------------------------------------------------------------- containers


def test_frames_dicts_arrow_and_parquet_give_the_same_table(tmp_path):
    import pandas
    import polars

    moments = [datetime(2024, 1, 2, 3, 4, 5), datetime(2025, 6, 7)]
    content = {"i": [1, 2], "f": [0.5, float("nan")], "t": ["x", None], "b": [True, False], "d": [date(2024, 1, 2), date(2025, 6, 7)], "m": moments}
    frame = polars.DataFrame(content)
    frame.write_parquet(tmp_path / "x.parquet")
    pandas_frame = pandas.DataFrame(content)
    for source in (content, frame, frame.lazy(), frame.to_arrow(), tmp_path / "x.parquet", pandas_frame):
        table = read_table(source)
        assert table.names == list(content)
        assert table.column("i").to_list() == [1, 2] and table.column("t").to_list() == ["x", None] and table.column("b").to_list() == [True, False]
        assert table.column("m").to_list() == moments
        assert table.lines is None and table.place(1) == "row 1"
    (whole,) = iter_tables(tmp_path / "x.parquet", ReadOptions())
    assert whole.frame.equals(frame)
    assert [chunk.num_rows for chunk in iter_tables(tmp_path / "x.parquet", ReadOptions(), rows=1)] == [1, 1]


def test_pandas_categories_nullable_integers_and_objects_are_read():
    import pandas
    import polars

    frame = pandas.DataFrame(
        {
            "c": pandas.Categorical(["x", None, "y"]),
            "n": pandas.array([1, None, 3], dtype="Int64"),
            "o": np.array(["x", None, float("nan")], dtype=object),
            "z": pandas.to_datetime(["2024-01-01T00:00:00+01:00"] * 3, utc=True),
        },
        index=pandas.Index(["r1", "r2", "r3"], name="row"),
    )
    table = read_table(frame)
    assert table.column("c").dtype == polars.Categorical and table.column("c").cast(polars.String).to_list() == ["x", None, "y"]
    assert table.column("n").to_list() == [1, None, 3] and table.column("o").to_list() == ["x", None, None]
    assert table.column("z").to_list()[0] == datetime(2023, 12, 31, 23)
    assert "reset_index" in table.notes[0]


def test_a_dict_of_tensors_arrays_and_lists_is_read():
    table = read_table({"t": torch.tensor([1.5, 2.5]), "h": torch.tensor([[1], [2]]), "n": np.array(["x", "y"]), "l": [1, 2.5], "k": [time(1, 2), None]})
    assert rows_of(table) == [(1.5, 1, "x", 1.0, time(1, 2)), (2.5, 2, "y", 2.5, None)]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"a": [1, 2], "b": [1]}, "different lengths"),
        ({"a": np.zeros((2, 3))}, r"shape \(2, 3\)"),
        ({"a": 3}, "a single row is"),
        ({"a": [1, "x"]}, r"mixes types: int \(row 0: 1\), str \(row 1: 'x'\)"),
        ({"a": [[1], [2]]}, "split it into columns"),
        ({}, "no columns"),
        ({"a": np.array([1j, 2])}, "complex"),
    ],
)
def test_what_is_no_column_is_told(source, words):
    import re

    assert re.search(words, problems_of(source))


def test_what_is_no_table_and_options_that_mean_nothing_are_usage_errors(write):
    for source in (np.zeros((2, 3)), torch.zeros(2, 3), [[1, 2]], 5):
        with pytest.raises(UsageError, match="table cannot be made"):
            read_table(source)
    path = write("a,b\n1,2\n")
    for options in (
        {"delimiter": ",,"}, {"delimiter": "é"}, {"encoding": "klingon"}, {"encoding": "hex"}, {"decimal": ";"}, {"quote": "'"},
        {"columns": {"a": "numbr"}}, {"columns": "a"}, {"missing": [1]},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            read_table(path, **options)


def test_a_damaged_parquet_file_is_told(write):
    assert "Parquet file cannot be read" in problems_of(write(b"PAR1" + bytes(50), "x.parquet"))


def test_no_bytes_end_in_anything_but_a_table_or_a_typed_error(write):
    generator = np.random.default_rng(0)
    seed = b'a,b,c\n1,"x, y",2.5\n3,z,\n"4\n4",w,6\n'
    for number in range(300):
        content = bytearray(seed)
        for _ in range(generator.integers(1, 5)):
            content[generator.integers(len(content))] = generator.integers(256) if number % 2 else b'",\n\r\x00;'[generator.integers(6)]
        try:
            table = read_table(write(bytes(content[: generator.integers(1, len(content) + 1)])))
            assert table.num_rows == len(table.lines if table.lines is not None else [])
        except DataError as error:
            json.dumps(error.problems)
