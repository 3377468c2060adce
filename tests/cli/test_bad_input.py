"""What people get wrong, through the real command line: one clear line on stderr, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny import save_project

GOOD = '{"question": "What is up?", "answer": "The sky."}\n'


def fledge(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fledge", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def project(folder: Path, *, rows: str = GOOD, config: str = "data: {eval: none}\n") -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "fledge.yaml").write_text(config)
    (folder / "data" / "train.jsonl").write_text(rows)
    return folder


def told(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one error line of a failed command."""
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return errors[0]


@pytest.mark.parametrize(
    ("rows", "config", "expected"),
    [
        ('{"question": "a" "answer": "b"}\n', "", ["train.jsonl:1", "not one JSON object", "Mend or remove"]),
        (GOOD + '{"question": "a", "answer": ""}\n', "", ["train.jsonl:2", "'answer' is empty"]),
        ("", "", ["train.jsonl", "no rows in it"]),
        (GOOD, "model: smolm2-135m\n", ["no model 'smolm2-135m'", "did you mean 'smollm2-135m'"]),
        (GOOD, "train: {epoch: 3}\n", ["fledge.yaml:1", "'train.epoch' is not a knob", "'train.epochs'"]),
        (GOOD, "train: {epochs: -1}\n", ["fledge.yaml:1", "train.epochs is -1", "greater than 0"]),
        (GOOD, "data: {train: data/trian.jsonl}\n", ["trian.jsonl", "did you mean 'train.jsonl'"]),
        (GOOD.replace("The sky", "up " * 500), "train: {max_tokens: 64}\n", ["longer than train.max_tokens of 64"]),
        (
            GOOD.replace("The sky", "up " * 9000),
            "train: {max_tokens: 20000}\n",
            ["data/train.jsonl:1", "longer than the model's context of 8192 tokens"],
        ),
        (
            GOOD,
            "train: {ram: 300MB}\n",
            ["train.ram", "300 MB may be taken", "The smallest change that fits: train.ram=", "or a smaller model"],
        ),
        (GOOD, "train: {top_layers: 31}\n", ["train.top_layers is 31; the model has 30 layers"]),
    ],
)
def test_a_project_that_cannot_be_trained(
    rows: str, config: str, expected: list[str], tmp_path: Path, starter_gguf: Path
) -> None:
    folder = project(tmp_path / "p", rows=rows, config=config)
    result = fledge("train", cwd=folder)
    line = told(result)
    assert all(part in line for part in expected), line
    assert not (folder / "runs").exists()


def test_a_check_of_the_dry_run_that_fails_is_an_exit_code(tmp_path: Path) -> None:
    folder = save_project(tmp_path / "p")
    assert fledge("train", "--dry-run", cwd=folder).returncode == 0
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    bare += "{% if add_generation_prompt %}assistant: {% endif %}"
    (folder / "model" / "chat_template.jinja").write_text(bare)
    result = fledge("train", "--dry-run", "--json", cwd=folder)
    assert result.returncode == 2
    failed = [check["what"] for check in json.loads(result.stdout)["checks"] if not check["ok"]]
    assert failed == ["the end of a turn is taught"]


def test_the_error_is_one_json_object_too(tmp_path: Path) -> None:
    result = fledge("runs", "show", "7", "--json", cwd=tmp_path)
    assert told(result)
    assert set(json.loads(result.stdout)["error"]) == {"code", "message", "where", "remedy"}


def test_no_network_and_no_model(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    result = fledge(
        "models", "pull", "smollm2-360m", cwd=tmp_path, FLEDGE_HOME=str(tmp_path / "h"), HF_ENDPOINT=nowhere
    )
    assert "no source has it" in told(result) and "FLEDGE_MODELS" in told(result)
    assert not list((tmp_path / "h" / "models").glob("smollm2*"))


def test_a_wrong_sha256_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "smollm2-135m.gguf").write_bytes(b"GGUF, or so it says")
    unreachable = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    result = fledge(
        "models",
        "pull",
        "smollm2-135m",
        cwd=tmp_path,
        FLEDGE_HOME=str(tmp_path / "h"),
        FLEDGE_MODELS=str(tmp_path / "mine"),
        HF_ENDPOINT="http://127.0.0.1:9",
        PIP_CONFIG_FILE=os.devnull,
        PIP_RETRIES="0",
        **unreachable,
    )
    assert "sha256" in told(result)


def test_a_path_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    assert "x.gguf" in told(fledge("chat", "x.gguf", "--prompt", "hi", cwd=tmp_path))


def test_an_unknown_command_and_a_missing_argument(tmp_path: Path) -> None:
    assert "trian" in told(fledge("trian", cwd=tmp_path))
    assert "TARGET" in told(fledge("chat", cwd=tmp_path)).upper()


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path, starter_gguf: Path) -> None:
    folder = project(tmp_path / "p", rows=GOOD * 8)
    knobs = ["train.epochs=20", "train.rows_per_step=1", "train.rank=2", "train.lr=1e-4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fledge", "train", *knobs], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    metrics = folder / "runs" / "0001-sft-smollm2-135m" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130, words
    assert "--resume latest" in words and "Traceback" not in words
    assert list((folder / "runs" / "0001-sft-smollm2-135m" / "checkpoints").glob("step-*"))
    listed = json.loads(fledge("runs", "list", "--json", cwd=folder).stdout)
    assert [run["state"] for run in listed["runs"]] == ["interrupted"]


def test_a_full_disk_while_exporting_leaves_no_file(tmp_path: Path, starter_gguf: Path) -> None:
    folder = project(tmp_path / "p", rows=GOOD * 4)
    trained = fledge("train", "train.epochs=1", "train.rank=2", "train.rows_per_step=2", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -f 20000; exec {sys.executable} -m fledge export latest --quant q8_0"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "cannot write" in told(limited)
    release = folder / "runs" / "0001-sft-smollm2-135m" / "release"
    assert not list(release.rglob("*")) if release.exists() else True


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ram", "much"], ["--ram much", "a size such as 4GB"]),
        (["--method", "loraa"], ["--method loraa", "There are: lora, qlora, full"]),
        (["smolm2-135m"], ["no model 'smolm2-135m'", "did you mean 'smollm2-135m'"]),
    ],
)
def test_advice_on_what_is_not_there_is_one_line(arguments: list[str], expected: list[str], tmp_path: Path) -> None:
    error = told(fledge("advise", "fit", *arguments, "--no-probe", cwd=tmp_path))
    assert all(part in error for part in expected), error


def test_advice_that_is_interrupted_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fledge", "advise", "fit", "smollm2-135m"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    # It has begun where the bar is there.
    before = process.stderr.readline()
    while "progress" not in before:
        before = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and told.splitlines()[-1] == "interrupted."
