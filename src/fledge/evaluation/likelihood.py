"""How well a model foretells texts: perplexity, and a paired verdict on whether another foretells them better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fledge.evaluation.proportion import Z_95, Interval, number_groups
from fledge.evaluation.verdict import ALPHA, MIN_CHANGED, Outcome, sign_flip_p

# Differences are counted in so many steps of the largest, so that all signs of them can be counted exactly.
STEPS = 200


@dataclass(frozen=True)
class PassageLoss:
    """How well one passage was foretold: the negative log-likelihood of its `tokens`, summed, in nats.

    group: passages of one text weigh as one thing.
    """

    where: str
    group: str
    nats: float
    tokens: int


@dataclass(frozen=True)
class TextVerdict:
    """`after` against `before`, on the same passages. `change` is the share by which the perplexity rose, -1 and up;
    `interval` its 95 % interval."""

    outcome: Outcome
    p_value: float
    change: float
    interval: Interval
    why: str


def perplexity(losses: Sequence[PassageLoss]) -> float:
    """Return exp of the mean negative log-likelihood of a token; infinite beyond what a float holds."""
    mean = math.fsum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)
    return math.exp(mean) if mean < 700 else math.inf


def compare_texts(before: Sequence[PassageLoss], after: Sequence[PassageLoss]) -> TextVerdict:
    """Compare how well two models foretell the same texts, text by text.

    `better` and `worse` mean p < 0.05 under random signs of each text's difference (`sign_flip_p`), which are counted
    in steps of 1/200 of the largest. Fewer than 6 texts are too few. The interval is that of a ratio of sums over texts
    (Cochran, Sampling Techniques, 3rd ed., 6.3), differences in nats over tokens. Models with other vocabularies
    compare too: what counts is the likelihood of the same words, per token of `after`.
    """
    assert [loss.where for loss in before] == [loss.where for loss in after], "both models must have read the same"
    group_P = number_groups([loss.group for loss in after])
    nats_G = np.bincount(group_P, weights=[b.nats - a.nats for b, a in zip(before, after, strict=True)])
    tokens_G = np.bincount(group_P, weights=[loss.tokens for loss in after])
    count, tokens = len(nats_G), float(tokens_G.sum())
    gain = float(nats_G.sum()) / tokens
    largest = float(np.abs(nats_G).max())
    steps_G = np.rint(nats_G / largest * STEPS).astype(np.int64) if largest else np.zeros(count, dtype=np.int64)
    p_value = sign_flip_p(steps_G)
    spread = math.sqrt(float(((nats_G - gain * tokens_G) ** 2).sum()) * count / max(1, count - 1)) / tokens
    low, high = (math.expm1(-(gain + side * Z_95 * spread)) for side in (1, -1))
    if count < MIN_CHANGED:
        outcome = Outcome.TOO_FEW_ROWS
    elif p_value < ALPHA:
        outcome = Outcome.BETTER if gain > 0 else Outcome.WORSE
    else:
        outcome = Outcome.SAME
    change = math.expm1(-gain)
    told = f"{count} text{'s' if count > 1 else ''} ({tokens:,.0f} tokens)"
    return TextVerdict(outcome, p_value, change, (low, high), _why(outcome, p_value, change, (low, high), told))


def _why(outcome: Outcome, p_value: float, change: float, interval: Interval, units: str) -> str:
    p_text = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
    moved = f"{100 * abs(change):.1f} % {'lower' if change < 0 else 'higher'}"
    if outcome is Outcome.TOO_FEW_ROWS:
        return f"Perplexity is {moved} on {units}; fewer than {MIN_CHANGED} are too few to tell it from chance."
    if outcome is Outcome.SAME:
        return f"No difference in perplexity could be shown on {units}: {moved}, {p_text}."
    low, high = (100 * limit for limit in interval)
    return (
        f"Perplexity is {moved} on {units}, {p_text}; "
        f"the change lies between {low:+.1f} and {high:+.1f} % with 95 % confidence."
    )
