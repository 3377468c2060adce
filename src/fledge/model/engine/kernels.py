"""What the engine asks of its kernels: compiled (compiled.py) where there is a compiler, in torch (plain.py) where not.

All tensors are two-dimensional with a dense last dimension; only row strides differ. T is the compute dtype, "sums" are
float32 (float64 for a float64 model). Nothing here allocates: who calls owns the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor

from fledge.model.style import Activation
from fledge.model.tokens import TreeTokens
from fledge.model.weights import Blocks


class Layout(IntEnum):
    """How the second factor of a product lies in memory: [N, K] (W of x W^T) or [K, N] (W of dy W)."""

    NK = 0
    KN = 1


@dataclass(frozen=True)
class HeadShape:
    """Query heads, key/value heads, width of a head; window 0 and softcap 0.0 mean none."""

    heads: int
    kv_heads: int
    width: int
    scale: float
    window: int = 0
    softcap: float = 0.0


@dataclass(frozen=True)
class Keys:
    """k, v: [N, kv_heads * width] views. context_k, context_v: [C, ..], those that were computed earlier, if any."""

    k: Tensor
    v: Tensor
    context_k: Tensor | None = None
    context_v: Tensor | None = None


@dataclass(frozen=True)
class LowRank:
    """What rides along with a product: first [R, in], second [R, out], and `low` [N, R], which is filled.

    `x` is what goes into it, where that is not the input of the product itself (dropout).
    """

    first: Tensor
    second: Tensor
    low: Tensor
    x: Tensor | None = None


# So many weights pass through float32 at a time: 64 MB.
READ_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Part:
    """One adapted projection of a site: its module, its rows of A, its columns of the output."""

    module: str
    first_rank: int
    start: int
    width: int


class Adapted(Protocol):
    """Where an adapter's gradients go: grad_a [R, in]; grad_b [rank, width] of each part. All in sums."""

    @property
    def parts(self) -> tuple[Part, ...]: ...
    @property
    def rank(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def grad_a(self) -> Tensor: ...
    @property
    def grad_b(self) -> tuple[Tensor, ...]: ...


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which sums over `dtype` are kept."""
    return torch.promote_types(dtype, torch.float32)


class Kernels(Protocol):
    """What a decoder needs done. `name` and `reason` are for people."""

    name: str
    reason: str

    def linear(
        self,
        out: Tensor,
        x: Tensor,
        w: Tensor,
        layout: Layout,
        *,
        adapter: LowRank | None = None,
        residual: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """out = x w (+ low second) (+ residual) (+ bias), low = x first^T; out is T or sums. Returns out."""
        ...

    def adapter_grad(self, site: Adapted, x: Tensor, dy: Tensor, low: Tensor, dlow: Tensor) -> None:
        """site.grad_a += dlow^T x; for each part, site.grad_b += site.scale low^T dy in the part's rows and columns."""
        ...

    def weight_grad(self, grad: Tensor, x: Tensor, dy: Tensor) -> None:
        """grad [out, in] += dy^T x, in sums: what a weight of x W^T learns."""
        ...

    def norm(
        self, out: Tensor, x: Tensor, weight: Tensor, eps: float, scale: Tensor, *, heads: int = 1, residual: Any = None
    ) -> None:
        """out = RMSNorm(x) weight (+ residual), each of `heads` parts by itself; scale [N, heads] gets 1 / rms."""
        ...

    def norm_grad(
        self,
        dx: Tensor,
        dy: Tensor,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        *,
        heads: int = 1,
        accumulate: bool = False,
        rounded: Tensor | None = None,
    ) -> None:
        """dx = (or +=) gradient by x; `rounded` gets the result once more in T."""
        ...

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor, *, width: int, back: bool = False) -> None:
        """Rotate the heads of x [N, heads * width] in place by cos, sin [N, width / 2]; `back` undoes it."""
        ...

    def gated(self, gate_up: Tensor, kind: Activation, out: Tensor, dy: Tensor | None = None) -> None:
        """out [N, F] = f(gate) up of gate_up [N, 2 F]; with dy, gate_up becomes its own gradient."""
        ...

    def attention(self, out: Tensor, lse: Tensor, q: Tensor, keys: Keys, tree: TreeTokens, shape: HeadShape) -> None:
        """out [N, heads * width] over the tree; lse [N, heads] gets log-sum-exp of the scores."""
        ...

    def attention_grad(
        self,
        grads: tuple[Tensor, Tensor, Tensor],
        dout: Tensor,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        keys: Keys,
        tree: TreeTokens,
        shape: HeadShape,
        dcontext: Tensor | None = None,
    ) -> None:
        """Fill grads (dq, dk, dv); add the gradient of the context's keys and values to dcontext [2, C, ..] (sums)."""
        ...

    def dequantize(self, out: Tensor, stored: Blocks) -> None:
        """Fill out [rows, columns] with the numbers of quantised rows, those of `order` where there is one.

        The values are those of the gguf package to the last bit, rounded once to T.
        """
        ...

    def log_softmax(self, logits: Tensor, target: Tensor, softcap: float, logps: Tensor, *, gradient: bool) -> Tensor:
        """logps = log softmax(logits)[target]; returns d logps / d logits in T, in the memory of logits (destroyed)."""
        ...
