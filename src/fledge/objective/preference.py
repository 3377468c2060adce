"""Objectives that learn from which answers people prefer: pairs of a better and a worse one, or single judged ones.

Of pairs, sequences 2p and 2p + 1 of a piece are the chosen and the rejected answer of pair p. `reference` is a column:
log p of the sequence's taught tokens under the model as it was, the sum over them. Losses are means over the rows of
the optimizer step. r = beta (log p - reference) is the reward that a policy implies (Rafailov et al. 2023, eq. 5).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fledge.objective.scored import Loss, Mean, Scored

# log(1 - p) of an answer that rounding makes certain.
_NEARLY_ONE = -1e-7
_LOG_HALF = -0.6931471805599453
KL_REWARD = "kl_reward"


def dpo(scored: Scored, *, beta: float, label_smoothing: float = 0.0, sft_weight: float = 0.0) -> Loss:
    """Return -(1 - e) log sigmoid(r_chosen - r_rejected) - e log sigmoid(r_rejected - r_chosen).

    Direct preference optimization: Rafailov et al. 2023, arXiv 2305.18290, eq. 7; label smoothing e, the share of pairs
    that may be the wrong way round: Mitchell 2023, "conservative DPO". `sft_weight`: see `_with_sft`.
    """
    chosen, rejected = pairs_of(beta * (scored.sums_S() - scored.columns_S["reference"]))
    margin = chosen - rejected
    losses = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return _with_sft(scored, losses, chosen, rejected, sft_weight)


def ipo(scored: Scored, *, beta: float, sft_weight: float = 0.0) -> Loss:
    """Return (h - 1 / (2 beta))^2, h the difference of the mean log-ratios per token of chosen and rejected.

    Identity preference optimization: Azar et al. 2023, arXiv 2310.12036, eq. 17; means over tokens instead of sums, as
    its authors advise for answers of different lengths.
    """
    ratio = (scored.sums_S() - scored.columns_S["reference"]) / scored.lengths_S()
    chosen, rejected = pairs_of(ratio)
    losses = (chosen - rejected - 1 / (2 * beta)) ** 2
    return _with_sft(scored, losses, beta * chosen, beta * rejected, sft_weight)


def simpo(scored: Scored, *, beta: float, gamma: float, label_smoothing: float = 0.0, sft_weight: float = 0.0) -> Loss:
    """Return -log sigmoid(beta (m_chosen - m_rejected) - gamma), m the mean log p per token; there is no reference.

    Simple preference optimization: Meng et al. 2024, arXiv 2405.14734, eq. 6.
    """
    chosen, rejected = pairs_of(beta * scored.sums_S() / scored.lengths_S())
    margin = chosen - rejected - gamma
    losses = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return _with_sft(scored, losses, chosen, rejected, sft_weight)


def orpo(scored: Scored, *, beta: float) -> Loss:
    """Return -m_chosen - beta log sigmoid(log odds_chosen - log odds_rejected); there is no reference.

    m: the mean log p per token; odds = p / (1 - p) with p = exp(m). Odds ratio preference optimization: Hong et al.
    2024, arXiv 2403.07691, eq. 4 to 7 (its lambda is beta here).
    """
    mean = scored.sums_S() / scored.lengths_S()
    chosen, rejected = pairs_of(mean)
    odds_chosen, odds_rejected = pairs_of(mean - _log_of_rest(mean))
    losses = -chosen - beta * logsigmoid(odds_chosen - odds_rejected)
    return _with_sft(scored, losses, beta * chosen, beta * rejected, 0.0)


def kto(scored: Scored, *, beta: float, good_weight: float, bad_weight: float) -> Loss:
    """Return w_good (1 - sigmoid(r - z)) of a good answer and w_bad (1 - sigmoid(z - r)) of a bad one.

    Column `label` is 1 for good ones and 0 for bad ones. z, the fact KL_REWARD, is beta times the mean log-ratio of
    answers to other questions in the step, at least 0, and no gradient goes through it. Kahneman-Tversky optimization:
    Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8.
    """
    reward = beta * (scored.sums_S() - scored.columns_S["reference"])
    good = scored.columns_S["label"] > 0
    z = max(0.0, scored.facts[KL_REWARD])
    losses = torch.where(
        good, good_weight * (1 - torch.sigmoid(reward - z)), bad_weight * (1 - torch.sigmoid(z - reward))
    )
    ahead = torch.where(good, reward - z, z - reward)
    metrics = {
        "accuracy": right(ahead),
        "kl": Mean(z / beta, 1.0),
        "reward_good": Mean.of(reward[good]),
        "reward_bad": Mean.of(reward[~good]),
    }
    return Loss(losses.sum() / scored.step_rows, metrics)


def kl_reward(aside: Scored, *, beta: float) -> dict[str, Mean]:
    """Return KL_REWARD: beta times the mean log-ratio of answers to other questions."""
    return {KL_REWARD: Mean.of(beta * (aside.sums_S() - aside.columns_S["reference"]))}


def pairs_of(values_S: Tensor) -> tuple[Tensor, Tensor]:
    return values_S[0::2], values_S[1::2]


def _with_sft(scored: Scored, losses: Tensor, chosen: Tensor, rejected: Tensor, sft_weight: float) -> Loss:
    """Return the mean of `losses` plus `sft_weight` times that of -m_chosen, m the mean log p per token.

    The second term keeps chosen answers likely (Pang et al. 2024, arXiv 2404.19733, eq. 2). chosen, rejected: rewards.
    """
    if sft_weight:
        losses = losses - sft_weight * pairs_of(scored.sums_S() / scored.lengths_S())[0]
    likely_chosen, likely_rejected = pairs_of((scored.sums_S() / scored.lengths_S()).detach())
    metrics = {
        "likelier": right(likely_chosen - likely_rejected),
        "accuracy": right(chosen - rejected),
        "margin": Mean.of(chosen - rejected),
        "reward_chosen": Mean.of(chosen),
        "reward_rejected": Mean.of(rejected),
    }
    return Loss(losses.sum() / scored.step_rows, metrics)


def right(ahead: Tensor) -> Mean:
    """Return the share that is above 0; what is 0, as all is before the first step, counts a half, as a guess would."""
    return Mean.of((ahead > 0).to(ahead.dtype) + 0.5 * (ahead == 0).to(ahead.dtype))


def _log_of_rest(logp: Tensor) -> Tensor:
    """Return log(1 - exp(logp)) without loss of digits (Maechler 2012, "Accurately computing log(1 - exp(-|a|))")."""
    logp = logp.clamp(max=_NEARLY_ONE)
    near = torch.log(-torch.expm1(logp.clamp(min=_LOG_HALF)))
    far = torch.log1p(-torch.exp(logp.clamp(max=_LOG_HALF)))
    return torch.where(logp > _LOG_HALF, near, far)
