"""From files to what is taught: what is held out, what is left out, and that both are said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fledge.config import Config
from fledge.data.template import ChatTemplate
from fledge.errors import DataError
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.recipes.prepare import read_project, teach
from fledge.records import Conversation, Message


@pytest.fixture(scope="module")
def template(starter_gguf: Path) -> ChatTemplate:
    return ChatTemplate(load_tokenizer(open_weights(starter_gguf)))


def project(folder: Path, count: int, **data: Any) -> tuple[Path, Config]:
    (folder / "data").mkdir()
    rows = [json.dumps({"question": f"Q{n}", "answer": f"A{n}", "group": n // 2}) for n in range(count)]
    (folder / "data" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "data" / "eval.csv").write_text("question,answer\nx,y\n", encoding="utf-8")
    return folder, Config.model_validate({"data": data})


@pytest.mark.parametrize(
    ("count", "data", "sizes", "note"),
    [
        (40, {}, (36, 4), "4 of 40 rows are held out"),
        (19, {}, (19, 0), "nothing is held out: fewer than 20"),
        (40, {"eval": "none"}, (40, 0), "nothing is held out (data.eval: none)"),
        (40, {"eval": "data/eval.csv"}, (40, 1), "eval.csv (cut at ','): 1 rows, read as question_answer: a"),
        (5, {"eval": "data/train.jsonl"}, (5, 5), "WARNING: 5 of 5 held-out questions are learnt too"),
        (3, {"train": ["data/train.jsonl", "data/eval.csv"]}, (4, 0), "train.jsonl: 3 rows"),
    ],
)
def test_what_is_held_out_is_said(
    tmp_path: Path, count: int, data: Mapping[str, Any], sizes: tuple[int, int], note: str
) -> None:
    rows = read_project(*project(tmp_path, count, **data))
    assert (len(rows.train), len(rows.held_out)) == sizes
    assert any(note in told for told in rows.notes), rows.notes


def test_the_system_prompt_goes_before_learnt_and_held_out_rows(tmp_path: Path) -> None:
    rows = read_project(*project(tmp_path, 40, system="Be brief."))
    assert all(row.messages[0].content == "Be brief." for row in (*rows.train, *rows.held_out))


def test_rows_that_are_too_long_are_left_out_whole_and_named(tmp_path: Path, template: ChatTemplate) -> None:
    folder, config = project(tmp_path, 5)
    long = json.dumps({"question": "Q", "answer": "word " * 100})
    with (folder / "data" / "train.jsonl").open("a") as file:
        file.write(f"\n{long}\n")
    rows = read_project(folder, config)
    short = config.model_copy(update={"train": config.train.model_copy(update={"max_tokens": 60})})
    lesson = teach(rows.train, template, short)
    assert lesson.too_long == [f"{folder / 'data' / 'train.jsonl'}:6"]
    assert len(lesson.examples) == 5
    assert max(len(e.ids) for e in lesson.examples) <= 60
    assert lesson.num_taught == sum(e.num_taught for e in lesson.examples)
    none = config.model_copy(update={"train": config.train.model_copy(update={"max_tokens": 8})})
    with pytest.raises(DataError, match=r"all 6 rows are longer than train\.max_tokens of 8") as caught:
        teach(rows.train, template, none)
    assert caught.value.code == "data.too_long"
    assert len(teach([], template, config).examples) == 0


def test_the_digest_is_of_every_id_and_weight(tmp_path: Path, template: ChatTemplate) -> None:
    folder, config = project(tmp_path, 6)
    rows = read_project(folder, config).train
    digest = teach(rows, template, config).digest
    assert teach(rows, template, config).digest == digest
    assert teach(rows[::-1], template, config).digest != digest
    assert teach(rows[1:], template, config).digest != digest


def test_what_the_template_leaves_out_of_the_rows_is_said(template: ChatTemplate) -> None:
    said = Message("assistant", "A", thinking="hm")
    rows = [
        Conversation((Message("user", "Q"), said), "r:1", tools="[]"),
        Conversation((Message("user", "Q"), said), "r:2"),
    ]
    notes = teach(rows, template, Config()).notes
    assert notes == (
        "WARNING: the model's chat template leaves reasoning out (rows that have some: 2)",
        "WARNING: the model's chat template leaves tools out (rows that have some: 1)",
    )
    assert (
        teach([Conversation((Message("user", "Q"), Message("assistant", "A")), "r:1")], template, Config()).notes == ()
    )
