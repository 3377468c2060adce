"""The kernels in torch alone: for machines without a compiler, and the independent second opinion of the tests."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fledge.model.engine.kernels import READ_AT_ONCE, Adapted, HeadShape, Keys, Layout, LowRank
from fledge.model.style import Activation
from fledge.model.tokens import TreeTokens
from fledge.model.weights import Blocks

WIDENED_ROWS = 8192


def read_blocks(out: Tensor, stored: Blocks) -> None:
    """Do what Kernels.dequantize says with the gguf package, some rows at a time."""
    step = max(1, READ_AT_ONCE // out.shape[1])
    for start in range(0, len(out), step):
        part = slice(start, start + step)
        rows = stored.rows[part if stored.order is None else stored.order[part]]
        values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[stored.type])
        out[part] = torch.from_numpy(np.ascontiguousarray(values))


class PlainKernels:
    """See Kernels for what each method does."""

    name = "torch"

    def __init__(self, reason: str, dtype: torch.dtype) -> None:
        self.reason, self.dtype = reason, dtype

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
        if out.dtype != self.dtype and residual is None and adapter is None and bias is None:
            return _exact_product(out, x, w, layout)
        y = x @ (w.t() if layout == Layout.NK else w)
        if adapter is not None:
            torch.mm(x if adapter.x is None else adapter.x, adapter.first.t(), out=adapter.low)
            y = y.addmm_(adapter.low, adapter.second)
        if residual is not None:
            y = residual + y
        if bias is not None:
            y = y + bias
        return out.copy_(y)

    def adapter_grad(self, site: Adapted, x: Tensor, dy: Tensor, low: Tensor, dlow: Tensor) -> None:
        precise = site.grad_a.dtype
        site.grad_a.addmm_(dlow.t().to(precise), x.to(precise))
        for part, grad in zip(site.parts, site.grad_b, strict=True):
            rows = low[:, part.first_rank : part.first_rank + site.rank].t().to(precise)
            grad.addmm_(rows, dy[:, part.start : part.start + part.width].to(precise), alpha=site.scale)

    def weight_grad(self, grad: Tensor, x: Tensor, dy: Tensor) -> None:
        grad.addmm_(dy.t().to(grad.dtype), x.to(grad.dtype))

    def norm(
        self, out: Tensor, x: Tensor, weight: Tensor, eps: float, scale: Tensor, *, heads: int = 1, residual: Any = None
    ) -> None:
        wide = _parts(x.to(scale.dtype), heads, -1)
        scale.copy_(torch.rsqrt(wide.pow(2).mean(-1) + eps))
        y = (wide * scale[..., None] * weight).flatten(1)
        out.copy_(y if residual is None else y + residual)

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
        unit = _parts(x.to(scale.dtype), heads, -1) * scale[..., None]
        weighted = _parts(dy.to(scale.dtype), heads, -1) * weight
        grad = ((weighted - unit * (weighted * unit).mean(-1, keepdim=True)) * scale[..., None]).flatten(1)
        if accumulate:
            grad = grad + dx
        dx.copy_(grad)
        if rounded is not None:
            rounded.copy_(grad)

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor, *, width: int, back: bool = False) -> None:
        first, second = _parts(x.to(cos.dtype), -1, 2, width // 2).unbind(2)
        c, s = cos[:, None], (-sin if back else sin)[:, None]
        x.copy_(torch.stack([first * c - second * s, second * c + first * s], dim=2).flatten(1))

    def gated(self, gate_up: Tensor, kind: Activation, out: Tensor, dy: Tensor | None = None) -> None:
        with torch.enable_grad():
            both = gate_up.detach().to(torch.promote_types(gate_up.dtype, torch.float32)).requires_grad_()
            gate, up = both.chunk(2, dim=-1)
            f = functional.silu(gate) if kind == Activation.SILU else functional.gelu(gate, approximate="tanh")
            y = f * up
            if dy is not None:
                gate_up.copy_(torch.autograd.grad(y, both, dy.to(y.dtype), retain_graph=True)[0])
        out.copy_(y.detach())

    def attention(self, out: Tensor, lse: Tensor, q: Tensor, keys: Keys, tree: TreeTokens, shape: HeadShape) -> None:
        k, v = self._all_keys(keys)
        for start, end, visible, which in _sights(tree, shape):
            out[start:end] = _attend(q[start:end], k[which], v[which], visible, shape)

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
        k, v = self._all_keys(keys)
        dk, dv = torch.zeros_like(k, dtype=lse.dtype), torch.zeros_like(v, dtype=lse.dtype)
        for start, end, visible, which in _sights(tree, shape):
            with torch.enable_grad():
                inputs = [part.detach().requires_grad_() for part in (q[start:end], k[which], v[which])]
                attended = _attend(*inputs, visible, shape)  # type: ignore[call-arg, arg-type]
                dq_node, dk_node, dv_node = torch.autograd.grad(attended, inputs, dout[start:end])
            grads[0][start:end] = dq_node
            dk.index_add_(0, which, dk_node.to(dk.dtype))
            dv.index_add_(0, which, dv_node.to(dv.dtype))
        for grad, total in zip(grads[1:], (dk, dv), strict=True):
            grad.copy_(total[tree.num_context :])
        if dcontext is not None:
            dcontext.add_(torch.stack([dk[: tree.num_context], dv[: tree.num_context]]))

    @staticmethod
    def _all_keys(keys: Keys) -> tuple[Tensor, Tensor]:
        if keys.context_k is None or keys.context_v is None:
            return keys.k, keys.v
        return torch.cat([keys.context_k, keys.k]), torch.cat([keys.context_v, keys.v])

    def dequantize(self, out: Tensor, stored: Blocks) -> None:
        read_blocks(out, stored)

    def log_softmax(self, logits: Tensor, target: Tensor, softcap: float, logps: Tensor, *, gradient: bool) -> Tensor:
        if softcap:
            logits.div_(softcap).tanh_().mul_(softcap)
        norm, wanted = logits.logsumexp(-1, keepdim=True), logits.gather(-1, target[:, None])
        logps.copy_((wanted - norm)[:, 0])
        if not gradient:
            return logits
        minus_p = (logits - norm).exp_().neg_()
        minus_p.scatter_add_(-1, target[:, None], torch.ones_like(wanted))
        if softcap:
            minus_p.mul_(1 - (logits / softcap).square())
        return minus_p.to(self.dtype)


def _exact_product(out: Tensor, x: Tensor, w: Tensor, layout: Layout) -> Tensor:
    """Logits and what flows back from them, worth more than eight bits; w is widened part by part."""
    x = x.to(out.dtype)
    if layout == Layout.NK:
        for start in range(0, w.shape[0], WIDENED_ROWS):
            part = slice(start, start + WIDENED_ROWS)
            out[:, part] = x @ w[part].to(out.dtype).t()
        return out
    out.zero_()
    for start in range(0, w.shape[0], WIDENED_ROWS):
        part = slice(start, start + WIDENED_ROWS)
        out.addmm_(x[:, part], w[part].to(out.dtype))
    return out


def _sights(tree: TreeTokens, shape: HeadShape) -> list[tuple[int, int, Tensor, Tensor]]:
    """Return (start, end, visible [own, keys], key numbers) of every node."""
    found = []
    span_positions = tree.span_S3.tolist()
    for start, end, position, first, last in tree.node_B5.tolist():
        spans = [*span_positions[first:last], [tree.num_context + start, end - start, position]]
        which = torch.cat([torch.arange(a, a + n) for a, n, _ in spans])
        key_position = torch.cat([torch.arange(p, p + n) for _, n, p in spans])
        own_position = torch.arange(position, position + end - start)[:, None]
        visible = key_position <= own_position
        if shape.window:
            visible &= key_position > own_position - shape.window
        found.append((start, end, visible, which))
    return found


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, shape: HeadShape) -> Tensor:
    """Return [n, heads * width]: soft-max attention of some queries over some keys."""
    groups = shape.heads // shape.kv_heads
    q, k, v = (_parts(x, -1, shape.width).transpose(0, 1) for x in (q, k, v))
    if not shape.softcap:
        y = functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=visible, scale=shape.scale, enable_gqa=groups > 1
        )[0]
    else:
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        scores = shape.softcap * torch.tanh((q @ k.transpose(1, 2)) * (shape.scale / shape.softcap))
        y = scores.masked_fill(~visible, -torch.inf).softmax(-1, dtype=sums_of(scores)).to(v.dtype) @ v
    return y.transpose(0, 1).flatten(1)


def _parts(x: Tensor, *sizes: int) -> Tensor:
    """Return x [N, W] with W as several dimensions."""
    return x.reshape(x.shape[0], *sizes)


def sums_of(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
