"""metrics.jsonl: one line a step, whole lines only, cut back to the checkpoint when a run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fledge.errors import writing
from fledge.project import write_text_atomic
from fledge.training.loop import Step


class MetricsLog:
    """Appends a line per step. Lines of steps after `first_step`, which will be done again, are dropped on opening."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        kept = [json.dumps(line) for line in read(path) if line["step"] <= first_step] if path.is_file() else []
        write_text_atomic(path, "".join(f"{line}\n" for line in kept))
        with writing(path):
            self._file = path.open("a", encoding="utf-8")
        self._path = path

    def __call__(self, step: Step) -> None:
        with writing(self._path):
            self._file.write(json.dumps(asdict(step)) + "\n")
            self._file.flush()

    def close(self) -> None:
        with self._file, writing(self._path):
            os.fsync(self._file.fileno())


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics file; a last line that a crash tore is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
