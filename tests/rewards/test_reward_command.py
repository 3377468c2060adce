"""fledge reward try, as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, Any, str]]
ROWS = [
    {"prompt": f"What is {n} + {n}?", "completion": f"{n} and {n} is {2 * n}.", "answer": str(2 * n)}
    for n in range(2, 12)
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Give a function that runs `fledge reward try` in a project and returns (exit code, JSON, words)."""
    (tmp_path / "fledge.yaml").write_text("generate: {max_tokens: 24}\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def call(*words: str, as_json: bool = True) -> tuple[int, Any, str]:
        command = [sys.executable, "-m", "fledge", "reward", "try", *words, "-C", str(tmp_path)]
        done = subprocess.run(command + (["--json"] if as_json else []), capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout) if as_json else done.stdout, done.stderr

    return call


def test_rows_alone(run: Run) -> None:
    code, told, words = run("number", "length:5-30", "--weights", "1,0.1", "--no-samples")
    assert code == 0, words
    assert [each["name"] for each in told["rewards"]] == ["number", "length:5-30"]
    first = told["rewards"][0]
    assert set(first) == {"name", "good", "bad", "samples", "spread", "flat_groups", "errors"}
    assert (first["good"], first["bad"], first["samples"], first["errors"]) == (1, 0, None, [])
    assert told["verdict"] == "usable"
    assert told["total"]["good"] == pytest.approx(1.1)


def test_samples_of_the_model(run: Run, starter_gguf: Path) -> None:
    code, told, words = run("length:5-30", "--samples", "8")
    [figures] = told["rewards"]
    assert 0 <= figures["samples"] <= 1 and figures["spread"] > 0 and figures["flat_groups"] <= 0.5, words
    # Good answers are within the length; so are some bad ones, but not the empty.
    assert (code, told["verdict"]) == (0, "usable")


def test_what_never_varies_is_refused(run: Run, starter_gguf: Path) -> None:
    code, told, _ = run("regex:^XYZZY$", "--samples", "4")
    assert (code, told["verdict"]) == (2, "never_varies")
    assert "partial credit" in told["why"]


def test_a_file_of_ones_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def reward_right(reply, answer):\n    print('judged')\n    return float(answer in reply.split('is')[-1])\n\n"
        "def reward_short(reply):\n    return 1 / len(reply)\n"
    )
    code, told, words = run("rewards.py", "--no-samples")
    assert (code, told["verdict"]) == (2, "fails")
    assert "rewards.py: it printed: judged" in words
    right, short = told["rewards"]
    assert (right["good"], right["errors"]) == (1, [])
    error = short["errors"][0]
    assert error["code"] == "reward.failed"
    assert error["where"].endswith("rewards.py:6")
    assert "ZeroDivisionError: division by zero, on an empty answer to " in error["message"]


def test_tests_as_answers_are_no_good_answers(run: Run, tmp_path: Path) -> None:
    row = {"prompt": "Write f that doubles.", "ground_truth": "assert f(2) == 4"}
    (tmp_path / "data/train.jsonl").write_text(json.dumps(row) + "\n")
    code, told, _ = run("unit_tests", "--no-samples")
    assert (code, told["error"]["code"]) == (2, "data.empty")
    (tmp_path / "data/train.jsonl").write_text(
        json.dumps({"prompt": "Write f.", "completion": "def f(x): return 2 * x", "answer": "assert f(2) == 4"}) + "\n"
    )
    code, told, _ = run("unit_tests", "--no-samples")
    assert (code, told["rewards"][0]["good"], told["rewards"][0]["bad"]) == (0, 1, 0)


def test_it_is_drawn(run: Run) -> None:
    code, drawn, words = run("length:1-10", "--no-samples", as_json=False)
    assert "length:1-10: what good and bad answers got" in drawn
    assert "█" in drawn
    assert "verdict: " in words
    assert code in (0, 2)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nmber"], "config.bad_value", "did you mean 'number'?"),
        (["missing.py"], "reward.broken", "there is no such file"),
        (["number", "--weights", "1,2", "--no-samples"], "config.bad_value", "2 weights for 1 rewards"),
        (["number", "--weights", "much"], "config.bad_value", "no list of numbers"),
        (["number", "--data", "nothing.jsonl"], "data.not_found", "nothing.jsonl"),
        (["template", "--no-samples"], "config.bad_value", "no evaluate.template"),
    ],
)
def test_what_cannot_be_tried_is_one_line(run: Run, words: list[str], code: str, told: str) -> None:
    exit_code, value, said = run(*words)
    assert (exit_code, value["error"]["code"]) == (2, code)
    assert told in said
