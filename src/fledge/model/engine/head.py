"""Log-probabilities of given tokens, without ever holding all logits.

For a frozen head W the gradient of log p(t | h) = h W_t - logsumexp(h W^T) by h is W_t - softmax(h W^T) W: it does not
depend on the objective. So it is formed in the forward pass, tile by tile, while the logits are there; the backward
pass of any objective only scales it. 4 V D operations per supervised token, none for the others. A head that is
trained needs slopes times what the objective makes of them, so its logits are formed once more on the way back: 8 V D.

Shapes: U scored tokens, D width, V vocabulary, t tokens of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fledge.model.engine.kernels import Kernels, Layout, sums_dtype
from fledge.model.engine.token_rows import TokenRows
from fledge.model.engine.trained import Trained

# Logits held at once: 340 rows of a 49k vocabulary are 64 MiB in float32. Fewer
# rows than MIN_ROWS would read the head's weights more often than the products take.
TILE_BYTES = 64 << 20
MIN_ROWS = 96


class LogitsTile:
    """Memory for the logits of some tokens, kept from one use to the next: new memory would be zeroed first."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, rows: int, vocab_size: int, dtype: torch.dtype) -> Tensor:
        """Return [rows, vocab_size] of anything; the next call takes the same memory."""
        if self._memory.numel() < rows * vocab_size or self._memory.dtype != dtype:
            self._memory = torch.empty(rows * vocab_size, dtype=dtype)
        return self._memory[: rows * vocab_size].view(rows, vocab_size)


@dataclass(frozen=True)
class Product:
    """The head's product: its weights [V, D] in T, and what it is computed with. softcap c: c tanh(logits / c)."""

    weight_VD: Tensor
    kernels: Kernels
    softcap: float
    tile: LogitsTile

    def tiles(self, hidden: Tensor, target: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (which tokens, their hidden states in T, their logits in sums), the logits in the memory of the
        last."""
        head = self.weight_VD
        rows = tile_rows(head.shape[0])
        logits_tV = self.tile.take(min(rows, len(target)), head.shape[0], sums_dtype(head.dtype))
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            hidden_tD = hidden[part].to(head.dtype).contiguous()
            logits = logits_tV[: len(hidden_tD)]
            self.kernels.linear(logits, hidden_tD, head, Layout.NK)
            yield part, hidden_tD, logits

    def log_softmax(self, logits: Tensor, target: Tensor, logps: Tensor, *, gradient: bool) -> Tensor:
        """See Kernels.log_softmax."""
        return self.kernels.log_softmax(logits, target, self.softcap, logps, gradient=gradient)

    def back(self, grad_tD: Tensor, slope: Tensor) -> None:
        """grad = slope W, in sums."""
        self.kernels.linear(grad_tD, slope, self.weight_VD, Layout.KN)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, target: Tensor, head: Product, rows: TokenRows | None) -> Tensor:
        wants_grad = ctx.needs_input_grad[0]
        precise = sums_dtype(head.weight_VD.dtype)
        logps_U = torch.empty(len(target), dtype=precise)
        grad_UD = torch.empty(hidden.shape, dtype=precise) if wants_grad else None
        slope_UA = torch.empty(len(target), len(rows.ids), dtype=precise) if rows is not None and wants_grad else None
        for part, _, logits in head.tiles(hidden, target):
            slope = head.log_softmax(logits, target[part], logps_U[part], gradient=wants_grad)
            if grad_UD is not None:
                head.back(grad_UD[part], slope)
            if slope_UA is not None and rows is not None:
                slope_UA[part] = slope[:, rows.ids.start : rows.ids.stop]
        if grad_UD is not None:
            ctx.save_for_backward(grad_UD, *(() if slope_UA is None else (slope_UA, hidden)))
            ctx.dtype, ctx.rows = hidden.dtype, rows
        return logps_U

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_UD, *more = ctx.saved_tensors
        if more:
            slope_UA, hidden = more
            ctx.rows.add_head_gradient(slope_UA * grads[0][:, None], hidden)
        return (grads[0][:, None] * grad_UD).to(ctx.dtype), None, None, None


class _TrainedTokenLogps(torch.autograd.Function):
    """The same for a head that is trained: nothing but hidden states is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, target: Tensor, head: Product, trained: Trained) -> Tensor:
        logps_U = torch.empty(len(target), dtype=sums_dtype(head.weight_VD.dtype))
        for part, _, logits in head.tiles(hidden, target):
            head.log_softmax(logits, target[part], logps_U[part], gradient=False)
        ctx.save_for_backward(hidden, target)
        ctx.head, ctx.trained = head, trained
        return logps_U

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, target = ctx.saved_tensors
        head, weight_U = ctx.head, grads[0]
        ctx.trained.attach_gradients()
        spare = torch.empty(len(target), dtype=weight_U.dtype)
        grad_UD = torch.empty(hidden.shape, dtype=sums_dtype(head.weight_VD.dtype))
        for part, hidden_tD, logits in head.tiles(hidden, target):
            slope = head.log_softmax(logits, target[part], spare[part], gradient=True)
            head.back(grad_UD[part], slope)
            # The objective's weights go with the thin side.
            weighted = (hidden_tD * weight_U[part, None]).to(hidden_tD.dtype)
            head.kernels.weight_grad(ctx.trained.head_grad, weighted, slope)
        return (weight_U[:, None] * grad_UD).to(hidden.dtype), None, None, None


def tile_rows(vocab_size: int) -> int:
    """Return how many tokens' logits are held at once."""
    return max(MIN_ROWS, TILE_BYTES // (4 * vocab_size))


def token_logps(
    hidden_UD: Tensor,
    head_VD: Tensor,
    target_U: Tensor,
    *,
    kernels: Kernels,
    softcap: float = 0.0,
    tile: LogitsTile | None = None,
    trained: Trained | None = None,
    rows: TokenRows | None = None,
) -> Tensor:
    """Return log p(target | hidden) [U] under softmax(hidden head^T), float32 at least.

    With `softcap` c the logits are c tanh(logits / c). `head_VD` is frozen, or its gradient is added up in `trained`,
    or that of some of its rows in `rows`.
    """
    assert not head_VD.requires_grad, "a trained head is told by `trained`"
    head = Product(head_VD, kernels, softcap, tile or LogitsTile())
    learns = trained is not None and trained.head_grad is not None and hidden_UD.requires_grad
    logps: Tensor = (
        _TrainedTokenLogps.apply(hidden_UD, target_U, head, trained)  # type: ignore[no-untyped-call]
        if learns
        else _TokenLogps.apply(hidden_UD, target_U, head, rows)  # type: ignore[no-untyped-call]
    )
    return logps
