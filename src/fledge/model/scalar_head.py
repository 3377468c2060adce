"""A number for a hidden state: the head of a model that scores answers, or that foretells what they will be worth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScalarHead:
    """v = h w over the last hidden state h [D], w [D] a float32 master: the head of transformers' sequence classifiers
    with one label (`score`, without a bias).

    w begins at zero. Before the first step nothing is told apart, and a run depends on no draw for it.
    """

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self.weight = nn.Parameter(torch.zeros(width, dtype=torch.promote_types(dtype, torch.float32)))

    def __call__(self, hidden_UD: Tensor) -> Tensor:
        """Return the value of each hidden state [U], float32 at least, with gradient by head and hidden state."""
        return hidden_UD.to(self.weight.dtype) @ self.weight
