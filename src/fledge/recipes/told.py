"""Run folder -> what it tells: all that is on disk of a run, read for its report. What is damaged is named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fledge.errors import RunError
from fledge.project import RunFolder, read_json


@dataclass(frozen=True)
class Told:
    """What a run folder tells: empty where there is nothing; `damaged` names the files that cannot be read."""

    run: RunFolder
    record: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]
    files: Sequence[Mapping[str, Any]]
    verdict: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]
    damaged: Sequence[str]

    @property
    def knobs(self) -> Mapping[str, Any]:
        return dict(self.record.get("knobs", {}))

    @property
    def summary(self) -> Mapping[str, Any]:
        return dict(self.manifest.get("summary", {}))

    @property
    def num_steps(self) -> int:
        """The steps the run was to do."""
        return int(self.steps[-1]["steps"]) if self.steps else 0


def read_run(run: RunFolder) -> Told:
    """Read a run folder, finished or not."""
    damaged: list[str] = []
    verdict = _object(run.verdict, damaged)
    # Adapters first, then the largest: the order in which they are made from each other.
    files = [entry for path in sorted(run.release.glob("*.json")) if (entry := _object(path, damaged))]
    return Told(
        run=run,
        record=_record(run.knobs, damaged),
        steps=_lines(run.metrics),
        evaluations=_lines(run.evaluations),
        manifest=_object(run.manifest, damaged),
        files=sorted(files, key=lambda entry: (entry["kind"], -entry["bytes"])),
        verdict=verdict,
        answers=_lines(_rows_file(run, verdict["rows_file"])) if verdict and verdict["interval"] else (),
        damaged=damaged,
    )


def _object(path: Path, damaged: list[str]) -> dict[str, Any]:
    try:
        return read_json(path) if path.is_file() else {}
    except RunError:
        damaged.append(path.name)
        return {}


def _record(path: Path, damaged: list[str]) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_bytes()) if path.is_file() else {}
    except yaml.YAMLError:
        value = None
    if isinstance(value, dict):
        return value
    damaged.append(path.name)
    return {}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file, up to a line that a crash tore."""
    objects: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
        try:
            objects.append(json.loads(line))
        except ValueError:
            break
    return objects


def _rows_file(run: RunFolder, named: str) -> Path:
    # A project that was moved keeps its answers beside its runs.
    beside = run.path.parent / "answers" / Path(named).name
    return beside if beside.is_file() else Path(named)
