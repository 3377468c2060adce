"""Proximal policy optimization: what each sampled token earned beyond what was expected of it, and how to use it.

Sequences are replies, their supervised tokens the sampled ones, in order; M counts those of all replies. V(t) is what
the scalar head expects of a reply before token t was said.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fledge.objective.policy import metrics_of
from fledge.objective.scored import Loss, Mean, Scored

_NEARLY_ZERO = 1e-8


def token_rewards(
    worth_S: Tensor, sequence_M: Tensor, old_M: Tensor, reference_M: Tensor, *, kl_weight: float
) -> Tensor:
    """Return what each token is rewarded with [M]: -kl_weight (log p_old - log p_reference), the last one the worth of
    its reply as well (Ziegler et al. 2019, arXiv 1909.08593, eq. 2; Ouyang et al. 2022, arXiv 2203.02155, eq. 2).
    """
    reward_M = -kl_weight * (old_M - reference_M)
    last_S = torch.bincount(sequence_M, minlength=len(worth_S)).cumsum(0) - 1
    return reward_M.index_add(0, last_S, worth_S.to(reward_M.dtype))


def advantages(
    reward_M: Tensor, value_M: Tensor, sequence_M: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return (advantages, returns) [M] of sampled tokens, the returns being what V should have said.

    A(t) = sum over l of (discount gae_lambda)^l d(t + l), d(t) = r(t) + discount V(t + 1) - V(t), V = 0 behind the last
    token: generalized advantage estimation, Schulman et al. 2015, arXiv 1506.02438, eq. 16. Returns are A + V.
    """
    found = [0.0] * len(reward_M)
    rewards, values, sequences = reward_M.tolist(), value_M.tolist(), sequence_M.tolist()
    for t in reversed(range(len(found))):
        goes_on = t + 1 < len(found) and sequences[t + 1] == sequences[t]
        next_value, next_advantage = (values[t + 1], found[t + 1]) if goes_on else (0.0, 0.0)
        surprise = rewards[t] + discount * next_value - values[t]
        found[t] = surprise + discount * gae_lambda * next_advantage
    advantage_M = torch.tensor(found, dtype=value_M.dtype)
    return advantage_M, advantage_M + value_M


def whitened(values_M: Tensor) -> Tensor:
    """Return the values less their mean, over their standard deviation (of a sample: divided by M - 1)."""
    if len(values_M) < 2:
        return torch.zeros_like(values_M)
    return (values_M - values_M.mean()) * torch.rsqrt(values_M.var() + _NEARLY_ZERO)


def ppo(
    scored: Scored,
    *,
    clip_low: float,
    clip_high: float,
    value_clip: float,
    value_weight: float,
    max_ratio: float = math.inf,
) -> Loss:
    """Return the mean over sampled tokens of -min(A q, A clamp(q, 1 - clip_low, 1 + clip_high)) + value_weight L_V.

    q = p / p_old, A the advantage: Schulman et al. 2017, arXiv 1707.06347, eq. 7. L_V = max((V - R)^2, (V' - R)^2) / 2
    with the return R and V' = V kept within value_clip of what it was: eq. 9, clipped as in its authors' code (Huang et
    al. 2022, "The 37 implementation details of PPO", detail 9). Of the supervised tokens it takes the numbers `old`
    (log p when they were sampled), `advantage`, `return` and `value` (V then); with `sampled` (log p as the sampler saw
    it) the first term counts min(p_old / p_sampled, max_ratio) times, as in `policy.grpo`.
    """
    assert scored.values_M is not None, "the objective needs a scalar head"
    told = scored.tokens_M
    log_ratio = scored.logps_M - told["old"].to(scored.logps_M.dtype)
    ratio, advantage = log_ratio.exp(), told["advantage"].to(log_ratio.dtype)
    gain, clipped_gain = advantage * ratio, advantage * ratio.clamp(1 - clip_low, 1 + clip_high)
    policy = -torch.minimum(gain, clipped_gain)
    if "sampled" in told:
        policy = policy * torch.exp(told["old"] - told["sampled"]).clamp(max=max_ratio).to(policy.dtype)
    value, before = scored.values_M, told["value"].to(scored.values_M.dtype)
    goal = told["return"].to(value.dtype)
    near = before + (value - before).clamp(-value_clip, value_clip)
    error = 0.5 * torch.maximum((value - goal) ** 2, (near - goal) ** 2)
    losses = (policy + value_weight * error) * scored.weight_M
    held_M = (gain > clipped_gain).detach()
    metrics = metrics_of(scored, ratio.detach(), held_M) | {"value_loss": Mean.of(error)}
    return Loss(losses.sum() / scored.step_weight, metrics)
