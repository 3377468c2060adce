"""`fledge advise licence` and `fledge advise model`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def fledge(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fledge", "advise", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rows = [{"question": f"Was ist Nummer {i} und wo ist sie?", "answer": f"Das ist die {i}."} for i in range(30)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "fledge.yaml").write_text("model: smollm2-135m\ndata:\n  train: train.jsonl\n", encoding="utf-8")
    return tmp_path


def test_a_project_says_under_which_licences_its_parts_are(project: Path) -> None:
    told = json.loads(fledge("licence", "--teacher", "openai", "--json", cwd=project).stdout)
    assert [part["licence"] for part in told["parts"]] == ["apache-2.0", "unknown", "unknown"]
    assert [use["verdict"] for use in told["uses"].values()] == ["ask", "ask", "ask", "ask"]
    own = json.loads(fledge("licence", "--own", "--json", cwd=project).stdout)
    assert [use["verdict"] for use in own["uses"].values()] == ["yes", "yes", "if", "if"]
    (project / "LICENSE").write_text("Attribution-NonCommercial 4.0 International", encoding="utf-8")
    shown = fledge("licence", cwd=project)
    assert shown.returncode == 0 and "CC-BY-NC-4.0" in shown.stdout
    assert "sell it, or what it answers            no: train.jsonl (CC-BY-NC-4.0)" in shown.stdout


def test_the_rows_say_which_models_do_not_suit(project: Path) -> None:
    told = json.loads(fledge("model", "--json", cwd=project).stdout)
    assert told["needs"]["languages"] == ["de"] and told["needs"]["form"] == "chat" and told["needs"]["rows"] == 27
    against = {one["name"]: one["against"] for one in told["models"]}
    assert against["smollm2-135m"] == ["it was not trained in de"] and against["qwen3-0.6b"] == []
    shown = fledge("model", "Qwen/Qwen3-0.6B-Base", cwd=project).stdout
    assert "Qwen/Qwen3-0.6B-Base: base, 0.6B, apache-2.0, many languages" in shown
    assert "a base model answers nobody yet" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["licence"], "neither a project here nor a part"),
        (["licence", "--data", "nowhere.jsonl"], "no such file or folder"),
        (["licence", "--base", "smollm2-13m"], "did you mean 'smollm2-135m'"),
        (["model", "smollm2-13m"], "did you mean 'smollm2-135m'"),
    ],
)
def test_what_is_not_there_is_one_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = fledge(*arguments, cwd=tmp_path)
    assert done.returncode != 0 and expected in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    done = fledge("model", "model", cwd=tmp_path)
    assert done.returncode != 0 and "holds no config.json" in done.stderr
