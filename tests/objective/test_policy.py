"""Objectives that learn from rewards, against formulas written out reply by reply in float64."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.objective.policy import group_advantages, grpo, leave_one_out, rloo
from fledge.objective.scored import Scored

KNOBS: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.28, "max_ratio": 2.0}
GRPO = KNOBS | {"kl_weight": 0.04, "loss": "grpo", "max_tokens": 9}
Reply = dict[str, Any]


def replies_of(seed: int, count: int = 6) -> list[Reply]:
    """Random replies: their log-probabilities now, when they were drawn, as the sampler saw them, and as it was."""
    numbers = random.Random(seed)
    found = []
    for _ in range(count):
        length = numbers.randint(1, 9)
        now = [-numbers.expovariate(1) for _ in range(length)]
        moved = [[x + numbers.gauss(0, 0.4) for x in now] for _ in range(3)]
        found.append(
            {"now": now, "old": moved[0], "sampled": moved[1], "reference": moved[2], "a": numbers.gauss(0, 1)}
        )
    return found


def scored_of(replies: list[Reply], *, rows: int = 0, weight: float = 0.0, only: tuple[str, ...] = ()) -> Scored:
    """The replies as an objective is given them; `only`: the numbers of tokens that it is told."""
    flat = {name: [x for reply in replies for x in reply[name]] for name in ("now", "old", "sampled", "reference")}
    told = only or ("old", "sampled", "reference")
    return Scored(
        torch.tensor(flat["now"], dtype=torch.float64).requires_grad_(),
        torch.tensor([s for s, reply in enumerate(replies) for _ in reply["now"]]),
        torch.ones(len(flat["now"])),
        {"advantage": torch.tensor([reply["a"] for reply in replies], dtype=torch.float64)},
        step_weight=weight or float(len(flat["now"])),
        num_sequences=len(replies),
        step_rows=rows or len(replies),
        tokens_M={name: torch.tensor(flat[name], dtype=torch.float64) for name in told},
    )


def clipped(ratio: float, advantage: float) -> float:
    return min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)


def token_losses(reply: Reply, *, kl_weight: float) -> list[float]:
    losses = []
    for now, old, sampled, reference in zip(
        reply["now"], reply["old"], reply["sampled"], reply["reference"], strict=True
    ):
        loss = -min(math.exp(old - sampled), 2.0) * clipped(math.exp(now - old), reply["a"])
        losses.append(loss + kl_weight * (math.exp(reference - now) - (reference - now) - 1))
    return losses


def expected_grpo(replies: list[Reply], loss: str, kl_weight: float) -> float:
    each = [token_losses(reply, kl_weight=kl_weight) for reply in replies]
    if loss == "grpo":
        return sum(sum(own) / len(own) for own in each) / len(each)
    return sum(map(sum, each)) / (sum(map(len, each)) if loss == "dapo" else len(each) * 9)


def expected_rloo(replies: list[Reply]) -> float:
    total = 0.0
    for reply in replies:
        now, old, sampled = (math.fsum(reply[name]) for name in ("now", "old", "sampled"))
        total -= min(math.exp(old - sampled), 2.0) * clipped(math.exp(now - old), reply["a"])
    return total / len(replies)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("kl_weight", [0.0, 0.04])
@pytest.mark.parametrize("seed", range(4))
def test_grpo_is_the_formula_of_its_papers(loss: str, kl_weight: float, seed: int) -> None:
    replies = replies_of(seed)
    found = grpo(scored_of(replies), **GRPO | {"loss": loss, "kl_weight": kl_weight})
    assert float(found.value.detach()) == pytest.approx(expected_grpo(replies, loss, kl_weight), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_rloo_is_the_formula_of_its_paper(seed: int) -> None:
    replies = replies_of(seed)
    found = float(rloo(scored_of(replies), **KNOBS).value.detach())
    assert found == pytest.approx(expected_rloo(replies), abs=1e-12)


@pytest.mark.parametrize("objective", ["grpo", "dapo", "dr_grpo", "rloo"])
def test_gradients_are_those_of_small_differences(objective: str) -> None:
    replies = replies_of(5)
    knobs = KNOBS if objective == "rloo" else GRPO | {"loss": objective}
    function = rloo if objective == "rloo" else grpo

    def value(logps: torch.Tensor) -> torch.Tensor:
        return function(replace(scored_of(replies), logps_M=logps), **knobs).value

    assert torch.autograd.gradcheck(value, scored_of(replies).logps_M)


@pytest.mark.parametrize("objective", ["grpo", "dapo", "dr_grpo", "rloo"])
def test_pieces_of_a_step_add_up(objective: str) -> None:
    replies = replies_of(7)
    weight = float(sum(len(reply["now"]) for reply in replies))
    knobs = KNOBS if objective == "rloo" else GRPO | {"loss": objective}
    function = rloo if objective == "rloo" else grpo
    whole = float(function(scored_of(replies), **knobs).value.detach())
    parts = [scored_of(part, rows=6, weight=weight) for part in (replies[:2], replies[2:])]
    assert sum(float(function(part, **knobs).value.detach()) for part in parts) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("objective", ["grpo", "dapo", "dr_grpo", "rloo"])
def test_a_first_update_is_the_plain_policy_gradient(objective: str) -> None:
    """With rho = 1 and a sampler that agrees, the gradient is that of -A log p, whatever is clipped."""
    replies = replies_of(3)
    knobs = KNOBS if objective == "rloo" else GRPO | {"loss": objective, "kl_weight": 0.0}
    scored = scored_of(replies, only=("reference",))
    (rloo if objective == "rloo" else grpo)(scored, **knobs).value.backward()
    over = {
        "grpo": lambda n: 6 * n,
        "dapo": lambda n: len(scored.logps_M),
        "dr_grpo": lambda n: 54,
        "rloo": lambda n: 6,
    }
    wanted = [-reply["a"] / over[objective](len(reply["now"])) for reply in replies for _ in reply["now"]]
    assert scored.logps_M.grad is not None
    assert torch.allclose(scored.logps_M.grad, torch.tensor(wanted, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 7e8])
@pytest.mark.parametrize("group", [2, 3, 8])
def test_equal_rewards_give_exactly_no_gradient(value: float, group: int) -> None:
    for advantages in (
        group_advantages([value] * group, scale=True),
        group_advantages([value] * group, scale=False),
        leave_one_out([value] * group),
    ):
        assert advantages == [0.0] * group
        replies = [reply | {"a": a} for reply, a in zip(replies_of(1, group), advantages, strict=True)]
        for scored, function, knobs in (
            (scored_of(replies), grpo, GRPO | {"kl_weight": 0.0}),
            (scored_of(replies), rloo, KNOBS),
        ):
            function(scored, **knobs).value.backward()
            assert scored.logps_M.grad is not None and not scored.logps_M.grad.any()


rewards = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=2, max_size=9)


@given(rewards)
@settings(deadline=None)
def test_advantages_of_a_group(given_rewards: list[float]) -> None:
    count = len(given_rewards)
    centred = group_advantages(given_rewards, scale=False)
    apart = leave_one_out(given_rewards)
    assert sum(centred) == pytest.approx(0, abs=1e-9)
    # Leaving one out is the centred reward, larger by n / (n - 1).
    assert apart == pytest.approx([a * count / (count - 1) for a in centred], abs=1e-9)
    for reward, advantage, i in zip(given_rewards, apart, range(count), strict=True):
        others = [r for j, r in enumerate(given_rewards) if j != i]
        assert advantage == pytest.approx(reward - sum(others) / len(others), abs=1e-9)
    scaled = torch.tensor(group_advantages(given_rewards, scale=True), dtype=torch.float64)
    exact = torch.tensor(given_rewards, dtype=torch.float64)
    assert torch.allclose(scaled, (exact - exact.mean()) / (exact.std() + 1e-4), atol=1e-9)


def test_what_a_step_tells() -> None:
    replies = replies_of(2)
    scored = scored_of(replies)
    columns = {**scored.columns_S, "reward": torch.arange(6.0, dtype=torch.float64)}
    nothing_asked = scored.tokens_M["reference"].clone()
    nothing_asked[len(replies[0]["now"]) :] = math.nan
    scored = replace(scored, columns_S=columns, tokens_M={**scored.tokens_M, "reference": nothing_asked})
    told = grpo(scored, **GRPO | {"kl_weight": 0.0}).metrics
    assert told["reward"].total / told["reward"].count == 2.5
    assert told["length"].total == len(scored.logps_M)
    first = replies[0]
    apart = [r - n for r, n in zip(first["reference"], first["now"], strict=True)]
    assert told["kl"].count == len(apart), "of one reply the reference was asked"
    assert told["kl"].total == pytest.approx(sum(math.exp(d) - d - 1 for d in apart), abs=1e-12)
    ratios = [(math.exp(n - o), r["a"]) for r in replies for n, o in zip(r["now"], r["old"], strict=True)]
    held = sum((ratio > 1.28 and a > 0) or (ratio < 0.8 and a < 0) for ratio, a in ratios)
    assert 0 < held == told["clipped"].total
