"""What is wrong between rows: (nearly) the same row twice, two answers to one question, evaluation rows learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fledge.data.checks import near
from fledge.data.checks.look import Rows
from fledge.data.checks.view import quoted, warning
from fledge.errors import Finding

# So many candidates a band gives, so many are compared in all, and so many for one held-out row and band.
MAX_PAIRS_A_BAND = 500_000
MAX_COMPARED = 400_000
EACH_BAND = 4

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Repeat:
    """A row that `finding` is about, and the `other` that it repeats; both are places in Rows."""

    row: int
    other: int
    finding: Finding


def exact_duplicates(rows: Rows, among: Mask) -> Iterator[Repeat]:
    """Yield every row of `among` that says word for word what an earlier one of them says."""
    places = np.flatnonzero(among)
    _, first, which = np.unique(rows.figures["whole"][places], return_index=True, return_inverse=True)
    for place in np.flatnonzero(first[which] != np.arange(len(places))):
        row, before = int(places[place]), int(places[first[which[place]]])
        message = f"says the same as {rows.origin(before)}."
        yield Repeat(row, before, warning("data.duplicate", rows.origin(row), message, "Remove it; --fix does."))


def contradictions(rows: Rows, among: Mask) -> Iterator[Repeat]:
    """Yield every row of `among` whose question was answered otherwise by an earlier one."""
    figures = rows.figures
    places = np.flatnonzero(among & (figures["exclusive"] == 1) & (figures["question"] != 0) & (figures["answer"] != 0))
    _, first, which = np.unique(figures["question"][places], return_index=True, return_inverse=True)
    other = figures["answer"][places] != figures["answer"][places[first[which]]] if len(places) else np.zeros(0, bool)
    for place in np.flatnonzero(other):
        row, before = int(places[place]), int(places[first[which[place]]])
        origin, question, _, answer = rows.words(row)
        there, _, _, said = rows.words(before)
        message = f"answers {quoted(question, longest=40)} with {quoted(answer, longest=40)}, "
        message += f"{there} with {quoted(said, longest=40)}."
        yield Repeat(
            row, before, warning("data.contradiction", origin, message, "Keep the right one, or ask more exactly.")
        )


def near_duplicates(rows: Rows, among: Mask, *, step: Step) -> tuple[list[Repeat], bool]:
    """Return the rows of `among` that say nearly what another says, and whether all candidates were compared.

    Rows that are exactly alike are compared once. `step` gets the pairs done and in all.
    """
    places = np.flatnonzero(among)
    _, first = np.unique(rows.figures["whole"][places], return_index=True)
    places = places[np.sort(first)]
    pairs, whole = candidates(rows, places)
    found: list[Repeat] = []
    told: set[int] = set()
    for done, (a, b) in enumerate(pairs, start=1):
        one, other = sorted((int(a), int(b)))
        if other not in told:
            there, question, answer, _ = rows.words(one)
            origin, asked, said, _ = rows.words(other)
            if near.alike(question, asked) and near.alike(answer, said):
                told.add(other)
                message = f"says nearly the same as {there}: {quoted(asked or said, longest=50)}."
                remedy = "Keep one of them, unless both are meant."
                found.append(Repeat(other, one, warning("data.near_duplicate", origin, message, remedy)))
        step(done, len(pairs))
    return sorted(found, key=lambda repeat: repeat.row), whole


def candidates(rows: Rows, places: Places, sketches: str = "bands") -> tuple[Places, bool]:
    """Return pairs of rows that agree in some band, those first that agree in most, and whether these are all.

    sketches: "bands" of what is asked and said, or "questions".
    """
    packed: list[npt.NDArray[np.int64]] = []
    whole = True
    for band in range(near.BANDS):
        pairs = near.neighbours(rows.column(sketches, band)[places], places, most=MAX_PAIRS_A_BAND)
        whole &= len(pairs) < MAX_PAIRS_A_BAND
        packed.append((pairs[:, 0] << 32) | pairs[:, 1])
    keys, agreed = np.unique(np.concatenate(packed), return_counts=True)
    best = np.argsort(-agreed, kind="stable")[:MAX_COMPARED]
    chosen = keys[best]
    return np.stack([chosen >> 32, chosen & 0xFFFFFFFF], axis=1), whole and len(keys) <= MAX_COMPARED


# The figures that tie a held-out row to one that is learnt, in this order, and how that is said.
TIES = {
    "question": "asks what {} asks, which is learnt",
    "whole": "stands in {} too, which is learnt",
    "group": "is of one group with {}, which is learnt",
}


def leaks(rows: Rows, train: Mask, held_out: Mask, *, step: Step) -> list[Repeat]:
    """Return the rows held out whose question, or nearly it, is learnt too, or whose group is; one entry a row."""
    learnt, held = np.flatnonzero(train), np.flatnonzero(held_out)
    found: dict[int, Repeat] = {}
    for name, what in TIES.items():
        keys, first = np.unique(rows.figures[name][learnt], return_index=True)
        wanted = rows.figures[name][held]
        places = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
        tied = (keys[places] == wanted) & (wanted != 0) if len(keys) else np.zeros(len(held), dtype=np.bool_)
        for place in np.flatnonzero(tied):
            row = int(held[place])
            if row not in found:
                before = int(learnt[first[places[place]]])
                found[row] = Repeat(row, before, _leak(rows.origin(row), what.format(rows.origin(before))))
    asks = rows.figures["question"][held] != 0
    rest = np.array([row for row in held[asks] if int(row) not in found], dtype=np.int64)
    if len(rest) and len(learnt):
        _near_leaks(rows, learnt, rest, found, step=step)
    return [found[row] for row in sorted(found)]


def _near_leaks(rows: Rows, learnt: Places, rest: Places, found: dict[int, Repeat], *, step: Step) -> None:
    """Add those of `rest` to `found` that ask nearly what a learnt row asks."""
    tried: set[tuple[int, int]] = set()
    for band in range(near.BANDS):
        column = rows.column("questions", band)
        for place, other in near.matches(column[learnt], column[rest], each=EACH_BAND).tolist():
            row, before = int(rest[place]), int(learnt[other])
            if row in found or (row, before) in tried:
                continue
            tried.add((row, before))
            origin, question, _, _ = rows.words(row)
            there, asked, _, _ = rows.words(before)
            if near.alike(question, asked):
                what = f"asks nearly what {there} asks: {quoted(question, longest=50)}"
                found[row] = Repeat(row, before, _leak(origin, what))
        step(band + 1, near.BANDS)


def _leak(origin: str, what: str) -> Finding:
    remedy = "Take it out of one of the two: a right answer to it proves nothing."
    return warning("data.leak", origin, f"{what}.", remedy)
