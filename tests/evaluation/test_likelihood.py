"""Perplexity and the verdict on texts: against the plain formula, all signs counted one by one, and simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fledge.evaluation.likelihood import PassageLoss, compare_texts, perplexity
from fledge.evaluation.verdict import Outcome


def losses(nats: list[float], *, tokens: int = 10, passages: int = 1) -> list[PassageLoss]:
    """Return the losses of some texts, each in so many equal passages."""
    return [
        PassageLoss(f"t{n}:{part}", f"t{n}", value / passages, tokens // passages)
        for n, value in enumerate(nats)
        for part in range(passages)
    ]


def test_perplexity_is_that_of_all_tokens_together() -> None:
    both = [PassageLoss("a", "a", 20.0, 10), PassageLoss("b", "b", 10.0, 20)]
    assert perplexity(both) == pytest.approx(math.exp(1.0))
    assert perplexity(losses([1e6])) == math.inf


@pytest.mark.parametrize("passages", [1, 5])
def test_a_change_is_told_with_its_size_and_its_sign(passages: int) -> None:
    before = losses([30.0, 28.0, 33.0, 31.0, 29.0, 35.0, 30.0], passages=passages)
    after = losses([25.0, 22.0, 28.5, 25.0, 25.0, 29.0, 26.0], passages=passages)
    found = compare_texts(before, after)
    assert found.outcome is Outcome.BETTER
    assert found.change == pytest.approx(perplexity(after) / perplexity(before) - 1)
    assert found.interval[0] < found.change < found.interval[1] < 0
    assert "7 texts (70 tokens)" in found.why and f"{-100 * found.change:.1f} % lower" in found.why
    back = compare_texts(after, before)
    assert (back.outcome, back.p_value) == (Outcome.WORSE, found.p_value)


def test_few_texts_and_no_difference() -> None:
    assert compare_texts(losses([9.0] * 5), losses([1.0] * 5)).outcome is Outcome.TOO_FEW_ROWS
    same = compare_texts(losses([9.0] * 8), losses([9.0] * 8))
    assert (same.outcome, same.p_value, same.change) == (Outcome.SAME, 1.0, 0.0)
    # Passages of one text are one thing: five texts stay too few in however many passages.
    assert compare_texts(losses([9.0] * 5, passages=5), losses([1.0] * 5, passages=5)).outcome is Outcome.TOO_FEW_ROWS


def test_the_p_value_counts_all_signs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        before, after = rng.normal(30, 3, 8), rng.normal(29, 3, 8)
        found = compare_texts(losses(before.tolist()), losses(after.tolist()))
        difference = before - after
        signed = [abs(np.dot(signs, difference)) for signs in itertools.product((-1, 1), repeat=8)]
        exact = np.mean([value >= abs(difference.sum()) - 1e-9 for value in signed])
        assert found.p_value == pytest.approx(exact, abs=0.02)


def test_chance_alone_seldom_makes_a_verdict_and_the_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    alarms, held = 0, 0
    for _ in range(400):
        before = rng.normal(300, 20, 12)
        after = before + rng.normal(-10, 15, 12)
        found = compare_texts(losses(before.tolist(), tokens=100), losses(after.tolist(), tokens=100))
        held += found.interval[0] <= math.expm1(-0.1) <= found.interval[1]
        mixed = before + rng.normal(0, 15, 12)
        alarms += compare_texts(losses(before.tolist()), losses(mixed.tolist())).outcome is not Outcome.SAME
    assert alarms / 400 <= 0.08
    assert held / 400 >= 0.88
