"""Whatever form rows have, the file written reads back as the same rows; nothing is lost, nothing overwritten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.config import Config
from fledge.data.canonical import KINDS, as_line
from fledge.data.formats import FORMS, read_records
from fledge.data.sources import open_source
from fledge.errors import ConfigError, DataError, DiskError, Finding
from fledge.recipes.convert import convert, convert_questions
from fledge.records import Conversation, Judged, Message, Preference, Problem, Record, Row, Text, ToolCall

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def records_in(path: Path) -> list[Record]:
    found = list(read_records(open_source(path).rows).records)
    assert not any(isinstance(record, Finding) for record in found), found
    return [replace(record, origin="") for record in found if not isinstance(record, Finding)]


def examples() -> dict[str, str]:
    """Return the rows of every form on the page about data."""
    sections = PAGE.read_text(encoding="utf-8").split("\n### ")[1:]
    return {
        section.split("\n")[0]: section.split("```json\n")[1].split("```")[0]
        for section in sections
        if "```json" in section
    }


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_reads_back_as_the_same_rows(form: str, tmp_path: Path) -> None:
    (given_ := tmp_path / "in.jsonl").write_text(examples()[form], encoding="utf-8")
    done = convert([given_], out := tmp_path / "out.jsonl", Config(), origin=True)
    before, after = records_in(given_), records_in(out)
    assert after == before and len(before) == done.rows > 0
    assert done.format == KINDS[type(before[0])]
    assert json.loads(out.read_text(encoding="utf-8").split("\n")[0])["origin"].startswith(str(given_))


ODD = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.sampled_from(
        ["Human: a\n\nAssistant: b", '[{"role": "user"}]', "{}", '{"a": 1}', "7", "true", "null", "\u2028",
        "<|im_end|>",          "Q: x\nA: y", "a,b;c\td", "\ufeffx", "\r\n x"]
    ),
).filter(lambda text: bool(text.strip()))  # fmt: skip


def said(role: str) -> st.SearchStrategy[Message]:
    return st.builds(Message, st.just(role), ODD)


ANSWER = st.builds(Message, st.just("assistant"), ODD, thinking=st.one_of(st.just(""), ODD), taught=st.booleans())
CALLED = st.builds(
    lambda call, result, last: (Message("assistant", "", tool_calls=(call,)), result, last),
    st.builds(ToolCall, ODD, st.sampled_from(["{}", '{"x": [1, "ü"]}']), st.sampled_from(["", "c1"])),
    st.builds(Message, st.just("tool"), ODD, name=st.sampled_from(["", "f"])),
    ANSWER,
)
HEAD = st.one_of(st.just(()), said("system").map(lambda message: (message,)))
PROMPT = st.builds(lambda head, user: (*head, user), HEAD, said("user"))
TALK = st.builds(
    lambda prompt, turns, more: (*prompt, *turns, *more),
    PROMPT,
    st.one_of(ANSWER.map(lambda message: (message,)), CALLED),
    st.one_of(st.just(()), st.tuples(said("user"), ANSWER)),
)
GROUP = st.one_of(st.none(), ODD)
TOOLS = st.sampled_from(["", json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])])
SIDE = said("assistant").map(lambda message: (message,))
ANY: st.SearchStrategy[Record] = st.one_of(
    st.builds(Conversation, TALK, st.just(""), answer=GROUP, group=GROUP, tools=TOOLS),
    st.builds(Preference, PROMPT, SIDE, SIDE, st.just(""), group=GROUP, tools=TOOLS).filter(
        lambda pair: pair.chosen != pair.rejected
    ),
    st.builds(Judged, TALK, st.booleans(), st.just(""), group=GROUP, tools=TOOLS),
    st.builds(Problem, PROMPT, st.one_of(st.just(""), ODD), st.just(""), group=GROUP, tools=TOOLS),
    st.builds(Text, ODD, st.just(""), title=st.one_of(st.just(""), ODD), group=GROUP),
)


@settings(max_examples=500, deadline=None)
@given(record=ANY, origin=st.booleans())
def test_any_record_reads_back_as_it_was(record: Record, origin: bool) -> None:
    line = as_line(replace(record, origin="x:1"), origin=origin)
    assert line.count("\n") == 1
    [back] = read_records([Row(json.loads(line), "")]).records
    assert back == record


def test_tables_and_folders_of_documents(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text('Frage;Antwort\nWas?;Das.\nWer?;"Ich; du"\n', encoding="utf-16")
    done = convert([tmp_path / "faq.csv"], out := tmp_path / "faq.jsonl", Config())
    assert (done.rows, done.format) == (2, "messages")
    assert [record.reply for record in records_in(out) if isinstance(record, Conversation)] == ["Das.", "Ich; du"]
    (tmp_path / "docs").mkdir()
    for name in ("a.md", "b.html"):
        (tmp_path / "docs" / name).write_text(
            "<h1>T</h1>\n" if name == "b.html" else "# A\n\nHuman: x\n\nAssistant: y\n"
        )
    done = convert([tmp_path / "docs"], out := tmp_path / "docs.jsonl", Config(), origin=True)
    assert (done.rows, done.format) == (2, "text")
    assert [record.title for record in records_in(out) if isinstance(record, Text)] == ["A", "T"]


ROW = '{"question": "a", "answer": "b"}\n'


@pytest.mark.parametrize(
    ("out", "options", "expected"),
    [
        ("in.jsonl", {"force": True}, "in.jsonl: is one of the files to read. Choose another name."),
        ("old.jsonl", {}, "old.jsonl: is there already. Choose another name, or replace it: --force."),
        ("rows.csv", {}, "rows.csv: rows are written as JSONL; the name ends with '.csv'. Call it rows.jsonl."),
        ("old.jsonl/rows.jsonl", {}, "old.jsonl: is a file; a folder was expected. Name another."),
        ("folder.jsonl", {"force": True}, "folder.jsonl: is a folder. Choose another name."),
    ],
)
def test_nothing_is_overwritten(tmp_path: Path, out: str, options: dict[str, Any], expected: str) -> None:
    (tmp_path / "in.jsonl").write_text(ROW)
    (tmp_path / "old.jsonl").write_text("mine")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ConfigError) as error:
        convert([tmp_path / "in.jsonl"], tmp_path / out, Config(), **options)
    assert str(error.value) == f"{tmp_path}/{expected}"
    assert (tmp_path / "in.jsonl").read_text() == ROW and (tmp_path / "old.jsonl").read_text() == "mine"
    assert convert([tmp_path / "in.jsonl"], tmp_path / "old.jsonl", Config(), force=True).rows == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (ROW + '{"question": "c"}\n', "in.jsonl:2: no question or no answer column."),
        (ROW + "{broken\n", "in.jsonl:2: "),
        ("", "in.jsonl: no rows in it."),
    ],
)
def test_rows_that_cannot_be_read_are_told_and_nothing_is_written(tmp_path: Path, rows: str, expected: str) -> None:
    (tmp_path / "in.jsonl").write_text(rows)
    with pytest.raises(DataError) as error:
        convert([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", Config())
    assert expected in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_one_file_holds_one_kind_of_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW)
    (tmp_path / "b.md").write_text("Words.\n")
    with pytest.raises(DataError, match="b.md: holds text, and .*a.jsonl:1 holds messages; one file"):
        convert([tmp_path / "a.jsonl", tmp_path / "b.md"], tmp_path / "out.jsonl", Config())
    assert not (tmp_path / "out.jsonl").exists()


def test_questions_of_documents_become_rows_with_their_source(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("---\nx: y\n---\n# FAQ\n\n## What?\n\nThis.\n\n## Where?\n\nHere.\n")
    (tmp_path / "docs" / "b.txt").write_text("Nothing is asked here.\n")
    done = convert_questions([tmp_path / "docs"], out := tmp_path / "out.jsonl", Config())
    assert (done.rows, done.format) == (2, "messages")
    assert [note.rpartition(": ")[2][:11] for note in done.notes] == ["2 questions", "0 questions"]
    first = json.loads(out.read_text().split("\n")[0])
    assert (first["source"], first["passage"]) == (f"{tmp_path}/docs/a.md:6", "## What?\n\nThis.")
    talks = [record for record in records_in(out) if isinstance(record, Conversation)]
    assert [(talk.messages[0].content, talk.reply) for talk in talks] == [("What?", "This."), ("Where?", "Here.")]


def test_where_nothing_is_asked_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Nothing is asked here.\n")
    (tmp_path / "rows.jsonl").write_text(ROW)
    for name, expected in (
        ("b.txt", "b.txt: nothing is asked and answered in 1 document."),
        ("rows.jsonl", "holds messages"),
    ):
        with pytest.raises(DataError, match=expected):
            convert_questions([tmp_path / name], tmp_path / "out.jsonl", Config())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", "rows.jsonl"]


def test_columns_that_no_form_has_are_told(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("Question,answer,customer,id\nWhat?,That.,Ada,7\n", encoding="utf-8")
    done = convert([tmp_path / "rows.csv"], tmp_path / "out.jsonl", Config())
    assert any("left out: customer, id" in note for note in done.notes)
    (tmp_path / "own.csv").write_text("q,Frage2,answer\nx,What?,That.\n", encoding="utf-8")
    config = Config.model_validate({"data": {"columns": {"question": "Frage2"}}})
    done = convert([tmp_path / "own.csv"], tmp_path / "own.jsonl", config)
    assert not any("Frage2" in note and "left out" in note for note in done.notes)


def left_out(path: Path, folder: Path) -> set[str]:
    """Return the columns of which convert says that they are left out."""
    notes = convert([path], folder / "out.jsonl", Config(), force=True).notes
    return {name for note in notes if "left out: " in note for name in note.split("out: ")[1].split(";")[0].split(", ")}


@pytest.mark.parametrize("form", list(FORMS))
def test_no_column_that_a_form_reads_is_said_to_be_left_out(form: str, tmp_path: Path) -> None:
    """Once `instances` and `data` were: the very columns that were read."""
    rows_ = examples()[form].splitlines()
    for row in rows_:
        values = json.loads(row)
        (path := tmp_path / "in.jsonl").write_text(json.dumps(values), encoding="utf-8")
        assert left_out(path, tmp_path) <= {"title"}, row
        if form != "chat_export":
            path.write_text(json.dumps({"customer": "Ada", **values, "id": 7}), encoding="utf-8")
            assert left_out(path, tmp_path) - {"title"} == {"customer", "id"}, row


def test_a_column_that_another_form_would_read_is_left_out_too(tmp_path: Path) -> None:
    (path := tmp_path / "in.jsonl").write_text('{"question": "q", "answer": "a", "category": "maths", "title": ""}\n')
    assert left_out(path, tmp_path) == {"category"}


@pytest.mark.parametrize("name", ["/proc/x.jsonl", "/proc/none/x.jsonl", "/sys/x.jsonl", "LONG.jsonl"])
def test_a_folder_that_takes_no_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (path := tmp_path / "in.jsonl").write_text(ROW)
    out = Path(name.replace("LONG", str(tmp_path / ("x" * 250))))
    with pytest.raises(DiskError, match="cannot (be made|write)") as error:
        convert([path], out, Config())
    assert (error.value.where, error.value.exit_code) == (str(out), 2)
