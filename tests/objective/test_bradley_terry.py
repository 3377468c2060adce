"""The objective of models that score answers is its papers' formula."""

from __future__ import annotations

import math

import pytest
import torch

from fledge.objective import OBJECTIVES
from fledge.objective.reward import reward
from fledge.objective.scored import Scored

KNOBS = {"margin": 0.4, "label_smoothing": 0.1, "centre_weight": 0.05}


def scored_of(values: list[float], *, rows: int = 3, lengths: tuple[int, ...] = ()) -> Scored:
    """Return what is known of answers with these values at their ends, in float64 with gradient."""
    lengths = lengths or (1,) * len(values)
    sequence = torch.repeat_interleave(torch.arange(len(values)), torch.tensor(lengths))
    flat = torch.full((len(sequence),), 99.0, dtype=torch.float64)
    flat[torch.tensor(lengths).cumsum(0) - 1] = torch.tensor(values, dtype=torch.float64)
    nothing = torch.zeros(len(sequence), dtype=torch.float64)
    return Scored(nothing, sequence, nothing + 1, {}, 1.0, len(values), rows, values_M=flat.requires_grad_())


def by_hand(values: list[float], rows: int) -> float:
    total = 0.0
    for chosen, rejected in zip(values[0::2], values[1::2], strict=True):
        wins = 1 / (1 + math.exp(-(chosen - rejected - 0.4)))
        total += -0.9 * math.log(wins) - 0.1 * math.log(1 - wins) + 0.05 * (chosen + rejected) ** 2
    return total / rows


def test_the_loss_is_the_papers() -> None:
    values = [1.5, -0.3, 0.2, 0.9, -2.0, -2.5]
    loss = OBJECTIVES["reward"].make(KNOBS)(scored_of(values))
    assert float(loss.value.detach()) == pytest.approx(by_hand(values, 3), rel=1e-12)
    told = {name: mean.total / mean.count for name, mean in loss.metrics.items()}
    assert told["accuracy"] == pytest.approx(2 / 3)
    assert told["margin"] == pytest.approx((1.8 - 0.7 + 0.5) / 3)
    assert (told["score_chosen"], told["score_rejected"]) == pytest.approx((-0.1, -1.9 / 3))
    longer = reward(scored_of(values, lengths=(2, 1, 3, 1, 4, 2)), **KNOBS)
    assert float(longer.value.detach()) == pytest.approx(by_hand(values, 3), rel=1e-12), "the last value counts"


def test_shares_of_pieces_add_up() -> None:
    values = [1.5, -0.3, 0.2, 0.9]
    whole = float(reward(scored_of(values, rows=2), **KNOBS).value.detach())
    parts = [float(reward(scored_of(values[i : i + 2], rows=2), **KNOBS).value.detach()) for i in (0, 2)]
    assert whole == pytest.approx(math.fsum(parts), rel=1e-12)


def test_the_gradient_is_that_of_differences() -> None:
    values = [1.5, -0.3, 0.2, 0.9]
    scored = scored_of(values)
    reward(scored, **KNOBS).value.backward()  # type: ignore[no-untyped-call]
    assert scored.values_M is not None and scored.values_M.grad is not None
    for place in range(4):
        moved = [[v + by * (i == place) for i, v in enumerate(values)] for by in (1e-6, -1e-6)]
        slope = (by_hand(moved[0], 3) - by_hand(moved[1], 3)) / 2e-6
        assert float(scored.values_M.grad[place]) == pytest.approx(slope, rel=1e-6)


def test_what_is_not_told_apart_has_lost_log_2() -> None:
    loss = reward(scored_of([0.0] * 6))
    assert float(loss.value.detach()) == pytest.approx(math.log(2), abs=1e-15)
    assert loss.metrics["accuracy"].total == 1.5, "three guesses"
