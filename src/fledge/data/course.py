"""Which rows each epoch sees, and in which order: tasks mixed by weight or temperature. Stateless and seeded.

An epoch depends on (seed, epoch) alone, so a run that was interrupted redoes it bit by bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fledge.data.mix import shuffled
from fledge.records import Example

Order = Literal["shuffle", "curriculum", "given"]
ORDERS: dict[str, str] = {
    "curriculum": "the first epoch goes from the shortest row to the longest; the others are shuffled",
    "given": "rows are learnt in the order in which they are listed, every epoch (data.order: given)",
}


@dataclass(frozen=True)
class Task:
    """The rows of one source by their numbers, and how many times an epoch sees each of them on average."""

    name: str
    rows: tuple[int, ...]
    times: float

    @property
    def whole(self) -> int:
        """How many times every epoch sees each row."""
        return int(self.times)

    @property
    def num_dealt(self) -> int:
        """How many rows an epoch sees once more: the fraction of `times`, in whole rows; a task never comes to none."""
        dealt = round((self.times - self.whole) * len(self.rows))
        return dealt if self.whole else max(1, dealt)

    @property
    def rows_per_epoch(self) -> int:
        return self.whole * len(self.rows) + self.num_dealt


@dataclass(frozen=True)
class Course:
    """What a run learns from, epoch after epoch. `lengths` are the rows' tokens, needed for a curriculum only.

    order: `shuffle` draws each epoch's order anew; `given` goes through the tasks as they are listed, and their rows as
    they stand; `curriculum` takes the first epoch from the shortest row to the longest and shuffles the others
    (SortaGrad: Amodei et al., Deep Speech 2, ICML 2016).
    """

    tasks: tuple[Task, ...]
    order: Order
    seed: int
    lengths: tuple[int, ...] = ()

    @property
    def rows_per_epoch(self) -> int:
        return sum(task.rows_per_epoch for task in self.tasks)

    @property
    def digest(self) -> str:
        """A hash of which rows are seen how often and in which order; `lengths` follow from the rows."""
        return hashlib.sha256(repr((self.tasks, self.order, self.seed)).encode()).hexdigest()

    @property
    def notes(self) -> list[str]:
        """What a person should know of it, in words; nothing where there is one task and nothing was asked for."""
        told = []
        if len(self.tasks) > 1 or any(task.times != 1 for task in self.tasks):
            for task in self.tasks:
                share = task.rows_per_epoch / self.rows_per_epoch
                told.append(
                    f"task {task.name}: {len(task.rows)} rows, seen {task.times:.3g} times an epoch: "
                    f"{task.rows_per_epoch} of an epoch's {self.rows_per_epoch} rows ({share:.0%})"
                )
        return told + ([ORDERS[self.order]] if self.order in ORDERS else [])

    def epoch(self, epoch: int) -> list[int]:
        """Return the numbers of the rows that an epoch sees, in order; a row that it sees twice stands twice."""
        drawn = [row for number, task in enumerate(self.tasks) for row in self._drawn(number, task, epoch)]
        if self.order == "given":
            return drawn
        mixed = [drawn[i] for i in shuffled(len(drawn), seed=self.seed, epoch=epoch)]
        if self.order == "curriculum" and epoch == 0:
            # A stable sort of what was shuffled: rows of one length come in a drawn order.
            mixed.sort(key=self.lengths.__getitem__)
        return mixed

    def _drawn(self, number: int, task: Task, epoch: int) -> list[int]:
        """Return a task's rows of one epoch: all of them so many times, then those that are dealt, in their order.

        Rows are dealt from a shuffled deck, and from a new one when it is used up. So no row is seen twice more than
        another, however many epochs there are.
        """
        size = len(task.rows)
        dealt: list[int] = []
        for place in range(epoch * task.num_dealt, (epoch + 1) * task.num_dealt):
            deck, card = divmod(place, size)
            if not dealt or card == 0:
                order = shuffled(size, seed=f"{self.seed}\0deck\0{number}", epoch=deck)
            dealt.append(task.rows[order[card]])
        return [*task.rows * task.whole, *sorted(dealt)]


def plain(num_rows: int, *, seed: int, order: Order = "shuffle", lengths: Sequence[int] = ()) -> Course:
    """Return the course that sees every row once an epoch."""
    return Course((Task("", tuple(range(num_rows)), 1.0),), order, seed, tuple(lengths))


def plan_course(
    examples: Sequence[Example],
    *,
    weights: Mapping[str, float],
    temperature: float | None,
    order: Order,
    seed: int,
) -> Course:
    """Return the course over the tasks of `examples`: weights by task (1 where none is named), or by temperature."""
    rows: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        rows.setdefault(example.task, []).append(number)
    times = dict.fromkeys(rows, 1.0) | {name: weight for name, weight in weights.items() if name in rows}
    if temperature is not None:
        times = tempered({name: len(own) for name, own in rows.items()}, temperature)
    tasks = tuple(Task(name, tuple(own), times[name]) for name, own in rows.items())
    lengths = tuple(len(example.ids) for example in examples) if order == "curriculum" else ()
    return Course(tasks, order, seed, lengths)


def tempered(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Return how many times an epoch sees each row of a task, where a task's share is proportional to size^(1/T).

    An epoch stays as long as all rows are many. T = 1 leaves everything as it is; the larger T, the more equal the
    shares (Arivazhagan et al., arXiv:1907.05019, 2019; in T5's words "temperature-scaled mixing": Raffel et al., JMLR
    21, 2020, section 3.5.2).
    """
    powers = {name: size ** (1 / temperature) for name, size in sizes.items()}
    rows, total = sum(sizes.values()), math.fsum(powers.values())
    return {name: rows * power / total / sizes[name] for name, power in powers.items()}
