"""A side of a comparison: a process of its own that prints its figures as the last line, and TRL's settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any


def ask(script: str, who: str, arguments: Mapping[str, object]) -> dict[str, Any]:
    """Run one side of a script, as `--one WHO`, and return what it tells."""
    command = [sys.executable, script, "--one", who]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def answer(work: Callable[[], Mapping[str, Any]]) -> None:
    """Do the work of one side; what trainers say goes to stderr, and the last line of stdout is ours."""
    out = os.dup(1)
    os.dup2(2, 1)
    os.write(out, (json.dumps(work()) + "\n").encode())


def trl_settings(options: Mapping[str, Any], *, lr: float, steps: int, at_once: int, rows: int) -> dict[str, Any]:
    """Return TRL's settings: its defaults, but for what all sides must share, and `options` where it is tuned.

    rows: of a step, `at_once` of them in one batch.
    """
    shared: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": steps,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": rows // at_once,
        "learning_rate": lr,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if not options:
        return shared
    import torch

    weights = {"dtype": getattr(torch, options["dtype"])}
    return shared | {"gradient_checkpointing": False, "model_init_kwargs": weights, "bf16": options["autocast"]}
