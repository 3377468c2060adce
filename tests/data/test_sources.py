"""Files -> rows: every row keeps its place in the file, and everything broken is told at once."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.sources import read_rows
from fledge.errors import DataError
from fledge.records import Row

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=20)


def read(folder: Path, name: str, content: str | bytes) -> list[Row]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(path)


def complaint(folder: Path, name: str, content: str | bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        read(folder, name, content)
    return caught.value


def lines(rows: list[Row]) -> list[int]:
    return [int(row.origin.rpartition(":")[2]) for row in rows]


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_kind_of_file_gives_the_same_rows(tmp_path: Path, bom: str, end: str) -> None:
    expected = [{"question": "Wie heißt du?", "answer": "東京"}, {"question": "2", "answer": "zwei, drei"}]
    jsonl = end.join(json.dumps(row, ensure_ascii=False) for row in expected)
    files = {
        "a.jsonl": jsonl + end,
        "a.JSON": json.dumps(expected, indent=1).replace("\n", end),
        "a.csv": f'question,answer{end}Wie heißt du?,東京{end}2,"zwei, drei"{end}',
        "b.csv": f"question;answer{end}Wie heißt du?;東京{end}2;zwei, drei{end}",
        "c.csv": f"question|answer{end}Wie heißt du?|東京{end}2|zwei, drei",
        "a.tsv": f"question\tanswer{end}Wie heißt du?\t東京{end}2\tzwei, drei{end}",
    }
    for name, content in files.items():
        rows = read(tmp_path, name, bom + content)
        assert [dict(row.values) for row in rows] == expected, name
        places = [1, 2] if name == "a.jsonl" else [2, 3]
        if name == "a.JSON":
            assert [row.origin for row in rows] == [f"{tmp_path / name}: row {n}" for n in (1, 2)]
        else:
            assert [row.origin for row in rows] == [f"{tmp_path / name}:{n}" for n in places], name


def test_a_tsv_is_cut_at_tabs_whatever_its_column_names_hold(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "a.tsv", "question, in full, please\tanswer\nhow, why; when\tthus\n")
    assert row.values == {"question, in full, please": "how, why; when", "answer": "thus"}


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), delimiter=st.sampled_from(",;\t|"))
def test_csv_gives_back_what_pythons_writer_wrote(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
) -> None:
    written = io.StringIO(newline="")
    table = csv.writer(written, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    table.writerow(["question", "answer"])
    starts = []
    for row in rows:
        starts.append(written.getvalue().count("\n") + 1)
        table.writerow(row)
    kept = [(start, row) for start, row in zip(starts, rows, strict=True) if any(cell.strip() for cell in row)]
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(written.getvalue().encode())
    if not kept:
        with pytest.raises(DataError, match="no rows"):
            read_rows(path)
        return
    found = read_rows(path)
    assert [tuple(row.values.values()) for row in found] == [row for _, row in kept]
    assert lines(found) == [start for start, _ in kept], "a quoted line end moves every row after it"


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.dictionaries(st.text(max_size=5), CELLS, min_size=1, max_size=3), min_size=1, max_size=6))
def test_jsonl_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    text = "\n\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    path.write_text(text, encoding="utf-8", newline="")
    found = read_rows(path)
    assert [row.values for row in found] == values
    assert lines(found) == [2 * i + 1 for i in range(len(values))]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_jsonl_row(tmp_path: Path, separator: str) -> None:
    text = '{"question": "a", "answer": "x' + separator + 'y"}\n{"question": "b", "answer": "z"}\n'
    if separator < " ":
        # JSON wants these escaped; inside one they still do not end the row.
        assert "2 problems" not in str(complaint(tmp_path, "a.jsonl", text))
        return
    rows = read(tmp_path, "a.jsonl", text)
    assert [row.values["answer"] for row in rows] == [f"x{separator}y", "z"]
    assert lines(rows) == [1, 2]


def test_every_broken_row_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    good = '{"question": "q", "answer": "a"}'
    deep = "[" * 100_000
    text = "\n".join([good, "{", good, "[1]", '{"a": 1, "b": 2, "a": 3}', "", "null", deep, good])
    error = complaint(tmp_path, "a.jsonl", text)
    assert error.code == "data.bad_row"
    assert str(error).startswith("5 problems.")
    for number in (2, 4, 5, 7, 8):
        assert f"a.jsonl:{number}: " in str(error)
    assert "'a' stands twice" in str(error)
    assert "found list" in str(error)
    assert "nested too deeply" in str(error)


def test_more_than_a_screenful_is_counted(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.jsonl", "{\n" * 40)
    assert str(error).startswith("40 problems.")
    assert str(error).endswith("... and 35 more like these.")


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.json", '[{"question": "q",\n "answer": "a"},\n {"question" "q"}]')
    assert error.where.endswith("a.json:3")
    assert "row 2" in str(complaint(tmp_path, "b.json", '[{"q": "a"}, 3]'))
    assert "'q' stands twice" in str(complaint(tmp_path, "c.json", '[{"q": "a", "q": "b"}]'))


def test_one_json_object_is_one_row(tmp_path: Path) -> None:
    assert [row.values for row in read(tmp_path, "a.json", '{"q": "a"}')] == [{"q": "a"}]


def test_csv_rows_of_the_wrong_width(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.csv", 'q,a\n1,2\n1,2,3\n"x\ny",2\n1\n')
    assert str(error).startswith("2 problems.")
    assert "a.csv:3: 3 cells, expected 2 (q, a)." in str(error)
    assert "a.csv:6: 1 cells, expected 2" in str(error)


def test_a_column_name_that_stands_twice_hides_no_column(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.csv", "q,a,q\n1,2,3\n")
    assert (error.where, error.message) == (f"{tmp_path / 'a.csv'}:1", "two columns are called 'q'.")


def test_an_open_quote_is_told_where_it_was_opened(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.csv", 'q,a\n1,2\n"open,2\n' + "1,2\n" * 50)
    assert error.where.endswith("a.csv:3")
    assert "quotes" in error.remedy


def test_a_cell_may_be_longer_than_pythons_own_limit(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "a.csv", f"q,a\nx,{'long ' * 60_000}\n")
    assert len(row.values["a"]) == 300_000


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", "\n \n"), ("a.json", "[]"), ("b.json", ""), ("a.csv", "q,a\n")]
)
def test_a_file_without_rows(tmp_path: Path, name: str, content: str) -> None:
    error = complaint(tmp_path, name, content)
    assert (error.code, error.where) == ("data.empty", str(tmp_path / name))


def test_bytes_that_are_not_utf8_are_named_with_their_line_and_a_way_out(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.csv", b"q,a\nx,y\n" + "Grüße,a\n".encode("latin1"))
    assert (error.code, error.where) == ("data.bad_encoding", f"{tmp_path / 'a.csv'}:3")
    assert "0xfc" in error.message
    assert "iconv -f latin1" in error.remedy
    assert "iconv -f utf-16" in complaint(tmp_path, "b.csv", "q,a\nx,y\n".encode("utf-16")).remedy


def test_a_missing_file_names_the_nearest_one_and_an_unknown_kind_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"did you mean 'train\.jsonl'\?") as caught:
        read_rows(tmp_path / "trian.jsonl")
    assert caught.value.code == "data.not_found"
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path)
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"'\.xlsx'.*\.jsonl, \.json, \.csv, \.tsv") as caught:
        read_rows(tmp_path / "rows.xlsx")
    assert caught.value.code == "data.unknown_format"
