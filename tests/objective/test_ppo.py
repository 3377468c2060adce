"""Advantages and the clipped losses are their papers' formulas, written out here one token at a time."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from fledge.objective.ppo import advantages, ppo, token_rewards, whitened
from fledge.objective.scored import Scored
from fledge.training.critic import Critic

LENGTHS = (4, 1, 6, 2)
CLIPS = {"clip_low": 0.2, "clip_high": 0.3, "value_clip": 0.25, "value_weight": 0.4}


def drawn(seed: int, *, around: float = 0.0, spread: float = 1.0) -> torch.Tensor:
    numbers = random.Random(seed)
    return torch.tensor([numbers.gauss(around, spread) for _ in range(sum(LENGTHS))], dtype=torch.float64)


def sequence() -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))


def split(values_M: torch.Tensor) -> list[list[float]]:
    return [part.tolist() for part in torch.split(values_M, LENGTHS)]


def test_a_token_is_rewarded_with_what_the_papers_say() -> None:
    worth = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    old, reference = drawn(1, around=-2.0), drawn(2, around=-2.0)
    found = split(token_rewards(worth, sequence(), old, reference, kl_weight=0.05))
    for reply, (own, olds, references) in enumerate(zip(found, split(old), split(reference), strict=True)):
        for t, value in enumerate(own):
            at_end = worth[reply].item() if t == len(own) - 1 else 0.0
            assert value == pytest.approx(at_end - 0.05 * (olds[t] - references[t]), rel=1e-12)


@pytest.mark.parametrize(("discount", "gae_lambda"), [(1.0, 0.95), (0.9, 0.7), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_the_sum_of_eq_16(discount: float, gae_lambda: float) -> None:
    rewards, values = drawn(3), drawn(4)
    found, returns = advantages(rewards, values, sequence(), discount=discount, gae_lambda=gae_lambda)
    for own, r, v in zip(split(found), split(rewards), split(values), strict=True):
        ahead = [*v, 0.0]
        surprises = [r[t] + discount * ahead[t + 1] - v[t] for t in range(len(r))]
        for t, value in enumerate(own):
            powers = ((discount * gae_lambda) ** n * surprises[t + n] for n in range(len(r) - t))
            assert value == pytest.approx(math.fsum(powers), rel=1e-12)
    assert torch.equal(returns, found + values)


def test_with_lambda_1_the_return_is_what_came_after() -> None:
    rewards, values = drawn(3), drawn(4)
    _, returns = advantages(rewards, values, sequence(), discount=1.0, gae_lambda=1.0)
    for own, r in zip(split(returns), split(rewards), strict=True):
        assert own == pytest.approx([math.fsum(r[t:]) for t in range(len(r))], rel=1e-12)


def test_whitened() -> None:
    values = drawn(5, around=3.0, spread=2.0)
    mean = math.fsum(values.tolist()) / len(values)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in values.tolist()) / (len(values) - 1))
    assert whitened(values).tolist() == pytest.approx([(x - mean) / deviation for x in values.tolist()], rel=1e-6)
    assert whitened(torch.full((3,), 2.0)).tolist() == [0.0] * 3, "nothing is better than anything"
    assert whitened(torch.tensor([2.0])).tolist() == [0.0]


def scored_of(*, spread: float = 0.4) -> Scored:
    """Replies whose policy and critic have moved so far that some are clipped on either side."""
    old, values = drawn(6, around=-2.0), drawn(7)
    told = {"old": old, "advantage": drawn(8), "return": drawn(9), "value": values}
    weights = torch.ones(len(old), dtype=torch.float64)
    return Scored(
        (old + drawn(10, spread=spread)).requires_grad_(),
        sequence(),
        weights,
        {},
        step_weight=2.0 * len(old),
        num_sequences=len(LENGTHS),
        tokens_M=told,
        values_M=(values + drawn(11, spread=spread)).requires_grad_(),
    )


def by_hand(scored: Scored) -> float:
    assert scored.values_M is not None
    told, total = {name: column.tolist() for name, column in scored.tokens_M.items()}, 0.0
    for t, (logp, value) in enumerate(zip(scored.logps_M.tolist(), scored.values_M.tolist(), strict=True)):
        ratio, gain = math.exp(logp) / math.exp(told["old"][t]), told["advantage"][t]
        clipped = min(max(ratio, 0.8), 1.3)
        policy = -min(ratio * gain, clipped * gain)
        near = min(max(value, told["value"][t] - 0.25), told["value"][t] + 0.25)
        critic = max((value - told["return"][t]) ** 2, (near - told["return"][t]) ** 2) / 2
        total += policy + 0.4 * critic
    return total / scored.step_weight


def test_the_loss_is_the_papers() -> None:
    scored = scored_of()
    loss = ppo(scored, **CLIPS)
    assert float(loss.value.detach()) == pytest.approx(by_hand(scored), rel=1e-12)
    held = loss.metrics["clipped"].total
    assert 0 < held < len(scored.logps_M), "some are clipped and some are not"


def test_the_gradients_are_those_of_differences() -> None:
    scored = scored_of()
    ppo(scored, **CLIPS).value.backward()  # type: ignore[no-untyped-call]
    assert scored.values_M is not None
    for name, leaf in (("logps_M", scored.logps_M), ("values_M", scored.values_M)):
        assert leaf.grad is not None
        for place in range(len(leaf)):
            ends = []
            for by in (1e-6, -1e-6):
                moved = leaf.detach().clone()
                moved[place] += by
                ends.append(by_hand(replace(scored, **{name: moved})))
            assert float(leaf.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-9)


def test_a_sampler_that_computes_otherwise_is_corrected_for() -> None:
    scored = scored_of(spread=0.0)
    told = dict(scored.tokens_M) | {"sampled": scored.tokens_M["old"] + drawn(12)}
    ppo(replace(scored, tokens_M=told), **CLIPS, max_ratio=2.0).value.backward()  # type: ignore[no-untyped-call]
    ratios = [min(math.exp(a - b), 2.0) for a, b in zip(told["old"].tolist(), told["sampled"].tolist(), strict=True)]
    assert 2.0 in ratios and min(ratios) < 1
    gains = scored.tokens_M["advantage"].tolist()
    assert scored.logps_M.grad is not None
    expected = [-w * gain / scored.step_weight for w, gain in zip(ratios, gains, strict=True)]
    assert scored.logps_M.grad.tolist() == pytest.approx(expected, rel=1e-10)


def test_at_the_policy_itself_the_gradient_is_the_policy_gradients() -> None:
    scored = scored_of(spread=0.0)
    assert scored.values_M is not None
    loss = ppo(scored, **CLIPS)
    loss.value.backward()  # type: ignore[no-untyped-call]
    assert scored.logps_M.grad is not None
    expected = -scored.tokens_M["advantage"] / scored.step_weight
    torch.testing.assert_close(scored.logps_M.grad, expected, rtol=1e-12, atol=1e-15)
    assert (loss.metrics["ratio"].total, loss.metrics["clipped"].total) == (sum(LENGTHS), 0)


def test_equal_rewards_that_were_foreseen_give_no_gradient() -> None:
    values = torch.full((sum(LENGTHS),), 0.75, dtype=torch.float64)
    old = drawn(6)
    rewards = token_rewards(torch.full((4,), 0.75), sequence(), old, old, kl_weight=0.1)
    gains, goals = advantages(rewards, values, sequence(), discount=1.0, gae_lambda=0.95)
    scored = replace(
        scored_of(spread=0.0),
        values_M=values.clone().requires_grad_(),
        tokens_M={"old": old, "advantage": gains, "return": goals, "value": values},
    )
    scored = replace(scored, logps_M=old.clone().requires_grad_())
    ppo(scored, **CLIPS).value.backward()  # type: ignore[no-untyped-call]
    assert scored.logps_M.grad is not None and float(scored.logps_M.grad.abs().max()) < 1e-12


def test_replies_are_judged_token_by_token() -> None:
    """What the critic hands on is the formulas above over all replies at once."""
    old, reference, values = drawn(1, around=-2.0), drawn(2, around=-2.0), drawn(4)
    worth = [1.0, -2.0, 0.5, 3.0]
    critic = Critic(discount=0.97, gae_lambda=0.9, kl_weight=0.05)
    gains, returns = critic.judge(worth, split(old), split(reference), split(values))
    rewards = token_rewards(torch.tensor(worth, dtype=torch.float64), sequence(), old, reference, kl_weight=0.05)
    expected, goals = advantages(rewards, values, sequence(), discount=0.97, gae_lambda=0.9)
    assert [x for own in gains for x in own] == pytest.approx(whitened(expected).tolist(), rel=1e-12)
    assert [x for own in returns for x in own] == pytest.approx(goals.tolist(), rel=1e-12)
    assert [len(own) for own in gains] == list(LENGTHS)
    near = Critic(discount=0.97, gae_lambda=0.9, kl_weight=0.0).judge(worth, split(old), [], split(values))
    assert near[1] != returns, "without it nobody asks for the reference"
