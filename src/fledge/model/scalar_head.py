"""A number for a hidden state: the head of a model that scores answers, or that foretells what they will be worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ScalarHead:
    """v = h w over the last hidden state h [D], w [D] a float32 master: the head of transformers' sequence classifiers
    with one label (`score`, without a bias).

    w begins at zero. Before the first step nothing is told apart, and a run depends on no draw for it.
    """

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self.weight = nn.Parameter(torch.zeros(width, dtype=torch.promote_types(dtype, torch.float32)))
        self._off = False

    def __call__(self, hidden_UD: Tensor) -> Tensor:
        """Return the value of each hidden state [U], float32 at least, with gradient by head and hidden state."""
        weight = torch.zeros_like(self.weight) if self._off else self.weight
        return hidden_UD.to(weight.dtype) @ weight

    @contextmanager
    def off(self) -> Iterator[None]:
        """Give 0 for everything inside the block, as before the first step."""
        self._off = True
        try:
            yield
        finally:
            self._off = False
