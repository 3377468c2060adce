"""What is wrong between rows: (nearly) the same row twice, two answers to one question, evaluation rows learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fledge.data.checks import near
from fledge.data.checks.look import Rows
from fledge.data.checks.same import counter, one_word_apart, same_content, turn_ties
from fledge.data.checks.view import quoted, warning
from fledge.errors import Finding

# So many candidates a band gives, so many are compared in all, and so many for one held-out row and band.
MAX_PAIRS_A_BAND = 500_000
MAX_COMPARED = 400_000
EACH_BAND = 64
# Of more rows that ask the same not all are compared; of a text held out so many learnt ones are.
SMALL_GROUP, TEXTS_TRIED = 12, 16

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
    count = counter(rows)
    found: list[Repeat] = []
    told: set[int] = set()
    for done, (a, b) in enumerate(pairs.tolist(), start=1):
        one, other = sorted((a, b))
        if other not in told and _say_the_same(rows, one, other, count):
            told.add(other)
            there = rows.words(one)[0]
            origin, asked, said, _ = rows.words(other)
            message = f"says nearly the same as {there}: {quoted(asked or said, longest=50)}."
            remedy = "Keep one of them, unless both are meant."
            found.append(Repeat(other, one, warning("data.near_duplicate", origin, message, remedy)))
        step(done, len(pairs))
    return sorted(found, key=lambda repeat: repeat.row), whole


def _say_the_same(rows: Rows, one: int, other: int, count: near.Count) -> bool:
    _, question, answer, _ = rows.words(one)
    _, asked, said, _ = rows.words(other)
    return near.alike(question, asked, count=count) and near.says_alike(answer, said, count=count)


def candidates(rows: Rows, places: Places) -> tuple[Places, bool]:
    """Return pairs of rows that may say nearly the same, and whether these are all.

    Rows with a question ask the same, or the same but for a slip; where many ask the same, and of texts, which ask
    nothing, those come that agree in some band of their sketches, the likeliest first.
    """
    asks = rows.figures["question"][places] != 0
    sure = list(same_content(rows, places[asks], most=SMALL_GROUP))
    sure += one_word_apart(rows, places[asks])
    likely, whole = banded(rows, places)
    pairs = np.concatenate([np.array(sure, dtype=np.int64).reshape(-1, 2), likely])
    return pairs, whole


def banded(rows: Rows, places: Places) -> tuple[Places, bool]:
    """Return pairs of rows that ask the same, if anything, and agree in some band, those first that agree in most."""
    packed: list[Places] = []
    whole = True
    asked = np.where(rows.figures["question"] != 0, rows.figures["asked"], 0)[places]
    # Only what asks the same can say the same: of each question the rows are paired among themselves.
    _, which, counts = np.unique(asked, return_inverse=True, return_counts=True)
    several = (counts[which] > 1) & ((asked == 0) | (counts[which] > SMALL_GROUP))
    places, which = places[several], which[several].astype(np.uint32)
    columns = [rows.column("bands", band)[places] for band in range(2)]
    for band in range(near.BANDS):
        ours = (columns[0] ^ (which * np.uint32(0x9E3779B1))).astype(np.uint32)
        pairs = near.neighbours(ours, places, most=MAX_PAIRS_A_BAND, then=columns[1])
        whole &= len(pairs) < MAX_PAIRS_A_BAND
        packed.append((pairs.min(axis=1) << 32) | pairs.max(axis=1))
        columns = [columns[1], rows.column("bands", (band + 2) % near.BANDS)[places]]
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


NEARLY_ASKED = "asks nearly what {} asks"
NEARLY_SAID = "says nearly what {} says"
TURN_ASKED = "asks what a turn of {} asks"


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
    if len(learnt) and len(held):
        for row, before, what in _near_leaks(rows, train, held_out, found, step):
            there = rows.origin(before)
            origin, question, said, _ = rows.words(row)
            message = f"{what.format(there)}: {quoted(question or said, longest=50)}"
            found[row] = Repeat(row, before, _leak(origin, message))
    return [found[row] for row in sorted(found)]


def _near_leaks(
    rows: Rows, train: Mask, held_out: Mask, found: Mapping[int, Repeat], step: Step
) -> Iterator[tuple[int, int, str]]:
    """Yield (row, learnt row, how that is said) of rows held out that are not in `found` yet."""
    asks = rows.figures["question"] != 0
    count = counter(rows)
    learnt, held = np.flatnonzero(train & asks), np.flatnonzero(held_out & asks & (rows.figures["asked"] != 0))
    keys, first = np.unique(rows.figures["asked"][learnt], return_index=True)
    places = np.minimum(np.searchsorted(keys, rows.figures["asked"][held]), max(0, len(keys) - 1))
    for row, place in zip(held.tolist(), places.tolist(), strict=True):
        if len(keys) and keys[place] == rows.figures["asked"][row] and row not in found:
            yield row, int(learnt[first[place]]), NEARLY_ASKED
    for one, other in turn_ties(rows).tolist():
        row, before = (one, other) if held_out[one] else (other, one)
        if held_out[row] and train[before] and row not in found:
            what = TURN_ASKED if rows.figures["turns"][before] > 1 else "has a turn that asks what {} asks"
            yield row, before, what
    step(1, 3)
    for before, row in one_word_apart(rows, np.concatenate([learnt, held]), sides=held_out):
        if row not in found and near.alike(rows.words(before)[1], rows.words(row)[1], count=count):
            yield row, before, NEARLY_ASKED
    step(2, 3)
    for row, before in _texts_met(rows, np.flatnonzero(train & ~asks), np.flatnonzero(held_out & ~asks)):
        if row not in found and near.says_alike(rows.words(before)[2], rows.words(row)[2], count=count):
            yield row, before, NEARLY_SAID
    step(3, 3)


def _texts_met(rows: Rows, learnt: Places, held: Places) -> list[tuple[int, int]]:
    """Return (text held out, learnt text) that may say nearly the same, of each the likeliest TEXTS_TRIED first."""
    if not len(learnt) or not len(held):
        return []
    met: Counter[tuple[int, int]] = Counter()
    for column, of in ((rows.figures["asked"], 1), *((rows.column("bands", band), 0) for band in range(near.BANDS))):
        for place, other in near.matches(column[learnt], column[held], each=EACH_BAND).tolist():
            met[int(held[place]), int(learnt[other])] += 1 + of * near.BANDS
    tried: Counter[int] = Counter()
    likely = []
    for row, before in sorted(met, key=lambda pair: (-met[pair], pair)):
        tried[row] += 1
        if tried[row] <= TEXTS_TRIED:
            likely.append((row, before))
    return likely


def _leak(origin: str, what: str) -> Finding:
    remedy = "Take it out of one of the two: a right answer to it proves nothing."
    return warning("data.leak", origin, f"{what}.", remedy)
