"""Which of several ways to answer is worth having: the easiest that none is measurably better than."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# From the easiest to have to the most work. What is trained has to be trained again when facts change.
ARMS = ("prompt", "few_shot", "rag", "tuned", "tuned_rag")
RETRIEVING = frozenset(("rag", "tuned_rag"))
TRAINED = frozenset(("tuned", "tuned_rag"))
NAMES = {
    "prompt": "a prompt alone",
    "few_shot": "a prompt with examples",
    "rag": "retrieval",
    "tuned": "training",
    "tuned_rag": "training and retrieval together",
}
# Below this a way is no good, however it compares.
GOOD = 0.5
MIN_ROWS = 10


@dataclass(frozen=True)
class Tried:
    """What one arm reached on the rows: which were right, in order, and what an answer cost.

    seconds: of one answer, asked alone. tokens: read and written for one answer.
    """

    arm: str
    right: tuple[bool, ...]
    seconds: float
    tokens: float

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)


@dataclass(frozen=True)
class Difference:
    """Whether one arm is measurably better than another on the same rows. few: so few rows that none could be."""

    better: bool
    few: bool
    p_value: float


# (before, after) -> is after better?
Compare = Callable[[Sequence[bool], Sequence[bool]], Difference]


@dataclass(frozen=True)
class Advice:
    """The arm to take, and why, in words."""

    arm: str
    words: str
    why: str


def advise(tried: Sequence[Tried], compare: Compare) -> Advice:
    """Return the first of ARMS than which the best is not measurably better, by a paired test on the same rows."""
    ordered = sorted(tried, key=lambda one: ARMS.index(one.arm))
    best = max(ordered, key=lambda one: one.accuracy)
    for one in ordered:
        found = compare(one.right, best.right)
        if one is best or not found.better:
            return Advice(one.arm, _words(one), _why(one, best, found, ordered))
    raise AssertionError("the best is never measurably better than itself")


def _words(one: Tried) -> str:
    if one.accuracy < GOOD:
        return (
            f"None is good enough; {NAMES[one.arm]} does as well as any. More rows, or a larger model, before "
            "anything else."
        )
    return f"Train: {NAMES[one.arm]}." if one.arm in TRAINED else f"Don't train: {NAMES[one.arm]} will do."


def _why(one: Tried, best: Tried, found: Difference, ordered: Sequence[Tried]) -> str:
    rows = len(one.right)
    why = f"It answers {one.accuracy:.0%} of {rows} rows right"
    if one is not best:
        sure = " with so few rows" if found.few else ""
        why += (
            f"; {NAMES[best.arm]} answers {best.accuracy:.0%}, which{sure} is not measurably better "
            f"(p = {found.p_value:.2g}) and is more work"
        )
    easier = [other for other in ordered if ARMS.index(other.arm) < ARMS.index(one.arm)]
    if easier:
        nearest = max(easier, key=lambda other: other.accuracy)
        why += f"; without it {NAMES[nearest.arm]} answers {nearest.accuracy:.0%}"
    return why + "."
