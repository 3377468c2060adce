"""What an objective gets and gives. M supervised tokens, S sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of the supervised tokens of one piece of an optimizer step.

    logps_M: log p(token | what comes before it), with gradient. sequence_M: its sequence. weight_M: how much it counts.
    columns_S: per-sequence numbers (label, advantage, reference, ...). step_weight: the sum of weight_M over the whole
    optimizer step, all pieces and processes; dividing by it makes the sum over pieces exact.
    """

    logps_M: Tensor
    sequence_M: Tensor
    weight_M: Tensor
    columns_S: Mapping[str, Tensor]
    step_weight: float


@dataclass(frozen=True)
class Loss:
    """`value` is this piece's share of the step's loss: shares add up. `metrics` are shares too."""

    value: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


Objective = Callable[[Scored], Loss]
