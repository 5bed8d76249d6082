"""`fivestep check FILE`: one pass over a file tells everything."""

from __future__ import annotations

import re

import pytest
from written_tables import csv_file

from fivestep.data.file_report import inspect_file
from fivestep.errors import UsageError


def test_one_pass_over_a_file_tells_all_its_problems(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(b"age,city,city,y\n1,Bonn,a,1\n2,Oslo\nold,Rom\xe9,b,3\n4,Bonn,c,\n5,Bonn,d,6\n")
    report = inspect_file(path, target="y")
    text = "\n".join(report.problems)
    assert not report.ok and len(report.problems) == 5
    for words in (
        "'city' stands in the header",
        "line 3 has 2 fields",
        "is not UTF-8",
        "column 'age', line 4: 'old'",
        "target 'y' is missing in 1 of 4 rows (line 5)",
    ):
        assert words in text
    assert "age" in str(report) and "5 problems" in str(report)


def test_a_sound_file_is_reported_with_its_columns(tmp_path):
    report = inspect_file(csv_file(tmp_path, "x,y\n1,2\n2,3\n4,7\n"), target="y")
    assert report.ok and report.num_rows == 3 and report.columns["y"].use == "target" and "no problems" in str(report)
    with pytest.raises(UsageError, match="delimiter"):
        inspect_file(tmp_path / "data.csv", delimeter=";")


def test_every_problem_of_the_catalogue_ends_with_a_way_out(tmp_path):
    """Each refusal names an option or the command that repairs the file."""
    samples = {
        "a.csv": "x,y\n1,2\n?,3\n4,5\n", "b.csv": "x;y\n1;2\n", "c.csv": ",y\n1,2\n", "d.csv": "x,y\n1,2\nx,y\n3,4\n", "e.csv": "x,y\n1,\n2,3\n3,4\n", "f.csv": "x,e\n1,\n2,\n",
        "g.csv": "x,y\n1e40,1\n2,2\n", "h.csv": 'x,y\n1,"a\n2,b\n',
    }  # fmt: skip
    for name, text in samples.items():
        report = inspect_file(csv_file(tmp_path, text, name), target="y" if name == "e.csv" else None)
        assert report.problems, name
        for problem in report.problems:
            assert re.search(r"[a-z_]+=\S|sed -i|tr -|Put a line", problem), problem


def test_a_repeated_header_is_one_problem_and_not_a_stray_word_in_each_column(tmp_path):
    report = inspect_file(csv_file(tmp_path, "x,y\n1,2\n3,4\nx,y\n5,9\n"))
    assert len(report.problems) == 1 and report.num_rows == 3 and {line.kind for line in report.columns.lines} == {"number"}
