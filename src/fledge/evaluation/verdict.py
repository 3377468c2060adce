"""Is one model better than another? A paired verdict on the same rows, which may say that it cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from fledge.evaluation.proportion import Z_95, Interval, effective_rows, number_groups, wilson

ALPHA = 0.05
POWER = 0.8
# The fewest groups that, all changed in one direction, are more than chance: 2 / 2**6 < ALPHA < 2 / 2**5.
MIN_CHANGED = 6
# Of so many groups, MIN_CHANGED can always fall (they hold a right row) or can always rise (they hold a wrong one).
ALWAYS_ENOUGH = 2 * MIN_CHANGED - 1

Rows = npt.NDArray[np.bool_]


class Outcome(StrEnum):
    BETTER = "better"
    SAME = "same"
    WORSE = "worse"
    TOO_FEW_ROWS = "too_few_rows"


@dataclass(frozen=True)
class Verdict:
    """`after` against `before`. `difference` of the accuracies and its 95 % `interval` are -1..1.

    `wins` counts the rows that only `after` got right, `losses` those that only `before` got right.
    """

    outcome: Outcome
    p_value: float
    difference: float
    interval: Interval
    wins: int
    losses: int
    rows: int
    why: str


def compare(before: Sequence[bool], after: Sequence[bool], *, groups: Sequence[str | None] | None = None) -> Verdict:
    """Compare two evaluations of the same rows. Rows of one group weigh as one thing, in the test and the interval.

    `better` and `worse` mean p < 0.05 in `sign_flip_p`. `too_few_rows` means that nothing `after` could have answered
    would have reached that: fewer than 6 groups have a row that `before` got wrong, and fewer than 6 have one that it
    got right. With 11 groups that cannot happen. The outcome rests on the test alone; the interval says how large the
    difference may be.
    """
    assert len(before) == len(after), "both models must have answered the same rows"
    before_R, after_R = np.array(before, dtype=np.bool_), np.array(after, dtype=np.bool_)
    group_R = number_groups(groups if groups is not None else [None] * before_R.size)
    assert group_R.size == before_R.size, "one group per row"
    if before_R.size == 0:
        return Verdict(Outcome.TOO_FEW_ROWS, 1.0, 0.0, (-1.0, 1.0), 0, 0, 0, "There is no row to compare on.")

    change_R = after_R.astype(np.float64) - before_R
    net_G = np.bincount(group_R, weights=change_R).round().astype(np.int64)
    rows = effective_rows(change_R, group_R)
    can_rise, can_fall = np.unique(group_R[~before_R]).size, np.unique(group_R[before_R]).size
    p_value, difference = sign_flip_p(net_G), float(change_R.mean())
    if max(can_rise, can_fall) < MIN_CHANGED:
        outcome = Outcome.TOO_FEW_ROWS
    elif p_value < ALPHA:
        outcome = Outcome.BETTER if difference > 0 else Outcome.WORSE
    else:
        outcome = Outcome.SAME
    verdict = Verdict(
        outcome=outcome,
        p_value=p_value,
        difference=difference,
        interval=newcombe_paired(before_R, after_R, rows),
        wins=int((change_R > 0).sum()),
        losses=int((change_R < 0).sum()),
        rows=before_R.size,
        why="",
    )
    detectable = detectable_difference(float(np.abs(change_R).mean()), rows)
    return replace(verdict, why=_why(verdict, num_groups=net_G.size, can_rise=can_rise, detectable=detectable))


def sign_flip_p(net_G: npt.NDArray[np.int64]) -> float:
    """Return the exact two-sided p of the total of `net_G`, each group's wins minus losses, under random signs.

    If the two models are alike, swapping their answers in a whole group changes nothing, so each sign is a fair coin.
    All 2^G assignments are counted by adding one group at a time to the distribution of the total (Pagano and
    Tritchler, JASA 78, 1983, 435-440), so there is no sampling and no seed. With one row a group this is McNemar's test
    (Psychometrika 12, 1947, 153-157) with exact binomial tails. The mid-p variant would find a little more, but it
    does not bound false alarms (Fagerland, Lydersen and Laake, BMC Med Res Methodol 13:91, 2013), and the first
    thing asked of a verdict is that `better` can be believed.
    """
    chance = np.ones(1)  # chance[k]: that the groups taken so far and drawn as wins sum to k
    for step in np.abs(net_G[net_G != 0]):
        longer = np.zeros(chance.size + int(step))
        longer[: chance.size] = chance / 2
        longer[step:] += chance / 2
        chance = longer
    totals = 2 * np.arange(chance.size) - (chance.size - 1)
    return min(1.0, float(chance[np.abs(totals) >= abs(int(net_G.sum()))].sum()))


def newcombe_paired(before_R: Rows, after_R: Rows, rows: float) -> Interval:
    """Return the 95 % score interval of the paired difference of shares, with `rows` effective rows.

    Method 10 of Newcombe, Statistics in Medicine 17, 1998, 2635-2650: the Wilson limits of the two shares, joined with
    their correlation, which is corrected for continuity where it is positive.
    """
    share_b, share_a = float(before_R.mean()), float(after_R.mean())
    (low_b, high_b), (low_a, high_a) = wilson(share_b, rows), wilson(share_a, rows)
    covariance = float((before_R & after_R).mean()) - share_b * share_a
    if covariance > 0:
        covariance = max(0.0, covariance - 1 / (2 * rows))
    spread = math.sqrt(share_b * (1 - share_b) * share_a * (1 - share_a))
    correlation = covariance / spread if spread else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))

    difference = share_a - share_b
    return difference - reach(share_a - low_a, high_b - share_b), difference + reach(high_a - share_a, share_b - low_b)


def detectable_difference(discordant: float, rows: float) -> float:
    """Return the true difference (0..1) that `rows` effective rows would show in four tries of five.

    Bloom's minimum detectable effect (Evaluation Review 19, 1995, 547-556): z(1 - alpha/2) + z(power) = 2.80 standard
    errors. The standard error of a paired difference is sqrt(discordant / rows), where `discordant` is the share of
    rows on which the models differ, and a difference cannot be larger than that share.
    """
    z = Z_95 + NormalDist().inv_cdf(POWER)
    return min(1.0, max(z * math.sqrt(discordant / rows), z * z / rows))


def _why(verdict: Verdict, *, num_groups: int, can_rise: int, detectable: float) -> str:
    units = f"{verdict.rows} rows" + (f" in {num_groups} groups" if num_groups < verdict.rows else "")
    part = "rows" if num_groups == verdict.rows else "groups"
    p_text = "p < 0.001" if verdict.p_value < 0.001 else f"p = {verdict.p_value:.2g}"
    changed = f"{verdict.wins} won, {verdict.losses} lost, {p_text}"
    if verdict.outcome is Outcome.TOO_FEW_ROWS:
        return (
            f"Too few to tell ({units}): fewer than {MIN_CHANGED} {part} could change in one direction, "
            f"and so few change by chance. With {ALWAYS_ENOUGH} {part} or more there is a verdict."
        )
    if verdict.outcome is Outcome.SAME:
        sentence = (
            f"No difference could be shown with {units} ({changed}); "
            f"a difference of about {100 * detectable:.0f} points would have been found in four tries of five."
        )
        if can_rise < MIN_CHANGED:
            sentence += f" Right already but for {can_rise} of the {part}: harder rows would tell more."
        return sentence
    low, high = (100 * limit for limit in verdict.interval)
    return (
        f"{100 * abs(verdict.difference):.0f} points {verdict.outcome} on {units} ({changed}); "
        f"the difference lies between {low:+.0f} and {high:+.0f} points with 95 % confidence."
    )
