"""What a sweep is made of: its folder, what is tried on what, and how its trials are trained."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from fledge.config import Config
from fledge.errors import RunError, writing
from fledge.project import RunFolder
from fledge.recipes.once import deaf_to
from fledge.recipes.setup import Setup
from fledge.recipes.space import Choices, Swept, from_record, with_values
from fledge.training.evaluations import most_looks

# So many looks at held-out rows in each trial, at the same shares of it, so that trials can be compared on the way.
LOOKS = 6
# What looks may take of a trial: more than of a run by itself, for trials that end early give it back.
MOST_TIME = 0.2


@dataclass(frozen=True)
class SweepFolder:
    """The names of the files of a sweep."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def study(self) -> Path:
        return self.path / "study.db"

    @property
    def result(self) -> Path:
        return self.path / "sweep.json"

    @property
    def page(self) -> Path:
        return self.path / "sweep.html"

    def run(self, number: int) -> RunFolder:
        """Return the run folder of the trial with this number, which counts from 0."""
        return RunFolder(self.path / "runs" / f"{number + 1:04d}-trial")


@dataclass(frozen=True)
class Sweep:
    """A sweep under way: what its folder says, and how its trials are trained."""

    project: Path
    folder: SweepFolder
    space: Sequence[Swept]
    given: Sequence[str]
    config: Config
    metric: str
    looks: int
    fixed: Mapping[str, Any]
    auto: Mapping[str, Any]
    trials: int
    keep_all: bool

    def config_of(self, values: Mapping[str, Any]) -> Config:
        """Return the knobs of a trial; held-out rows are looked at after the same shares of every trial."""
        told = {**self.fixed, **values, "train.eval_every": self.looks_every(values)}
        return with_values(self.config, told | self._deaf_to(values))

    def heard(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a trial hears of its values: where methods are tried, not what another one asks for."""
        deaf = self._deaf_to(values)
        return {name: value for name, value in values.items() if name not in deaf}

    def _deaf_to(self, values: Mapping[str, Any]) -> dict[str, object]:
        return deaf_to(values["method"]) if "method" in values else {}

    def epochs(self, values: Mapping[str, Any]) -> float:
        return float(values.get("train.epochs", self.fixed["train.epochs"]))

    def looks_every(self, values: Mapping[str, Any]) -> float:
        return self.epochs(values) / self.looks if self.looks else 0.0

    def command(self, values: Mapping[str, Any]) -> str:
        """Return what to type for a run of the project that learns and looks as the trial with these values did."""
        told = {**self.heard(values), "train.eval_every": self.looks_every(values)}
        given = [one for one in self.given if one.partition("=")[0] not in self._deaf_to(values)]
        parts = [*given, *(f"{name}={_typed(value)}" for name, value in told.items())]
        return shlex.join(["fledge", "train", *parts])


def find_sweep(project: Path, spec: str) -> SweepFolder:
    """Return the sweep named by a number, `latest` or its folder. Raises RunError that names what there is."""
    root = project / "sweeps"
    found = sorted(path for path in root.glob("*") if path.is_dir() and path.name.isdecimal())
    for path in found:
        if spec == path.name or (spec.isdecimal() and int(spec) == int(path.name)):
            return SweepFolder(path)
    if spec == "latest" and found:
        return SweepFolder(found[-1])
    if (Path(spec) / "sweep.yaml").is_file():
        return SweepFolder(Path(spec))
    raise RunError(
        "run.not_found",
        f"there is no sweep '{spec}'.",
        where=str(root),
        remedy=f"There are: {', '.join(path.name for path in found[-5:])}." if found else "`fledge sweep` makes one.",
    )


def opened(project: Path, folder: SweepFolder, record: Mapping[str, Any]) -> Sweep:
    return Sweep(
        project,
        folder,
        [from_record(one) for one in record["space"]],
        list(record["given"]),
        Config.model_validate(record["knobs"]),
        metric=str(record["metric"]),
        looks=int(record["looks"]),
        fixed=dict(record["fixed"]),
        auto=dict(record["auto"]),
        trials=int(record["trials"]),
        keep_all=bool(record["keep_all"]),
    )


def new_folder(project: Path) -> SweepFolder:
    root = project / "sweeps"
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in root.glob("*") if path.name.isdecimal()), default=0) + 1
        while True:
            try:
                (root / f"{number:04d}").mkdir()
            except FileExistsError:
                # Another process was faster.
                number += 1
                continue
            return SweepFolder(root / f"{number:04d}")


def inputs_of(setup: Setup) -> str:
    """Return a hash of what trials must have in common to be compared."""
    parts = (setup.base_sha256, setup.lesson.digest, setup.held_out.digest)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def looks_in(setup: Setup, space: Sequence[Swept]) -> int:
    """Return how often held-out rows are looked at in a trial; 0 where even twice takes too long in a middling one."""
    train = setup.config.train
    assert train.epochs != "auto"
    tried = next((one for one in space if one.name == "train.epochs"), None)
    ends = (train.epochs,) if tried is None else tried.values if isinstance(tried, Choices) else (tried.low, tried.high)
    mean = sum(len(example.ids) for example in setup.lesson.examples) / len(setup.lesson.examples)
    run_tokens = sum(map(float, ends)) / len(ends) * setup.course.rows_per_epoch * mean
    held_out = sum(len(example.ids) for example in setup.held_out.examples)
    most = most_looks(run_tokens=run_tokens, held_out_tokens=held_out, most_time=MOST_TIME)
    return 0 if most < 2 else min(LOOKS, most)


def combinations(space: Sequence[Swept]) -> list[dict[str, Any]] | None:
    """Return every combination where all knobs have few values, else None."""
    values = [list(one.values) for one in space if isinstance(one, Choices)]
    if len(values) < len(space):
        return None
    return [dict(zip((one.name for one in space), each, strict=True)) for each in product(*values)]


def disk_words(setup: Setup, space: Sequence[Swept], keep_all: bool, trials: int) -> str:
    """Return in words how much disk the sweep takes at most."""
    rank = setup.config.train.rank
    kept = "what all trials learnt is kept" if keep_all else "what all trials but the best learnt is removed"
    if rank == "auto":
        return kept
    tried = next((one for one in space if one.name == "train.rank"), None)
    largest = rank if tried is None else max(tried.values) if isinstance(tried, Choices) else tried.high
    # What the plan counts for an adapter: numbers, gradient, two moments, two copies. On the disk: three checkpoints of
    # three of these, the best state, and two adapters.
    adapter = setup.plan.parts["adapter"] / 5.5 * largest / rank
    most = adapter * (12 + (trials if keep_all else 0))
    return f"takes at most some {most / 1e6:,.0f} MB of disk; {kept}"


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
