"""Log-probabilities of given tokens, without ever holding all logits.

For a frozen head W the gradient of log p(t | h) = h W_t - logsumexp(h W^T) by h is W_t - softmax(h W^T) W: it does not
depend on the objective. So it is formed in the forward pass, tile by tile, while the logits are there; the backward
pass of any objective only scales it. 4 V D operations per supervised token, none for the others.

Shapes: U scored tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits held at once: 128 rows of a 49k vocabulary are 25 MB in float32, about what a last-level cache holds.
TILE_BYTES = 32 << 20


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_UD: Tensor, head_VD: Tensor, target_U: Tensor) -> Tensor:
        wants_grad = ctx.needs_input_grad[0]
        # float32 at least, whatever the model computes in
        precise = torch.promote_types(hidden_UD.dtype, torch.float32)
        logps_U = torch.empty(len(target_U), dtype=precise)
        grad_UD = torch.empty_like(hidden_UD) if wants_grad else None
        tile = max(1, TILE_BYTES // (4 * head_VD.shape[0]))
        for start in range(0, len(target_U), tile):
            part = slice(start, start + tile)
            logits_tV = (hidden_UD[part] @ head_VD.t()).to(precise)
            target_t1 = target_U[part, None]
            norm_t1 = logits_tV.logsumexp(-1, keepdim=True)
            logps_U[part] = (logits_tV.gather(-1, target_t1) - norm_t1)[:, 0]
            if grad_UD is not None:
                # one-hot(target) - softmax, in the logits' own memory
                minus_p_tV = logits_tV.sub_(norm_t1).exp_().neg_()
                minus_p_tV.scatter_add_(-1, target_t1, torch.ones_like(norm_t1))
                torch.mm(minus_p_tV.to(head_VD.dtype), head_VD, out=grad_UD[part])
        if grad_UD is not None:
            ctx.save_for_backward(grad_UD)
        return logps_U

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_UD,) = ctx.saved_tensors
        return (grads[0][:, None] * grad_UD).to(grad_UD.dtype), None, None


def token_logps(hidden_UD: Tensor, head_VD: Tensor, target_U: Tensor) -> Tensor:
    """Return log p(target | hidden) [U] under softmax(hidden head^T), float32 at least. `head_VD` is frozen."""
    assert not head_VD.requires_grad, "a trained head needs its own gradient"
    logps: Tensor = _TokenLogps.apply(hidden_UD, head_VD, target_U)  # type: ignore[no-untyped-call]
    return logps
