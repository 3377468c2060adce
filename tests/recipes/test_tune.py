"""A training run survives what happens to processes: SIGKILL, Ctrl-C, a full disk, a second trainer."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fledge.config_file import load_config
from fledge.data.template import DEFAULT_TEMPLATE
from fledge.errors import RunError
from fledge.project import RunFolder, find_run, list_runs
from fledge.recipes.setup import prepare
from fledge.recipes.tune import Listener, resume, tune
from fledge.training import checkpoint, log
from tiny import save_project

TIMEOUT_S = 120
STEPS = 24
# Says every step on stdout; arguments: project, seconds to sleep after a step, step after which no large file can grow.
TRAINER = """
import resource, sys, time
from pathlib import Path
from fledge.config_file import load_config
from fledge.errors import FledgeError
from fledge.project import list_runs
from fledge.recipes.tune import Listener, resume, tune

project, pause_s, full_at = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])

def step(done):
    print(done.step, flush=True)
    if done.step == full_at:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
    time.sleep(pause_s)

runs = list_runs(project)
try:
    if runs:
        resume(project, runs[-1], listener=Listener(step=step))
    else:
        tune(project, load_config(project), listener=Listener(step=step))
except FledgeError as error:
    print(error.code, error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@contextmanager
def trainer(project: Path, *, pause_s: float = 0.0, full_at: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that begins or goes on with the project's only run; gone when the block ends."""
    command = [sys.executable, "-c", TRAINER, str(project), str(pause_s), str(full_at)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return
    assert process.stderr is not None
    raise AssertionError(f"ended before step {step}: {process.stderr.read()}")


def adapter_bytes(run: RunFolder) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def steps_of(run: RunFolder) -> list[int]:
    return [line["step"] for line in log.read(run.metrics)]


@pytest.fixture(scope="module")
def make_project(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give copies of one project: 24 rows, 24 steps, dropout, a checkpoint after every step."""

    def make() -> Path:
        return save_project(tmp_path_factory.mktemp("tune") / "project", epochs=8, dropout=0.1)

    return make


@pytest.fixture(scope="module")
def whole(make_project: Any) -> tuple[RunFolder, dict[str, Any]]:
    """A run that nothing interrupted, and its summary."""
    project = make_project()
    summary = tune(project, load_config(project))
    return list_runs(project)[0], summary


def test_a_run_holds_all_that_the_contract_says(whole: tuple[RunFolder, dict[str, Any]]) -> None:
    run, summary = whole
    assert run.path.name == "0001-sft-model"
    assert run.finished
    assert steps_of(run) == list(range(1, STEPS + 1))
    lines = list(log.read(run.metrics))
    assert (summary["steps"], summary["rows"], summary["run"]) == (STEPS, 24, run.path.name)
    assert (summary["loss_first"], summary["loss_last"]) == (lines[0]["loss"], lines[-1]["loss"])
    assert summary["loss_last"] < 0.8 * summary["loss_first"]
    assert summary["tokens_effective"] == sum(line["tokens_effective"] for line in lines)
    manifest = json.loads(run.manifest.read_text())
    assert manifest["summary"] == summary
    assert manifest["adapter_sha256"] == hashlib.sha256(adapter_bytes(run)).hexdigest()
    assert json.loads((run.adapter / "adapter_config.json").read_text())["r"] == 4


def test_the_same_run_again_gives_the_same_bytes(whole: tuple[RunFolder, dict[str, Any]], make_project: Any) -> None:
    project = make_project()
    tune(project, load_config(project))
    assert adapter_bytes(list_runs(project)[0]) == adapter_bytes(whole[0])
    other = make_project()
    tune(other, load_config(other, ["train.seed=1"]))
    assert adapter_bytes(list_runs(other)[0]) != adapter_bytes(whole[0])


def test_killed_three_times_it_ends_with_the_same_bytes(
    whole: tuple[RunFolder, dict[str, Any]], make_project: Any
) -> None:
    project, numbers = make_project(), random.Random(20)
    for low in (1, 8, 15):
        with trainer(project) as process:
            # The step is told before its checkpoint is written: within 30 ms the kill meets either of them.
            wait_for_step(process, low + numbers.randrange(6))
            time.sleep(numbers.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    (run,) = list_runs(project)
    assert not run.finished
    assert checkpoint.latest(run.checkpoints) is not None
    with trainer(project) as process:
        assert process.wait(TIMEOUT_S) == 0
    assert run.finished
    assert adapter_bytes(run) == adapter_bytes(whole[0])
    assert steps_of(run) == list(range(1, STEPS + 1))
    losses = [[line["loss"] for line in log.read(r.metrics)] for r in (run, whole[0])]
    assert losses[0] == losses[1]


def test_one_trainer_at_a_time_and_ctrl_c_leaves_a_run_that_goes_on(
    whole: tuple[RunFolder, dict[str, Any]], make_project: Any
) -> None:
    project = make_project()
    with trainer(project, pause_s=0.2) as process:
        wait_for_step(process, 2)
        with pytest.raises(RunError, match="another process is training") as caught:
            resume(project, find_run(project, "latest"))
        assert caught.value.code == "run.busy"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGINT, "Python re-raises an uncaught KeyboardInterrupt as the signal"
    assert errors.rstrip().endswith("KeyboardInterrupt")
    (run,) = list_runs(project)
    assert not run.finished
    done = steps_of(run)
    found = checkpoint.latest(run.checkpoints)
    assert found is not None
    assert found.name == f"step-{done[-1]:06d}", "nothing of the last step is lost"
    words: list[str] = []
    summary = resume(project, run, listener=Listener(say=words.append))
    assert f"goes on after step {done[-1]} of {STEPS}" in words
    assert adapter_bytes(run) == adapter_bytes(whole[0])
    assert steps_of(run) == list(range(1, STEPS + 1))
    assert {k: v for k, v in summary.items() if k.startswith("loss")} == {
        k: v for k, v in whole[1].items() if k.startswith("loss")
    }


def test_a_full_disk_is_one_clear_line_and_keeps_the_older_checkpoint(
    whole: tuple[RunFolder, dict[str, Any]], make_project: Any
) -> None:
    project = make_project()
    with trainer(project, full_at=5) as process:
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert errors.startswith("setup.disk ")
    assert "checkpoints/step-000005: cannot write: File too large." in errors
    (run,) = list_runs(project)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["step-000003", "step-000004"]
    resume(project, run)
    assert adapter_bytes(run) == adapter_bytes(whole[0])


def interrupted(project: Path, *, after: int) -> RunFolder:
    """Begin a run and end it with Ctrl-C after some steps, in this process."""

    def press(step: Any) -> None:
        if step.step == after:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tune(project, load_config(project), listener=Listener(step=press))
    return find_run(project, "latest")


def test_what_the_run_began_with_must_not_change(make_project: Any) -> None:
    project = make_project()
    run = interrupted(project, after=2)
    rows = project / "data" / "train.jsonl"
    before = rows.read_text()
    rows.write_text(before.replace("fox", "cat"))
    with pytest.raises(RunError, match="have changed") as caught:
        resume(project, run)
    assert caught.value.code == "run.not_resumable"
    rows.write_text(before)
    # The knobs come from the run, not from fledge.yaml, which may have gone on to other plans.
    (project / "fledge.yaml").write_text("train: {lr: 0.5}\n")
    assert resume(project, run)["steps"] == STEPS
    words: list[str] = []
    again = resume(project, run, listener=Listener(say=words.append))
    assert words == [f"{run.path.name} is finished already."]
    assert again["steps"] == STEPS


def test_a_run_that_goes_on_the_next_day_sees_the_day_it_began(
    make_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 3.2 and others write the date into every prompt."""
    project = make_project()
    dated = "{{ strftime_now('%d %b %Y') }}\n" + DEFAULT_TEMPLATE
    (project / "model" / "chat_template.jinja").write_text(dated)
    run = interrupted(project, after=2)
    tomorrow = datetime.date.today() + datetime.timedelta(days=1)
    monkeypatch.setattr("fledge.recipes.setup.datetime", SimpleNamespace(date=SimpleNamespace(today=lambda: tomorrow)))
    other = make_project()
    (other / "model" / "chat_template.jinja").write_text(dated)
    today = tomorrow - datetime.timedelta(days=1)
    lessons = [prepare(other, load_config(other), today=day).lesson.digest for day in (None, tomorrow, today)]
    assert lessons[0] == lessons[1] != lessons[2]
    assert resume(project, run)["steps"] == STEPS


@pytest.mark.parametrize("content", [None, "", "a: [", "knobs: {}", "knobs: {train: {lr: 7}}\nidentity: x\nthreads: 2"])
def test_a_run_without_its_knobs_cannot_go_on(make_project: Any, content: str | None) -> None:
    project = make_project()
    run = RunFolder(project / "runs" / "0001-sft-model")
    run.path.mkdir(parents=True)
    if content is not None:
        run.knobs.write_text(content)
    with pytest.raises(RunError, match=r"run\.yaml is missing or damaged") as caught:
        resume(project, run)
    assert caught.value.code == "run.not_resumable"


def mixed(project: Path) -> Path:
    """Give the project a second task, weights, a curriculum and held-out rows of both tasks."""
    rows = [json.dumps({"question": f"{n} and {n}?", "answer": f"{2 * n} or so"}) for n in range(10)]
    (project / "data/sums.jsonl").write_text("\n".join(rows), encoding="utf-8")
    config = yaml.safe_load((project / "fledge.yaml").read_text(encoding="utf-8"))
    weights = {"data/train.jsonl": 0.5, "data/sums.jsonl": 1.5}
    config["data"] = {"train": weights, "order": "curriculum", "eval": "auto"}
    (project / "fledge.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return project


def test_mixed_tasks_are_told_and_a_killed_run_of_them_ends_with_the_same_bytes(make_project: Any) -> None:
    project = mixed(make_project())
    summary = tune(project, load_config(project))
    [facts, sums] = summary["tasks"]
    assert (facts["task"], facts["rows"], facts["times"], facts["rows_per_epoch"]) == ("data/train.jsonl", 22, 0.5, 11)
    assert (sums["task"], sums["rows"], sums["times"], sums["rows_per_epoch"]) == ("data/sums.jsonl", 9, 1.5, 13)
    assert (facts["eval_rows"], sums["eval_rows"]) == (2, 1)
    low, high = sorted((facts["eval_loss"], sums["eval_loss"]))
    assert low < summary["eval_loss"] < high
    assert f"<code>data/sums.jsonl</code> {sums['eval_loss']:.3g}" in list_runs(project)[0].report.read_text("utf-8")
    [run] = list_runs(project)
    assert [line["rows"] for line in log.read(run.metrics)] == [8, 8, 8] * 8
    assert any("data/sums.jsonl: 9 rows, seen 1.5 times an epoch" in note for note in yaml_of(run)["notes"])

    other = mixed(make_project())
    for low in (3, 11):
        with trainer(other) as process:
            wait_for_step(process, low)
            process.send_signal(signal.SIGKILL)
            process.wait(TIMEOUT_S)
    again = list_runs(other)[0]
    assert not again.finished
    resume(other, again)
    assert adapter_bytes(again) == adapter_bytes(run)
    assert steps_of(again) == list(range(1, STEPS + 1))


def test_a_run_does_not_go_on_under_other_weights(make_project: Any) -> None:
    project = mixed(make_project())
    with trainer(project) as process:
        wait_for_step(process, 2)
        process.send_signal(signal.SIGKILL)
        process.wait(TIMEOUT_S)
    [run] = list_runs(project)
    record = yaml_of(run)
    record["knobs"]["data"]["train"]["data/sums.jsonl"] = 3.0
    run.knobs.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    with pytest.raises(RunError) as caught:
        resume(project, run)
    assert caught.value.code == "run.not_resumable"


def yaml_of(run: RunFolder) -> dict[str, Any]:
    return dict(yaml.safe_load(run.knobs.read_text(encoding="utf-8")))
