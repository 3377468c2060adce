"""Which rows are held out to measure with: never one whose question, or nearly it, or whose group is learnt.

Rows that are tied (the same question, nearly the same, the same group), directly or through others, stay on one side.
Seeded and stateless: equal on every machine.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fledge.data.checks import near, repeats
from fledge.data.checks.look import Recorder, Rows, load
from fledge.data.checks.same import counter, one_word_apart, turn_ties
from fledge.data.checks.view import view
from fledge.records import Record

# What the search for leaks finds after a split is tied and split anew, so often.
ROUNDS = 8
EXACT = {"question": "ask what another asks", "whole": "say what another says", "group": "share a group with another"}
NEARLY = "ask or say nearly what another does"

Mask = npt.NDArray[np.bool_]
Pairs = npt.NDArray[np.int64]
Step = Callable[[str, int, int], None]
Kind = TypeVar("Kind", bound=Record)


def _quiet(what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Split:
    """`held_out`: which rows are. `tied` counts the rows that are tied by each of the ties, `largest` the most that
    are tied together, `leaks` what the search of `fledge data check` still finds between the two sides."""

    held_out: Mask
    tied: Mapping[str, int]
    largest: int
    leaks: int

    @property
    def words(self) -> str:
        """What was tied, in words."""
        told = [f"{count:,} {what}" for what, count in self.tied.items() if count]
        return f"rows that {', '.join(told)} stay together" if told else "no two of them are tied"


def record(records: Iterable[Record], folder: Path) -> Rows:
    """Return the figures of some records, kept in `folder`."""
    recorder = Recorder(folder)
    try:
        for one in records:
            recorder.add(view(one))
    finally:
        recorder.close()
    return load([folder])


def split_records(
    records: Sequence[Kind], *, share: float, seed: int, tasks: Sequence[str] = ()
) -> tuple[list[Kind], list[Kind], Split]:
    """Return (train, held out, how), each in order."""
    with tempfile.TemporaryDirectory(prefix="fledge-split-") as folder:
        found = split(record(records, Path(folder)), share=share, seed=seed, tasks=tasks)
    sides: tuple[list[Kind], list[Kind]] = ([], [])
    for one, held in zip(records, found.held_out.tolist(), strict=True):
        sides[held].append(one)
    return *sides, found


def split(rows: Rows, *, share: float, seed: int, tasks: Sequence[str] = (), step: Step = _quiet) -> Split:
    """Return which of `rows` are held out: whole groups of tied rows, up to twice the `share` and never all.

    tasks: the task of each row; the share is taken of every task. Groups are ranked by a hash of seed and what they
    ask, so adding rows moves few others from one side to the other. One that would hold out more than twice what was
    asked for is passed over.
    """
    ties = _Ties(len(rows.figures))
    counts = Counter({what: _tie_equal(rows, name, ties) for name, what in EXACT.items()})
    counts[NEARLY] = _tie_near(rows, ties, step)
    leaks: list[repeats.Repeat] = []
    held = np.zeros(len(rows.figures), dtype=np.bool_)
    for _ in range(ROUNDS):
        held = _chosen(rows, ties.leaders(), share=share, seed=seed, tasks=tasks)
        leaks = repeats.leaks(rows, ~held, held, step=partial(step, "looking for leaks"))
        if not leaks:
            break
        counts[NEARLY] += len(leaks)
        for leak in leaks:
            ties.tie(leak.row, leak.other)
    leaders = ties.leaders()
    while leaks:
        # What is still tied to a learnt row is learnt, with all that is tied to it.
        held &= ~np.isin(leaders, leaders[[leak.row for leak in leaks]])
        leaks = repeats.leaks(rows, ~held, held, step=lambda done, total: None)
    sizes = Counter(leaders.tolist())
    return Split(held, dict(counts), max(sizes.values(), default=0), len(leaks))


class _Ties:
    """Union-find over the places of rows; the leader of tied rows is the first of them."""

    def __init__(self, count: int) -> None:
        self._leader = list(range(count))

    def find(self, row: int) -> int:
        leader = self._leader
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    def tie(self, one: int, other: int) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        self._leader[second] = first

    def leaders(self) -> npt.NDArray[np.int64]:
        return np.array([self.find(row) for row in range(len(self._leader))], dtype=np.int64)


def _tie_equal(rows: Rows, name: str, ties: _Ties) -> int:
    """Tie the rows of which a figure is equal; return how many there are."""
    # Rows that ask something and say the same ask the same: they are counted once.
    places = np.flatnonzero((rows.figures[name] != 0) & ((name != "whole") | (rows.figures["question"] == 0)))
    _, first, which, counts = np.unique(
        rows.figures[name][places], return_index=True, return_inverse=True, return_counts=True
    )
    for place in np.flatnonzero(first[which] != np.arange(len(places))):
        ties.tie(int(places[place]), int(places[first[which[place]]]))
    return int(counts[counts > 1].sum())


def _tie_near(rows: Rows, ties: _Ties, step: Step) -> int:
    """Tie the rows that ask nearly the same; texts, which ask nothing, where they say nearly the same."""
    asks = rows.figures["question"] != 0
    count = counter(rows)
    questions, texts = _first_of(rows, "question", asks), _first_of(rows, "whole", ~asks)
    alike, says_alike = partial(near.alike, count=count), partial(near.says_alike, count=count)
    # Each with what has to hold of the words in this place; what has the same content is sure.
    searches: tuple[tuple[Iterable[tuple[int, int]], Callable[[str, str], bool] | None, int], ...] = (
        (_with_first(rows, questions), None, 1),
        (turn_ties(rows).tolist(), None, 1),
        (one_word_apart(rows, questions), alike, 1),
        (_with_first(rows, texts), None, 2),
        (repeats.banded(rows, texts)[0].tolist(), says_alike, 2),
    )
    tied: set[int] = set()
    for number, (pairs, holds, place) in enumerate(searches, start=1):
        for one, other in pairs:
            if ties.find(one) != ties.find(other) and (
                holds is None or holds(rows.words(one)[place], rows.words(other)[place])
            ):
                ties.tie(one, other)
                tied |= {one, other}
        step("comparing rows", number, len(searches))
    return len(tied)


def _first_of(rows: Rows, figure: str, among: Mask) -> Pairs:
    """Return the rows of `among` that are the first with their figure."""
    places = np.flatnonzero(among)
    _, first = np.unique(rows.figures[figure][places], return_index=True)
    return places[np.sort(first)]


def _with_first(rows: Rows, places: Pairs) -> Iterable[tuple[int, int]]:
    """Return each row of `places` with the first of them whose words carry the same meaning."""
    asked = rows.figures["asked"][places]
    _, first, which = np.unique(asked, return_index=True, return_inverse=True)
    later = (first[which] != np.arange(len(places))) & (asked != 0)
    return zip(places[first[which[later]]].tolist(), places[later].tolist(), strict=True)


def _chosen(rows: Rows, leaders: npt.NDArray[np.int64], *, share: float, seed: int, tasks: Sequence[str]) -> Mask:
    """Return the rows of the groups that rank first, until each task has enough; its last group is always learnt."""
    named = np.where(rows.figures["question"] != 0, rows.figures["question"], rows.figures["whole"])
    groups, which = np.unique(leaders, return_inverse=True)
    names = np.full(len(groups), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(names, which, named)
    rank = [hashlib.sha256(f"{seed}\0{name}".encode()).digest() for name in names.tolist()]
    ranked = sorted(range(len(groups)), key=rank.__getitem__)
    sizes_by_task: dict[str, Counter[int]] = {}
    for task, group in zip(tasks or [""] * len(leaders), which.tolist(), strict=True):
        sizes_by_task.setdefault(task, Counter())[group] += 1
    held: set[int] = set()
    for sizes in sizes_by_task.values():
        wanted = round(share * sizes.total())
        # A group may have rows of several tasks; what an earlier task has held out counts for this one too.
        count = sum(sizes[group] for group in held)
        for group in [group for group in ranked if group in sizes][:-1]:
            if group not in held and count < wanted and count + sizes[group] <= 2 * wanted:
                held.add(group)
                count += sizes[group]
    return np.isin(which, np.array(sorted(held), dtype=np.int64))
