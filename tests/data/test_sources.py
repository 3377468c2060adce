"""Files -> rows: every row keeps its place in the file, and everything broken is told at once."""

from __future__ import annotations

import csv
import datetime
import io
import json
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.readers import json_rows, opening
from fledge.data.sources import files_in, open_source, read_rows
from fledge.errors import DataError, Finding
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


def complaint_at(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_rows(path)
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


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"did you mean 'train\.jsonl'\?") as caught:
        read_rows(tmp_path / "trian.jsonl")
    assert caught.value.code == "data.not_found"
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path)


def test_a_file_is_what_stands_in_it_whatever_its_name_says(tmp_path: Path) -> None:
    lines_of_json = '{"q": "x", "a": "y"}\n{"q": "z", "a": "w"}\n'
    expected = [{"q": "x", "a": "y"}, {"q": "z", "a": "w"}]
    array = "[" + lines_of_json.strip().replace("\n", ",") + "]"
    for name, text in {
        "a.json": lines_of_json,
        "a.txt": lines_of_json,
        "rows": lines_of_json,
        "b.jsonl": array,
    }.items():
        (tmp_path / name).write_text(text)
        assert [row.values for row in read_rows(tmp_path / name)] == expected, name
    (tmp_path / "table").write_text("q\ta\nx\ty\nz\tw\n")
    assert [row.values for row in read_rows(tmp_path / "table")] == expected
    book(tmp_path / "a.csv", [["q", "a"], ["x", "y"], ["z", "w"]])
    assert [row.values for row in read_rows(tmp_path / "a.csv")] == expected
    assert "whatever its name says" in open_source(tmp_path / "a.csv").why


def book(path: Path, cells: list[list[Any]], *, sheets: int = 1) -> None:
    workbook = openpyxl.Workbook()
    for number in range(sheets):
        sheet = workbook.active if not number else workbook.create_sheet(f"More {number}")
        for row in cells:
            sheet.append(row)
    workbook.save(path)


def test_xlsx(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 5, 1)
    cells = [
        [None, None, None],
        ["question", "answer", None],
        ["How many?", 3.0, None],
        [None] * 3,
        ["When?", when, None],
    ]
    book(tmp_path / "a.xlsx", cells, sheets=2)
    rows = read_rows(tmp_path / "a.xlsx")
    assert [dict(row.values) for row in rows] == 2 * [
        {"question": "How many?", "answer": 3},
        {"question": "When?", "answer": "2024-05-01"},
    ]
    assert [row.origin for row in rows[:3]] == [
        f"{tmp_path / 'a.xlsx'}:{at}" for at in ("Sheet!3", "Sheet!5", "More 1!3")
    ]
    book(tmp_path / "b.xlsx", [["q", "a", "q"], ["x", "y", "z"]])
    assert "b.xlsx:Sheet!1: two columns are called 'q'." in str(complaint_at(tmp_path / "b.xlsx"))
    (tmp_path / "c.xlsx").write_bytes((tmp_path / "b.xlsx").read_bytes()[:900])
    assert complaint_at(tmp_path / "c.xlsx").where == str(tmp_path / "c.xlsx")


def test_parquet(tmp_path: Path) -> None:
    values = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]} for n in range(3)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet")
    assert [row.values for row in rows] == values
    assert rows[2].origin == f"{tmp_path / 'a.parquet'}: row 3"
    raw = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(raw[: len(raw) // 2])
    assert "not a readable Parquet" in complaint_at(tmp_path / "b.parquet").message
    assert "no parquet file" in complaint(tmp_path, "c.parquet", "q,a\n").message


def test_yaml(tmp_path: Path) -> None:
    listed = "- question: May I?\n  answer: no\n- question: Which version?\n  answer: 1.10\n"
    expected = [{"question": "May I?", "answer": "no"}, {"question": "Which version?", "answer": "1.10"}]
    for name, text in {
        "a.yaml": listed,
        "b.yml": "version: 3\nseed_examples:\n" + listed,
        "c.yaml": "May I?: no\nWhich version?: 1.10\n",
        "d.yaml": listed.replace("- question", "---\nquestion").replace("  answer", "answer"),
    }.items():
        assert [row.values for row in read(tmp_path, name, text)] == expected, (
            f"{name}: what is written is what is taught"
        )
    error = complaint(tmp_path, "e.yaml", "- question: a\n- [b\n")
    assert error.where.startswith(f"{tmp_path / 'e.yaml'}:")


def test_json_that_wraps_its_rows(tmp_path: Path) -> None:
    row = {"q": "x", "a": "y"}
    for wrapped in ({"data": [row]}, {"version": 2, "examples": [row]}, {"canary": "c", "n": 1, "rows": [row]}):
        assert [r.values for r in read(tmp_path, "a.json", json.dumps(wrapped))] == [row]
    named = read(tmp_path, "b.json", json.dumps({"greet": [row], "leave": [row]}, indent=1))
    assert [r.values for r in named] == [{"label": "greet", **row}, {"label": "leave", **row}]
    pairs = read(tmp_path, "c.json", json.dumps({"What is it?": "That.", "And this?": "This."}))
    assert pairs[1].values == {"question": "And this?", "answer": "This."}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    for whole in ({"messages": turns}, {"prompt": turns[:1], "completion": turns[1:]}):
        assert [r.values for r in read(tmp_path, "d.json", json.dumps(whole))] == [whole], "one conversation is one row"


def test_json_documents_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "CHUNK_CHARS", 7)
    rows = [{"question": f"Größe \\u00e4 {n}", "answer": "x" * n, "n": [n, {"a": -1.5e3}]} for n in range(40)]
    for indent in (None, 2):
        assert [r.values for r in read(tmp_path, "a.json", json.dumps(rows, indent=indent))] == rows
        following = "\n".join(json.dumps(row, indent=indent) for row in rows)
        assert [r.values for r in read(tmp_path, "b.json", following)] == rows
    for cut in range(2, 80):
        text = json.dumps(rows[:2])[:cut]
        assert complaint(tmp_path, "c.json", text).code in ("data.bad_row", "data.empty"), text


def test_columns_without_a_header_are_numbered(tmp_path: Path) -> None:
    text = "".join(f'{kind}\t"Hello {n}, you\t\t\n' for n, kind in enumerate(["ham", "spam"] * 20))
    rows = read(tmp_path, "a.tsv", text)
    assert len(rows) == 40
    assert rows[0].values == {"1": "ham", "2": '"Hello 0, you', "3": "", "4": ""}, "an open quote is text here"
    assert "no header" in open_source(tmp_path / "a.tsv").why


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("a.xls", b"\xd0\xcf\x11\xe0" + bytes(100), "old Excel"),
        ("a.jsonl", b"GGUF" + bytes(100), "is a model"),
        ("a.txt", b"\x89PNG" + bytes(100), "is a picture"),
        ("a.csv", b"PK\x03\x04" + bytes(100), "damaged ZIP"),
        ("a.pdf", b"hello", "is no pdf file"),
        ("a.bin", bytes(range(256)) * 9, "is no text"),
    ],
)
def test_what_is_no_data_says_what_it_is(tmp_path: Path, name: str, raw: bytes, words: str) -> None:
    error = complaint(tmp_path, name, raw)
    assert words in error.message
    assert error.remedy


def test_a_line_that_never_ends_is_told_and_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "MAX_ROW_CHARS", 1000)
    monkeypatch.setattr(opening, "MAX_ROW_CHARS", 1000)
    good = '{"q": "x", "a": "y"}'
    path = tmp_path / "a.jsonl"
    path.write_text(f'{good}\n{{"q": "{"x" * 5000}", "a": "y"}}\n{good}\n')
    found = list(open_source(path).rows)
    assert [getattr(item, "origin", getattr(item, "where", "")) for item in found] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert isinstance(found[1], Finding)


def test_a_folder_is_its_rows_or_else_its_texts(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "LICENSE.txt", ".hidden.jsonl", "sub/c.json.gz", ".git/d.jsonl", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [str(path.relative_to(tmp_path)) for path in files_in(tmp_path)] == ["a.csv", "b.jsonl", "sub/c.json.gz"]
    (tmp_path / "notes").mkdir()
    for name in ("b.md", "a.txt"):
        (tmp_path / "notes" / name).write_text("x")
    assert [path.name for path in files_in(tmp_path / "notes")] == ["a.txt", "b.md"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no file that can be read"):
        files_in(tmp_path / "none")
