"""`fledge new`: every kind makes a project that works at once, and nothing that is there is touched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from fledge.config_file import load_config
from fledge.errors import ConfigError
from fledge.evaluation.scorers import SCORERS, Template, choose_scorer
from fledge.recipes.check import Options, check
from fledge.recipes.prepare import read_project
from fledge.recipes.start import KINDS, start

TIMEOUT_S = 600


@pytest.fixture(params=KINDS)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    start(tmp_path / "my model", request.param)
    return tmp_path / "my model"


def test_its_rows_have_no_error_and_no_leak(project: Path) -> None:
    config = load_config(project)
    held_out = tuple(project / path for path in config.data.eval_paths)
    report = check([project / path for path in config.data.train_paths], config, options=Options(held_out=held_out))
    found = {(problem.code, str(problem)) for problem in report.problems if problem.severity.value == "error"}
    assert found == set()
    assert report.counts["data.leak"] == 0, [str(p) for p in report.problems if p.code == "data.leak"]
    assert report.counts["data.duplicate"] == report.counts["data.contradiction"] == 0


def test_its_own_answers_are_right_and_in_its_template(project: Path) -> None:
    """What is taught must pass the measure that it will be held against."""
    config = load_config(project)
    rows = read_project(project, config)
    scorer, _ = choose_scorer(config.evaluate.score, rows.held_out)
    assert all(SCORERS[scorer](row.reply, row) for row in rows.held_out)
    if config.evaluate.template is not None:
        template = Template(config.evaluate.template)
        assert [row.origin for row in (*rows.train, *rows.held_out) if not template.adheres(row.reply, row)] == []


def test_its_page_names_commands_and_files_that_there_are(project: Path) -> None:
    page = (project / "README.md").read_text(encoding="utf-8")
    assert "fledge train" in page
    for path in re.findall(r"`((?:data|docs)/[\w.-]*)`", page):
        assert (project / path).exists(), path
    lines = (project / "fledge.yaml").read_text(encoding="utf-8").splitlines()
    bare = [
        line
        for before, line in pairwise(lines)
        if re.match(r"  \w+: ", line) and "#" not in line and not before.lstrip().startswith("#")
    ]
    assert bare == [], "a knob without a word on what it is for"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "mine", tmp_path / "file"):
        with pytest.raises(ConfigError, match="there is something in it already") as caught:
            start(folder, "style")
        assert caught.value.code == "config.exists"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert "fledge.yaml" in start(tmp_path / "empty", "style")


def test_the_examples_travel_in_the_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for example in KINDS.values():
        assert f'"examples/{example}" = "fledge/examples/{example}"' in text


def run(project: Path, *arguments: str) -> dict[str, object]:
    command = [sys.executable, "-m", "fledge", *arguments, "-C", str(project), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_it_learns_in_minutes(project: Path, starter_gguf: Path) -> None:
    forecast = run(project, "train", "--dry-run")
    assert all(check["ok"] for check in forecast["checks"])  # type: ignore[attr-defined]
    run(project, "train")
    told = run(project, "eval", "latest", "--against", "smollm2-135m")
    assert told["verdict"] == "better" or told["rows"] < 12  # type: ignore[operator]
    assert told["accuracy"] >= told["against"]["accuracy"] + 0.4  # type: ignore[operator,index]
    assert told["stopped"] == 1.0
    shutil.rmtree(project / "runs")
