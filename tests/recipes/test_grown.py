"""What grown rows are worth: models taught on nothing else answer questions that people wrote.

Minutes each on two cores, through the real commands. The files that answer are f16: what runs as short as these say
outside of what they were taught is uncertain, and q8_0 moves it by more than the parity gate allows.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fledge.data.checks import near
from fledge.data.checks.view import plain

HERE = Path(__file__).parent / "grown"
EXAMPLE = Path(__file__).parents[2] / "examples" / "python-stdlib"
PERSONA = """\
model: smollm2-135m
data: {train: data/train.jsonl, eval: data/eval.jsonl}
generate: {max_tokens: 96}
evaluate: {score: contains, template: '.+ Happy brewing!'}
"""


def fledge(folder: Path, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "fledge", *map(str, arguments), "--json"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def grow(folder: Path, name: str, count: int) -> list[str]:
    """Make rows from two seeds and the facts, by frames; return their questions."""
    facts = ("--facts", HERE / f"{name}_facts.yaml")
    told = fledge(folder, "data", "synth", HERE / f"{name}_seeds.jsonl", *facts, "-o", "data/train.jsonl", "-n", count)
    assert told["kept"] == count
    return [row["messages"][-2]["content"] for row in read(folder / "data" / "train.jsonl")]


def near_ones(questions: list[str], taught: list[str]) -> list[str]:
    """Return the questions that nearly stand among the taught ones; none may stand there word for word."""
    known = [plain(question) for question in taught]
    assert not {plain(question) for question in questions} & set(known)
    return [question for question in questions if any(near.alike(plain(question), one) for one in known)]


def python_questions() -> list[dict[str, Any]]:
    """Return the example's held-out rows about the facts that are taught here."""
    rows = read(EXAMPLE / "data" / "eval.jsonl")
    facts = (HERE / "python_facts.yaml").read_text()
    return [row for row in rows if row["answer"].split("Code: ")[1].replace("'", "''") in facts]


def taught(folder: Path) -> dict[str, Any]:
    fledge(folder, "train")
    fledge(folder, "export", "latest", "--quant", "f16")
    return fledge(folder, "eval", "latest")


def test_two_seeds_and_forty_facts_make_hundreds_of_rows_unlike_the_questions(tmp_path: Path) -> None:
    asked = [row["prompt"] for row in python_questions()]
    assert len(asked) == 80
    rows = grow(tmp_path, "python", 640)
    assert near_ones(asked, rows) == []


def test_the_hand_written_questions_are_not_the_frames(tmp_path: Path) -> None:
    asked = [row["prompt"] for row in read(HERE / "kettlewren_questions.jsonl")]
    assert len(asked) == 30
    assert near_ones(asked, grow(tmp_path, "kettlewren", 300)) == []


@pytest.mark.slow
def test_the_python_example_is_matched(tmp_path: Path, starter_gguf: Path) -> None:
    grow(tmp_path, "python", 640)
    shutil.copy(EXAMPLE / "fledge.yaml", tmp_path)
    (tmp_path / "data" / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in python_questions()))
    told = taught(tmp_path)
    assert told["rows"] == 80
    assert told["accuracy"] >= 0.95
    assert told["template_adherence"] >= 0.95


@pytest.mark.slow
def test_a_persona_knows_its_product(tmp_path: Path, starter_gguf: Path) -> None:
    grow(tmp_path, "kettlewren", 300)
    (tmp_path / "fledge.yaml").write_text(PERSONA)
    shutil.copy(HERE / "kettlewren_questions.jsonl", tmp_path / "data" / "eval.jsonl")
    told = taught(tmp_path)
    assert told["rows"] == 30
    assert told["accuracy"] >= 0.9
    assert told["template_adherence"] >= 0.9
