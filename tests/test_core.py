"""The core does without torch: what needs it says so in one line, everything else works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# What `import torch` meets where it is not installed.
WITHOUT_TORCH = "import sys\nfor name in ('torch', 'transformers'): sys.modules[name] = None\n"


def fledge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(WITHOUT_TORCH)
    command = [str(Path(sys.executable).with_name("fledge")), *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_training_says_what_to_install(tmp_path: Path) -> None:
    assert fledge(tmp_path, "new", "project").returncode == 0
    done = fledge(tmp_path, "train", "-C", "project", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "setup.missing_extra"
    assert "pip install 'fledge[train]'" in error["remedy"]
    assert done.stderr.count("\n") == 1


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    told = json.loads(fledge(tmp_path, "doctor", "--json").stdout)
    assert told["torch"] is None
    assert [part["extra"] for part in told["missing"]] == ["train"]
    assert told["ram_bytes"] > told["ram_free_bytes"] > 0
    assert "missing" in fledge(tmp_path, "doctor").stderr


@pytest.mark.parametrize(
    "command",
    [
        "data show project/data/train.csv",
        "data synth project/data/train.csv -o grown.jsonl -n 20",
        "chat smollm2-135m --prompt Hello",
        "eval smollm2-135m -C project --data two.csv",
    ],
)
def test_the_rest_works(tmp_path: Path, starter_gguf: Path, command: str) -> None:
    assert fledge(tmp_path, "new", "project").returncode == 0
    (tmp_path / "two.csv").write_text("question,answer\nAre you open?,Yes\nDo you deliver?,No\n")
    done = fledge(tmp_path, *command.split())
    assert done.returncode == 0, done.stderr
