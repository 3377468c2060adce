"""results.csv: one line a figure, with when, which commit, which machine and which versions."""

from __future__ import annotations

import csv
import datetime
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results.csv"
COLUMNS = ("date", "commit", "processor", "python", "torch", "what", "figure", "value")


@dataclass(frozen=True)
class Versions:
    """What a figure was measured with."""

    commit: str
    processor: str
    python: str
    torch: str


def processor_versions(torch_version: str | None = None) -> Versions:
    """Return what this process measures with."""
    if torch_version is None:
        import torch

        torch_version = torch.__version__
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return Versions(commit.stdout.strip(), _processor(), platform.python_version(), str(torch_version))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    count = sum(line.startswith("processor") for line in lines)
    return f"{count} x {' '.join(sorted(names))}" if names else platform.processor()


def append(what: str, figures: Mapping[str, float], versions: Versions) -> None:
    """Add the figures to results.csv."""
    fixed = [f"{datetime.date.today()}", versions.commit, versions.processor, versions.python, versions.torch, what]
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerows([*fixed, name, value] for name, value in figures.items())


def latest(path: Path = RESULTS) -> dict[str, dict[str, float]]:
    """Return the last recorded value of every figure, by what was run."""
    found: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["what"], {})[row["figure"]] = float(row["value"])
    return found
