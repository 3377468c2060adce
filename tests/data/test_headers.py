"""Where the names of a table's columns stand, and tables that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openpyxl
import pytest

from fledge.config import DataConfig
from fledge.data.formats import open_records, taught_of
from fledge.data.sources import read_rows
from fledge.errors import DataError
from fledge.records import Conversation


def book(path: Path, *cells: list[Any]) -> Path:
    workbook = openpyxl.Workbook()
    for row in cells:
        workbook.active.append(row)
    workbook.save(path)
    return path


def pairs(path: Path, **columns: str) -> list[tuple[str, str]]:
    told = DataConfig.model_validate({"train": "x", "columns": columns})
    _, reading = open_records(path, told)
    return [
        (one.messages[0].content, one.messages[1].content)
        for one in taught_of(reading, path)
        if isinstance(one, Conversation)
    ]


ASKED = [("What is it?", "A thing."), ("Who is it?", "A man."), ("Where?", "Here.")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.xlsx", "one.csv", "one.xlsx"])
def test_a_table_without_a_header_is_read_by_place(tmp_path: Path, name: str) -> None:
    rows = ASKED[:1] if name.startswith("one") else ASKED
    path = tmp_path / name
    if path.suffix == ".xlsx":
        book(path, *map(list, rows))
    else:
        delimiter = "," if path.suffix == ".csv" else "\t"
        path.write_text("".join(f"{question}{delimiter}{answer}\n" for question, answer in rows))
    assert pairs(path, question="1", answer="2") == rows
    assert pairs(path, question="2", answer="1") == [(answer, question) for question, answer in rows]
    with pytest.raises(DataError, match="without a header, by place: '1', '2'" if len(rows) > 1 else "no rows"):
        pairs(path)


def test_columns_that_are_called_by_numbers_are_names(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text("system,1,2\ns,q,a\n")
    assert read_rows(path)[0].values == {"system": "s", "1": "q", "2": "a"}
    told = DataConfig.model_validate({"train": "x", "columns": {"question": "1", "answer": "2"}})
    (one,) = taught_of(open_records(path, told)[1], path)
    assert isinstance(one, Conversation) and [m.content for m in one.messages] == ["s", "q", "a"]
    assert pairs(book(tmp_path / "a.xlsx", [1, 2], ["q", "a"]), question="1", answer="2") == [("q", "a")]


@pytest.mark.parametrize("line", ["sep=;", "sep=;\r", '"sep=;"', "SEP=;"])
def test_the_line_in_which_excel_tells_the_delimiter_is_no_row(tmp_path: Path, line: str) -> None:
    """Commas cut the rows into as many cells."""
    (path := tmp_path / "a.csv").write_text(f"{line}\nquestion;answer\nWhat, then?;That, there.\nWho, now?;You, too.\n")
    rows = read_rows(path)
    assert [row.values for row in rows] == [
        {"question": "What, then?", "answer": "That, there."},
        {"question": "Who, now?", "answer": "You, too."},
    ]
    assert [row.origin for row in rows] == [f"{path}:3", f"{path}:4"]


def test_titles_above_a_sheets_table_are_no_header(tmp_path: Path) -> None:
    path = book(
        tmp_path / "a.xlsx", ["Our FAQ", None], [None, None], ["as of 2024", None], ["Question", "Answer"], ["q", "a"]
    )
    (row,) = read_rows(path)
    assert (row.values, row.origin) == ({"Question": "q", "Answer": "a"}, f"{path}:Sheet!5")
    # One column, and a column whose neighbour has no name, have no title.
    one = book(tmp_path / "b.xlsx", ["text"], ["first"], ["second"])
    assert [row.values for row in read_rows(one)] == [{"text": "first"}, {"text": "second"}]
    noted = book(tmp_path / "c.xlsx", ["text", None], ["first", "a note"])
    assert [row.values for row in read_rows(noted)] == [{"text": "first", "(2)": "a note"}]
