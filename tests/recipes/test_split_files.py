"""One file becomes two, no question in both; what cannot be parted is said and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fledge.config import Config
from fledge.data.formats import read_records
from fledge.data.sources import open_source
from fledge.errors import ConfigError, DataError
from fledge.recipes.check import Options, check
from fledge.recipes.split import part


def rows(folder: Path, count: int = 60, name: str = "all.jsonl") -> Path:
    """Write rows of which each three ask nearly the same, from six customers with ten questions each."""
    topics = ["harbour", "lantern", "meadow", "copper", "violin", "glacier", "pepper", "satellite", "walnut", "curtain"]
    ways = ["What does", "what does", "Please, what does"]
    lines = [
        {
            "question": f"{ways[n % 3]} the {topics[n // 3 % 10]} of number {n // 3} cost?",
            "answer": f"{n}",
            "customer": n // 10,
            "note": None,
        }
        for n in range(count)
    ]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / name


def said(path: Path) -> list[tuple[str, str | None]]:
    records = list(read_records(open_source(path).rows).records)
    return [(record.messages[0].content, record.group) for record in records]  # type: ignore[union-attr]


def test_two_files_hold_all_rows_and_share_no_question(tmp_path: Path) -> None:
    path = rows(tmp_path)
    done = part(path, Config(), share=0.2)
    assert (done.train.name, done.held_out.name) == ("all.train.jsonl", "all.eval.jsonl")
    assert (done.rows_train, done.rows_held_out, done.how.leaks) == (48, 12, 0)
    train, held_out = said(done.train), said(done.held_out)
    assert (len(train), len(held_out)) == (48, 12)
    assert sorted(train + held_out) == sorted(said(path))
    assert not {text.split("number ")[1] for text, _ in train} & {text.split("number ")[1] for text, _ in held_out}
    report = check([done.train], Config(), options=Options(held_out=(done.held_out,)))
    assert report.counts["data.leak"] == 0


def test_rows_of_one_value_stay_together_and_it_is_their_group(tmp_path: Path) -> None:
    done = part(rows(tmp_path), Config(), share=0.4, by="customer", seed=1)
    groups = [{group for _, group in said(side)} for side in (done.train, done.held_out)]
    assert not groups[0] & groups[1] and groups[0] | groups[1] == set("012345")
    assert done.how.tied["share a group with another"] == 60


def test_the_seed_decides_and_old_files_stay(tmp_path: Path) -> None:
    path = rows(tmp_path)
    done = part(path, Config(), share=0.2)
    first = done.held_out.read_bytes()
    with pytest.raises(ConfigError, match="all.train.jsonl: is there already. Choose another name, or replace"):
        part(path, Config(), share=0.2, seed=1)
    assert done.held_out.read_bytes() == first
    part(path, Config(), share=0.2, seed=0, force=True)
    assert done.held_out.read_bytes() == first
    part(path, Config(), share=0.2, seed=1, force=True)
    assert done.held_out.read_bytes() != first
    elsewhere = part(path, Config(), share=0.2, folder=tmp_path / "new" / "folder")
    assert elsewhere.held_out.read_bytes() == first


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"share": 0.0}, "--eval is 0, expected a share between 0 and 1"),
        ({"share": 1.5}, "--eval is 1.5, expected a share between 0 and 1"),
        ({"share": 0.001}, "0.001 of 60 rows is none. Ask for a larger share"),
        ({"share": 0.1, "by": "custumer"}, "no column 'custumer'; did you mean 'customer'?"),
        ({"share": 0.04, "by": "customer"}, "the 60 rows are tied by 'customer' and their questions, "),
    ],
)
def test_what_cannot_be_parted(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    path = rows(tmp_path)
    with pytest.raises((ConfigError, DataError)) as error:
        part(path, Config(), **options)
    assert expected in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["all.jsonl"]


def test_broken_rows_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    path = rows(tmp_path)
    path.write_text(path.read_text() + '{"question": "x", "answer": ""}\n')
    with pytest.raises(DataError, match="all.jsonl:61: 'answer' is empty"):
        part(path, Config(), share=0.2)
    assert [file.name for file in tmp_path.iterdir()] == ["all.jsonl"]


def test_a_column_that_no_row_has_is_one_problem(tmp_path: Path) -> None:
    path = rows(tmp_path)
    with pytest.raises(DataError) as error:
        part(path, Config(), share=0.2, by="zzzz")
    assert str(error.value) == f"{path}: no column 'zzzz'. Name a column that every row has with --by."
    assert error.value.as_dict()["where"] == str(path)
    # Where some rows have it, each that has not is told, and scripts learn the place of the first.
    path.write_text(path.read_text() + '{"question": "x", "answer": "y"}\n{"question": "z", "answer": "y"}\n')
    with pytest.raises(DataError, match="^2 problems") as error:
        part(path, Config(), share=0.2, by="customer")
    assert error.value.as_dict()["where"] == f"{path}:61"
