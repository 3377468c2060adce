"""Supervised fine-tuning."""

from __future__ import annotations

from fledge.objective.scored import Loss, Scored


def sft(scored: Scored) -> Loss:
    """Return the weighted mean negative log-likelihood, - sum(w logp) / sum(w) over the whole step, in nats per token.

    The mean is over tokens, not rows, so a step gives the same gradient however it is split into pieces.
    """
    return Loss(-(scored.logps_M * scored.weight_M).sum() / scored.step_weight)
