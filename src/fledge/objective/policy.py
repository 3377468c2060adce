"""Objectives that learn from rewards of sampled replies: GRPO with its variants, RLOO, and the advantages they take.

A sequence is a reply; M are its tokens, the one that ends it included. Columns: `advantage` of the sequence, and what
else is to be told of it (`reward`, ...). Numbers of tokens: `sampled`, log p as the sampler saw it when the token was
drawn; `old`, log p under the policy at that time as the trainer computes it (left out where that is the policy itself);
`reference`, log p under the model as it was (NaN where nobody asked). rho = exp(log p - old).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import torch
from torch import Tensor

from fledge.objective.scored import Loss, Mean, Scored

ADVANTAGE = "advantage"
# Rewards that differ by rounding alone are equal.
NOISE = 1e-9
# Keeps the advantages of nearly equal rewards bounded.
STD_FLOOR = 1e-4


def is_flat(rewards_G: Sequence[float]) -> bool:
    """Return whether all replies of a group got the same: nothing can be learnt from it."""
    return max(rewards_G) - min(rewards_G) <= NOISE


def group_advantages(rewards_G: Sequence[float], *, scale: bool) -> list[float]:
    """Return r - mean(r), over the standard deviation of the group with `scale`; exactly 0 where all are equal.

    Group-relative advantages: Shao et al. 2024, arXiv 2402.03300, section 4.1.2; without the division, which weighs
    groups that nearly agree too much: Liu et al. 2025, arXiv 2503.20783, section 3.2. G >= 2 rewards of one prompt.
    """
    if is_flat(rewards_G):
        return [0.0] * len(rewards_G)
    mean = fmean(rewards_G)
    over = stdev(rewards_G) + STD_FLOOR if scale else 1.0
    return [(reward - mean) / over for reward in rewards_G]


def leave_one_out(rewards_G: Sequence[float]) -> list[float]:
    """Return each reward less the mean of the others; exactly 0 where all are equal.

    REINFORCE leave-one-out: Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740, eq. 8. G >= 2 rewards of one
    prompt.
    """
    if is_flat(rewards_G):
        return [0.0] * len(rewards_G)
    total, others = math.fsum(rewards_G), len(rewards_G) - 1
    return [reward - (total - reward) / others for reward in rewards_G]


def grpo(
    scored: Scored,
    *,
    clip_low: float,
    clip_high: float,
    kl_weight: float,
    loss: str,
    max_tokens: int,
    max_ratio: float,
) -> Loss:
    """Return the mean over tokens of -w min(rho A, clip(rho, 1 - low, 1 + high) A) + kl_weight k3.

    Group relative policy optimization: Shao et al. 2024, arXiv 2402.03300, eq. 3 and 4, with k3 = exp(d) - d - 1, d =
    reference - log p (Schulman 2020, "Approximating KL divergence"), and a wider clip upwards (Yu et al. 2025, arXiv
    2503.14476, eq. 10). w = min(exp(old - sampled), max_ratio) corrects for a sampler that computes otherwise
    (truncated importance sampling: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training").

    The mean is, by `loss`: `grpo`, of each reply's tokens and then of replies, as in the paper; `dapo`, of all tokens
    of the step, so that long replies are not let off (Yu et al. 2025, eq. 12); `dr_grpo`, of replies over `max_tokens`,
    the same for every token of every step (Liu et al. 2025, arXiv 2503.20783, eq. 4).
    """
    advantage_M = scored.columns_S[ADVANTAGE].to(scored.logps_M.dtype)[scored.sequence_M]
    old_M = _old(scored)
    rho_M = torch.exp(scored.logps_M - old_M)
    clipped_M = rho_M.clamp(1 - clip_low, 1 + clip_high)
    losses_M = -torch.minimum(rho_M * advantage_M, clipped_M * advantage_M)
    losses_M = losses_M * torch.exp(old_M - _told(scored, "sampled", old_M)).clamp(max=max_ratio)
    if kl_weight:
        losses_M = losses_M + kl_weight * k3(scored.logps_M, scored.tokens_M["reference"].to(scored.logps_M.dtype))
    held_M = (rho_M.detach() * advantage_M) > (clipped_M.detach() * advantage_M)
    weighted_M = losses_M * scored.weight_M
    if loss == "grpo":
        value = (weighted_M / scored.lengths_S()[scored.sequence_M]).sum() / scored.step_rows
    elif loss == "dapo":
        value = weighted_M.sum() / scored.step_weight
    else:
        assert loss == "dr_grpo", loss
        value = weighted_M.sum() / (scored.step_rows * max_tokens)
    return Loss(value, metrics_of(scored, rho_M, held_M))


def rloo(scored: Scored, *, clip_low: float, clip_high: float, max_ratio: float) -> Loss:
    """Return the mean over replies of -w min(rho A, clip(rho, 1 - low, 1 + high) A), rho of the whole reply.

    REINFORCE leave-one-out: Ahmadian et al. 2024, arXiv 2402.14740, eq. 8: a reply is one action. With rho = 1, as in
    the first update, the gradient is that of -A log p(reply). What keeps it by the model as it was is part of the
    reward there (eq. 3), so there is no such term here. w = min(exp(old - sampled), max_ratio) of the whole reply.
    """
    advantage_S = scored.columns_S[ADVANTAGE].to(scored.logps_M.dtype)
    old_M = _old(scored)
    rho_S = torch.exp(_sums(scored, scored.logps_M - old_M))
    clipped_S = rho_S.clamp(1 - clip_low, 1 + clip_high)
    losses_S = -torch.minimum(rho_S * advantage_S, clipped_S * advantage_S)
    losses_S = losses_S * torch.exp(_sums(scored, old_M - _told(scored, "sampled", old_M))).clamp(max=max_ratio)
    held_S = (rho_S.detach() * advantage_S) > (clipped_S.detach() * advantage_S)
    return Loss(losses_S.sum() / scored.step_rows, metrics_of(scored, rho_S, held_S))


def k3(logps_M: Tensor, reference_M: Tensor) -> Tensor:
    """Return exp(d) - d - 1 with d = reference - log p: an estimate of KL(policy || reference) that is never
    negative."""
    apart = reference_M - logps_M
    return torch.exp(apart) - apart - 1


def _old(scored: Scored) -> Tensor:
    """Return log p under the policy that was sampled from; in the first update that is the policy itself."""
    return _told(scored, "old", scored.logps_M.detach())


def _told(scored: Scored, name: str, otherwise: Tensor) -> Tensor:
    return scored.tokens_M[name].to(otherwise.dtype) if name in scored.tokens_M else otherwise


def _sums(scored: Scored, values_M: Tensor) -> Tensor:
    zeros = torch.zeros(scored.num_sequences, dtype=values_M.dtype)
    return zeros.index_add(0, scored.sequence_M, values_M * scored.weight_M)


def metrics_of(scored: Scored, rho: Tensor, held: Tensor) -> dict[str, Mean]:
    """Return what a step tells beside its loss: of replies all columns, of tokens how far the policy has moved."""
    logps_M = scored.logps_M.detach()
    told = {name: Mean.of(column) for name, column in scored.columns_S.items() if name != ADVANTAGE}
    told["length"] = Mean.of(scored.lengths_S())
    # Of tokens drawn from the policy itself, -log p is an unbiased estimate of the entropy.
    told["entropy"] = Mean.of(-logps_M)
    told["ratio"], told["clipped"] = Mean.of(rho), Mean.of(held.to(logps_M.dtype))
    if "sampled" in scored.tokens_M:
        told["sampler_gap"] = Mean.of((_old(scored) - scored.tokens_M["sampled"].to(logps_M.dtype)).abs())
    if "reference" in scored.tokens_M:
        reference_M = scored.tokens_M["reference"].to(logps_M.dtype)
        asked = reference_M.isfinite()
        told["kl"] = Mean.of(k3(logps_M[asked], reference_M[asked]))
    return told
