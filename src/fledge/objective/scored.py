"""What an objective gets and gives. M supervised tokens, S sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of the supervised tokens of one piece of an optimizer step.

    logps_M: log p(token | what comes before it), with gradient. sequence_M: its sequence, 0..S-1. weight_M: how much it
    counts. columns_S: per-sequence numbers (label, advantage, reference, ...); the sequences of a row stand together.
    step_weight: the sum of weight_M over the whole optimizer step, all pieces and processes; step_rows: the rows of it.
    Dividing by one of them makes the sum over pieces exact. facts: what was found of the whole step beforehand.
    tokens_M: numbers of the supervised tokens by name (log p under the policy that was sampled from, ...).
    values_M: what the scalar head gives for the hidden state that predicts each supervised token, with gradient.
    """

    logps_M: Tensor
    sequence_M: Tensor
    weight_M: Tensor
    columns_S: Mapping[str, Tensor]
    step_weight: float
    num_sequences: int = 1
    step_rows: int = 1
    facts: Mapping[str, float] = field(default_factory=dict)
    tokens_M: Mapping[str, Tensor] = field(default_factory=dict)
    values_M: Tensor | None = None

    def last_values_S(self) -> Tensor:
        """Return what the scalar head gives before each sequence's last supervised token."""
        assert self.values_M is not None, "the objective needs a scalar head"
        last_S = torch.bincount(self.sequence_M, minlength=self.num_sequences).cumsum(0) - 1
        return self.values_M[last_S]

    def sums_S(self) -> Tensor:
        """Return the log-probability of each sequence's taught tokens, sum(w logp)."""
        return _summed(self.logps_M * self.weight_M, self.sequence_M, self.num_sequences)

    def lengths_S(self) -> Tensor:
        """Return the weight of each sequence's taught tokens: their number where each counts once."""
        return _summed(self.weight_M.to(self.logps_M.dtype), self.sequence_M, self.num_sequences)


def _summed(values_M: Tensor, sequence_M: Tensor, num_sequences: int) -> Tensor:
    return torch.zeros(num_sequences, dtype=values_M.dtype).index_add(0, sequence_M, values_M)


@dataclass(frozen=True)
class Mean:
    """The mean of some numbers by its parts, so that those of pieces can be put together."""

    total: float
    count: float

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        return cls(float(values.detach().sum()), float(values.numel()))


@dataclass(frozen=True)
class Loss:
    """`value` is this piece's share of the step's loss: shares add up. metrics: what it tells beside, as means."""

    value: Tensor
    metrics: Mapping[str, Mean] = field(default_factory=dict)


Objective = Callable[[Scored], Loss]
# Finds a step's facts, by name, from a piece of what the step sets aside.
Before = Callable[[Scored], Mapping[str, Mean]]
