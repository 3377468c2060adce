"""Continued pre-training, end to end: documents are held out in parts, learnt, exported, and foretold better."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from fledge.config import Config
from fledge.config_file import load_config
from fledge.data.template import ChatTemplate
from fledge.errors import ConfigError, DataError
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.project import find_run
from fledge.recipes.assess import assess
from fledge.recipes.forecast import forecast
from fledge.recipes.measure import Served
from fledge.recipes.prepare import read_project, teach
from fledge.recipes.report import keep_verdict
from fledge.recipes.ship import export, open_run
from fledge.recipes.texts import in_parts, texts_of
from fledge.recipes.tune import Listener, tune
from fledge.records import Conversation, Text
from tiny import save_project

WORDS = "the quick brown fox jumps over lazy dogs and returns to add its name".split()  # noqa: SIM905


def documents(folder: Path, *, count: int = 2, sections: int = 20, seed: int = 0) -> Path:
    """Write documents of many sections, of few words in an order that can be learnt."""
    rng = random.Random(seed)
    folder.mkdir()
    for number in range(count):
        parts = []
        for section in range(sections):
            starts = [rng.randrange(len(WORDS)) for _ in range(8)]
            lines = [" ".join(WORDS[(start + n) % len(WORDS)] for n in range(6)) + "." for start in starts]
            parts.append(f"## Part {number} {section}\n\n" + "\n".join(lines))
        (folder / f"{number}.md").write_text(f"# Book {number}\n\n" + "\n\n".join(parts) + "\n")
    return folder


def project(folder: Path, *, objective: str = "text", **data: Any) -> Path:
    save_project(folder)
    documents(folder / "docs")
    config = yaml.safe_load((folder / "fledge.yaml").read_text())
    config |= {"objective": objective, "data": {"train": "docs"} | data}
    config["train"] |= {"max_tokens": 128, "rows_per_step": 4, "tokens_per_piece": 512, "epochs": 1}
    (folder / "fledge.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], list[str]]:
    """A project with two runs, one much longer than the other, and what was said."""
    folder = project(tmp_path_factory.mktemp("texts") / "project")
    said: list[str] = []
    runs = [
        tune(folder, load_config(folder, [f"train.epochs={epochs}"]), listener=Listener(say=said.append))
        for epochs in (1, 8)
    ]
    return folder, runs, said


def test_documents_are_learnt_and_that_is_said(learnt: tuple[Path, list[dict[str, Any]], list[str]]) -> None:
    _, (short, long), said = learnt
    assert long["objective"] == "text"
    assert long["loss_last"] < long["loss_first"] - 0.5 and long["eval_loss"] < short["eval_loss"] - 0.3
    assert "2 texts are cut into 40 parts to hold some out" in said
    assert any("texts are held out to measure with" in line for line in said), said
    assert any("tokens are taught: every token of 36 texts" in line for line in said), said


def test_rows_alone_are_no_documents_whatever_the_objective(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", train="data/train.jsonl")
    config = load_config(folder, ["train.epochs=auto"])
    forecast(folder, config, say=(said := list[str]()).append)
    assert not any("documents are read" in line for line in said), said
    assert any("rows are seen" in line for line in said), said


def test_a_short_document_of_many_sections_is_cut_into_enough_parts() -> None:
    """A part had 400 characters at least: 60 sections of a short file gave 15 parts, and nothing was held out."""
    sections = "\n\n".join(
        f"## Rule {n}\n\nKeep the lid of the box number {n} shut at night, please." for n in range(60)
    )
    parts, told = in_parts([Text(sections, "rules.md:1")], enough=20)
    assert 20 <= len(parts) <= 60 and f"1 text is cut into {len(parts)} parts" in told
    little = [Text("## One\n\nIt is so.\n\n## Two\n\nIt is not.", "little.md:1")]
    assert in_parts(little, enough=20) == (little, "")


@pytest.mark.parametrize("train", ["docs", ["docs", "data/train.jsonl"]], ids=["texts", "texts and rows"])
def test_passages_that_end_in_the_middle_of_a_text_are_no_fault(tmp_path: Path, train: Any) -> None:
    """Only a conversation has turns to end."""
    folder = project(tmp_path / "project", train=train)
    told = forecast(folder, load_config(folder, ["train.max_tokens=40"]), say=lambda _: None)
    assert [check["what"] for check in told["checks"] if not check["ok"]] == []


def test_what_is_exported_foretells_held_out_texts_as_the_trained_weights_do(
    learnt: tuple[Path, list[dict[str, Any]], list[str]],
) -> None:
    folder, (short, long), _ = learnt
    config = load_config(folder)
    sides = []
    for summary in (long, short):
        run = find_run(folder, summary["run"])
        [entry] = export(open_run(folder, run), types=["f16"], with_adapter=False)["files"]
        assert entry["parity"]["passed"] and entry["parity"]["prompt_ids_equal"]
        sides.append(Served(run.path.name, Path(entry["path"])))
    told = assess(sides, read_project(folder, config).held_out, config, project=folder)
    # llama.cpp on the file, and torch on the trained weights when the run ended.
    assert math.log(told["perplexity"]) == pytest.approx(long["eval_loss"], abs=0.02)
    assert math.log(told["against"]["perplexity"]) == pytest.approx(short["eval_loss"], abs=0.02)
    assert (told["verdict"], told["accuracy"], told["rows"]) in [("better", None, 4), ("too_few_rows", None, 4)]
    lines = [json.loads(line) for line in Path(told["rows_file"]).read_text().splitlines()]
    assert sum(line["tokens"] for line in lines) == told["texts"]["tokens"]
    more = texts_of(read_project(folder, config.model_copy(update={"data": config.data})).train)[:8]
    assert assess(sides, more, config, project=folder)["verdict"] == "better"
    assert assess(sides[::-1], more, config, project=folder)["verdict"] == "worse"
    keep_verdict(find_run(folder, long["run"]), told)
    page = find_run(folder, long["run"]).report.read_text()
    assert "Perplexity" in page and "None" not in page


def test_questions_and_texts_are_learnt_together(tmp_path: Path) -> None:
    folder = project(tmp_path / "project", train=["docs", "data/train.jsonl"], eval="auto")
    rows = read_project(folder, load_config(folder))
    kinds = [
        [sum(isinstance(row, kind) for row in side) for kind in (Text, Conversation)]
        for side in (rows.train, rows.held_out)
    ]
    assert kinds == [[36, 22], [4, 2]]
    template = ChatTemplate(load_tokenizer(open_weights(folder / "model")))
    lesson = teach(rows.train, template, load_config(folder))
    assert {example.task for example in lesson.examples} == {"docs", "data/train.jsonl"}
    assert all(len(example.ids) <= 128 for example in lesson.examples) and not lesson.too_long
    summary = tune(folder, load_config(folder))
    assert {task["task"]: task["eval_loss"] is not None for task in summary["tasks"]} == {
        "docs": True,
        "data/train.jsonl": True,
    }


def test_many_documents_are_held_out_whole(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    documents(folder / "docs", count=30, sections=2)
    config = Config.model_validate({"objective": "text", "data": {"train": "docs"}})
    rows = read_project(folder, config)
    assert (len(rows.train), len(rows.held_out)) == (27, 3)
    assert all(Path(row.origin).suffix == ".md" for row in rows.held_out)


def test_texts_alone_need_the_objective_for_them(tmp_path: Path) -> None:
    folder = project(tmp_path / "project", objective="sft")
    with pytest.raises(
        DataError, match="docs/0.md: read as text as it stands: nothing in it answers a question. To learn"
    ):
        read_project(folder, load_config(folder))
    folder = project(tmp_path / "other")
    config = load_config(folder, ["train.after_prompt=true"])
    rows = read_project(folder, config).train
    with pytest.raises(ConfigError, match="train.after_prompt: a text has no prompt"):
        teach(rows, ChatTemplate(load_tokenizer(open_weights(folder / "model"))), config)
