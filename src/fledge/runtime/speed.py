"""How fast llama.cpp writes here: one token after the other, as it does when it answers one conversation."""

from __future__ import annotations

import statistics
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fledge.runtime.process import WorkerProcess
from fledge.runtime.threads import usable_cores

# The first ones read the file from the disk.
WARM_UP = 4


def seconds_a_token(path: Path, *, tokens: int = 16, threads: int | None = None) -> float:
    """Return the seconds of one token, the median of some.

    Raises EngineError where llama.cpp refuses the file or the worker is lost.
    """
    settings: dict[str, Any] = {
        "path": str(path.resolve()),
        "adapter": None,
        "invocation": [],
        "context_tokens": WARM_UP + tokens,
        "threads": threads or usable_cores(),
    }
    process = WorkerProcess("fledge.runtime.logits_worker", settings, where=str(path), start_timeout_s=120.0)
    with closing(process) as worker:
        worker.send({"timed": WARM_UP + tokens})
        taken = np.frombuffer(worker.receive((WARM_UP + tokens) * 4), dtype="<f4")
    return statistics.median(map(float, taken[WARM_UP:]))
