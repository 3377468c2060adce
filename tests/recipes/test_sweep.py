"""A sweep: real runs of a tiny model, real SQLite, real SIGKILL."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fledge.config_file import load_config
from fledge.errors import ConfigError, RunError
from fledge.project import find_run, list_runs
from fledge.recipes.ship import open_run
from fledge.recipes.sweep import Stage, Wish, begin, resume
from fledge.recipes.tune import tune
from fledge.training import log
from tiny import save_project

TIMEOUT_S = 120
FLEDGE = [sys.executable, "-m", "fledge"]


def make_project(folder: Path, **train: Any) -> Path:
    """Save a project of 24 rows, of which 6 like them are held out in a file of their own; lr is left to auto."""
    project = save_project(folder / "project", **{"epochs": 6, "lr": 1e-2} | train)
    rows = (project / "data/train.jsonl").read_text(encoding="utf-8").splitlines()
    held_out = [row.replace("The", "A") for row in rows[::4]]
    (project / "data/eval.jsonl").write_text("\n".join(held_out) + "\n", encoding="utf-8")
    config = yaml.safe_load((project / "fledge.yaml").read_text(encoding="utf-8"))
    config["data"]["eval"] = "data/eval.jsonl"
    (project / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return project


def figures(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return all of the trials that must be the same each time."""
    return [(t["trial"], t["state"], t["knobs"], t["value"], t["steps"], t["kept_step"]) for t in result["trials"]]


SPACE = ("train.lr=1e-5..1e-1", "train.rank=2,4,8")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A sweep that nothing interrupted."""
    project = make_project(tmp_path_factory.mktemp("sweep"))
    return project, begin(project, Wish(SPACE, trials=8), Stage())


def test_a_sweep_tells_every_trial_and_keeps_the_best(swept: tuple[Path, dict[str, Any]]) -> None:
    project, result = swept
    trials, best = result["trials"], result["best"]
    assert [trial["trial"] for trial in trials] == list(range(1, 9))
    assert result["auto"] == trials[0], "what fledge would take without a sweep is tried first"
    assert trials[0]["knobs"] == {"train.lr": 1e-2, "train.rank": 4}
    assert best["value"] == min(trial["value"] for trial in trials if trial["value"] is not None)
    assert best["value"] <= trials[0]["value"]
    kept = {trial["run"] for trial in trials if trial["adapter"]}
    assert kept == {best["run"]}
    assert all(1e-5 <= trial["knobs"]["train.lr"] <= 1e-1 for trial in trials)
    assert not list(Path(result["sweep"]).glob("runs/*/checkpoints"))
    assert list_runs(project) == [], "the runs of the project, and which is the latest, stay as they were"
    finished = open_run(project, find_run(project, best["run"]))
    assert finished.adapter.rank == best["knobs"]["train.rank"]
    assert json.loads((Path(result["sweep"]) / "sweep.json").read_text(encoding="utf-8")) == result


def test_the_line_to_paste_trains_what_the_sweep_found(swept: tuple[Path, dict[str, Any]]) -> None:
    project, result = swept
    command = result["command"]
    assert command.startswith("fledge train train.lr=")
    assert command.endswith(" train.eval_every=1.0"), "which looks there are decides which state is kept"
    summary = tune(project, load_config(project, command.split()[2:]))
    assert summary["eval_loss"] == result["best"]["value"]
    for run in list_runs(project):
        for file in sorted(run.path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        run.path.rmdir()


def test_the_page_draws_each_knob_and_needs_nothing_else(swept: tuple[Path, dict[str, Any]]) -> None:
    _, result = swept
    page = Path(result["page"]).read_text(encoding="utf-8")
    valued = sum(trial["value"] is not None for trial in result["trials"])
    assert len(re.findall(r'<circle class="(?:trial|best|auto)"', page)) == 2 * valued
    assert page.count('<circle class="best"') == 2
    assert result["command"] in page
    assert page.count("<tr>") == 1 + len(result["trials"])
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=|url\(|@import", page)


def test_a_bad_learning_rate_is_not_trained_to_its_end(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    result = begin(project, Wish(("train.lr=0.01,0.012,0.008,1e-6",), trials=20), Stage())
    assert len(result["trials"]) == 4, "there is nothing else to try"
    *good, bad = result["trials"]
    assert [trial["state"] for trial in good] == ["done"] * 3
    assert bad["knobs"] == {"train.lr": 1e-6}
    assert (bad["state"], bad["value"]) == ("pruned", None)
    assert bad["steps"] == 6 < good[0]["steps"] == 18, "it fell behind at the second look of six"
    assert len(list(log.read(Path(bad["run"]) / "metrics.jsonl"))) == 6


def kill_in_trial(project: Path, trial: int, *, arguments: tuple[str, ...]) -> None:
    """Run `fledge sweep` and kill it as soon as some steps of a trial are on the disk."""
    command = [*FLEDGE, "sweep", "-C", str(project), *arguments]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        metrics = project / "sweeps/0001/runs" / f"{trial:04d}-trial" / "metrics.jsonl"
        deadline = time.monotonic() + TIMEOUT_S
        while not metrics.is_file() or len(metrics.read_text(encoding="utf-8").splitlines()) < 4:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL


def test_a_killed_sweep_goes_on_and_ends_as_if_it_had_not_been(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    project = make_project(tmp_path)
    kill_in_trial(project, 2, arguments=(*SPACE, "--trials", "8"))
    kill_in_trial(project, 5, arguments=("--resume", "latest"))
    # A finished trial is not trained again, and one that was under way not from its beginning.
    written = [project / "sweeps/0001/runs" / name for name in ("0001-trial/manifest.json", "0005-trial/run.yaml")]
    before = [path.stat().st_mtime_ns for path in written]
    result = resume(project, "1", Wish(), Stage())
    assert figures(result) == figures(swept[1])
    assert [path.stat().st_mtime_ns for path in written] == before
    assert len(list((project / "sweeps/0001/runs").iterdir())) == 8
    with sqlite3.connect(project / "sweeps/0001/study.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM trials").fetchone() == (8,)
    database.close()


def test_trials_are_added_to_a_sweep_but_not_over_other_rows(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    project = make_project(tmp_path)
    first = begin(project, Wish(SPACE, trials=3), Stage())
    assert figures(first) == figures(swept[1])[:3]
    more = resume(project, "latest", Wish(trials=5), Stage())
    assert figures(more) == figures(swept[1])[:5]
    rows = project / "data/train.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("fox", "dog"), encoding="utf-8")
    with pytest.raises(RunError, match="or the rows have changed since the sweep was begun") as caught:
        resume(project, "latest", Wish(trials=6), Stage())
    assert caught.value.code == "run.not_resumable"
    with pytest.raises(RunError, match=r"there is no sweep '7'\. There are: 0001\."):
        resume(project, "7", Wish(), Stage())
    (project / "sweeps/0001/sweep.yaml").write_text("space: [", encoding="utf-8")
    with pytest.raises(RunError, match=r"sweep\.yaml is missing or damaged"):
        resume(project, "1", Wish(), Stage())


def test_values_that_cannot_be_trained_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    project = make_project(tmp_path, epochs=1)
    result = begin(project, Wish(("train.top_layers=1,99,2",)), Stage())
    [odd] = [trial for trial in result["trials"] if trial["state"] == "failed"]
    assert odd["knobs"] == {"train.top_layers": 99}
    assert "train.top_layers is 99; the model has 2 layers" in odd["why"]
    assert result["best"]["knobs"]["train.top_layers"] in (1, 2)
    assert odd["why"] in Path(result["page"]).read_text(encoding="utf-8").replace("&#x27;", "'")


def test_methods_are_tried_each_with_the_knobs_that_it_hears(tmp_path: Path) -> None:
    project = make_project(tmp_path, epochs=1)
    space = ("method=lora,full", "train.rank=2,4", "train.optimizer=adamw,adamw8bit")
    result = begin(project, Wish(space), Stage())
    assert {trial["state"] for trial in result["trials"]} == {"done"}
    own = [trial for trial in result["trials"] if trial["same_as"] is None]
    heard = [(t["knobs"]["method"], t["knobs"]["train.rank" if t["knobs"]["method"] == "lora" else "train.optimizer"])
             for t in own]  # fmt: skip
    assert len(result["trials"]) == 8
    assert sorted(heard) == [("full", "adamw"), ("full", "adamw8bit"), ("lora", 2), ("lora", 4)]
    unheard = "train.rank" if result["best"]["knobs"]["method"] == "full" else "train.optimizer"
    assert "method=" in result["command"] and unheard not in result["command"]
    load_config(project, result["command"].split()[2:])


def test_time_that_is_over_begins_no_trial(tmp_path: Path) -> None:
    project = make_project(tmp_path, epochs=1)
    words: list[str] = []
    space = ("train.lr=1e-5..1e-1", "train.rank=2,8")
    result = begin(project, Wish(space, trials=50, minutes=0.0001), Stage(say=words.append))
    assert "auto would take train.rank=4, which is not among what is tried" in words
    assert result["auto"] is None
    assert len(result["trials"]) == 1
    assert any("would be over before the next trial: stops after 1" in line for line in words)
    assert result["trials_wanted"] == 50


def without_held_out(project: Path) -> Path:
    config = yaml.safe_load((project / "fledge.yaml").read_text(encoding="utf-8"))
    config["data"]["eval"] = "none"
    (project / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return project


def test_a_metric_that_compares_nothing_is_one_line_before_anything_runs(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    for wish, said in (
        (Wish(SPACE, metric="loss"), "'loss' is no metric; did you mean 'eval_loss'?"),
        (Wish(SPACE, metric="accuracy"), "objective sft tells no 'accuracy'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            begin(project, wish, Stage())
    with pytest.raises(ConfigError, match="no rows are held out, so trials cannot be compared"):
        begin(without_held_out(project), Wish(SPACE), Stage())
    assert not (project / "sweeps").exists()


def test_a_knob_that_changes_what_the_loss_counts_needs_another_metric(tmp_path: Path) -> None:
    project = make_project(tmp_path, epochs=2, lr=1e-3)
    for name, count in (("train", 24), ("eval", 8)):
        rows = [{"prompt": f"The {name} {n}?", "chosen": f"add {n}", "rejected": f"dog {n}"} for n in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (project / f"data/{name}.jsonl").write_text(text, encoding="utf-8")
    wish = ("preference.beta=0.05,0.5", "objective=dpo")
    with pytest.raises(ConfigError, match="preference.beta decides what the held-out loss counts"):
        begin(project, Wish(wish), Stage())
    result = begin(project, Wish(wish, metric="accuracy"), Stage())
    assert result["higher_is_better"]
    assert all(trial["value"] == trial["eval_metrics"]["accuracy"] for trial in result["trials"])
    assert result["best"]["value"] == max(trial["value"] for trial in result["trials"])
    assert result["command"].startswith("fledge train objective=dpo preference.beta=")


def command(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = [*FLEDGE, "sweep", "-C", str(project), *arguments]
    return subprocess.run(done, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.mark.slow
def test_the_command_prints_one_object_and_a_table(tmp_path: Path) -> None:
    project = make_project(tmp_path, epochs=1)
    told = command(project, "train.lr=0.01,0.02", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["best"]["value"] > 0
    again = command(project, "--resume", "latest")
    assert again.returncode == 0, again.stderr
    assert again.stdout == ""
    for words in ("trial  lr  ", "eval_loss", "best     fledge train train.lr=0.0", "picture  "):
        assert words in again.stderr
    refused = command(project, "--resume", "latest", "train.lr=1,2")
    assert refused.returncode == 2
    assert "a sweep goes on with the knobs and the metric it was begun with" in refused.stderr
    wrong = command(project, "train.lr=1e-2..1e-4", "--json")
    assert wrong.returncode == 2
    assert json.loads(wrong.stdout)["error"]["code"] == "config.bad_value"
    assert "Traceback" not in wrong.stderr
