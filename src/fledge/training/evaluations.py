"""What held-out rows tell while a run goes on: when they are looked at, what came out, and when to stop.

The stopping rule is patience: a run ends after so many looks in sequence without a lower loss (Prechelt, Early Stopping
- But When?, 1998, where it is the criterion UP). It depends on the looks alone, so a resumed run stops where it
would have without the interruption.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fledge.errors import writing
from fledge.project import write_text_atomic
from fledge.training.log import read

# At most so many looks a run, and so much of its time.
MOST_LOOKS, MOST_TIME = 10, 0.1
# A pass forward and backward takes about three times the products of one forward.
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class Evaluation:
    """What the held-out rows told after `step` steps, `epoch` passes over the rows.

    loss: in nats per taught token where answers or texts are learnt, else a mean over rows. losses: of each task.
    """

    step: int
    epoch: float
    loss: float
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    seconds: float


class EvaluationLog:
    """evaluations.jsonl: one line a look, on the disk before the run goes on."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        """Take up the looks up to `first_step`; those behind it, whose steps are done again, are dropped."""
        found = [Evaluation(**line) for line in read(path)] if path.is_file() else []
        self.kept = [evaluation for evaluation in found if evaluation.step <= first_step]
        self._path = path
        if found != self.kept:
            write_text_atomic(path, "".join(_line(evaluation) for evaluation in self.kept))

    def add(self, evaluation: Evaluation) -> None:
        # A checkpoint of this step may follow at once, and must not outlive the look that belongs to it.
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(evaluation))
            file.flush()
            os.fsync(file.fileno())
        self.kept.append(evaluation)


def _line(evaluation: Evaluation) -> str:
    return json.dumps(asdict(evaluation)) + "\n"


def steps_to_look_after(*, epochs_between: float, steps_per_epoch: float, steps: int) -> frozenset[int]:
    """Return after which steps held-out rows are looked at: every so many epochs, and after the last step.

    With 0 epochs between two looks there is none.
    """
    if not epochs_between:
        return frozenset()
    between = epochs_between * steps_per_epoch
    looks = (max(1, round(number * between)) for number in range(1, math.ceil(steps / between) + 1))
    return frozenset((*(step for step in looks if step < steps), steps))


def most_looks(*, run_tokens: float, held_out_tokens: int, most_time: float = MOST_TIME) -> int:
    """Return how many looks at held-out rows take no more than `most_time` of a run; at most MOST_LOOKS.

    Times are taken from tokens, so that the same run looks as often on any day.
    """
    return min(MOST_LOOKS, int(most_time * run_tokens / max(1.0, FORWARD_SHARE * held_out_tokens)))


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """Return the first look with the lowest loss; one that is not a number is no look at all."""
    finite = [evaluation for evaluation in evaluations if math.isfinite(evaluation.loss)]
    return min(finite, key=lambda evaluation: evaluation.loss, default=None)


def looks_in_vain(evaluations: Sequence[Evaluation]) -> int:
    """Return how many looks have come since the best."""
    best = best_of(evaluations)
    return len(evaluations) if best is None else len(evaluations) - 1 - list(evaluations).index(best)
