"""One decoder layer, forward and backward written out over the kernels.

The residual stream and its gradient are kept in sums (float32), everything between in the compute dtype T. A layer
keeps its projections' outputs and recomputes norms and activations, which cost less than storing them.

Shapes: N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.model.engine.decoder import Block
from fledge.model.engine.kernels import Kernels, Keys, Layout, LowRank
from fledge.model.engine.sites import Site
from fledge.model.engine.workspace import Saved, Scratch
from fledge.model.style import Activation
from fledge.model.tokens import TreeTokens


@dataclass(frozen=True)
class Setting:
    """What all layers of a pass have in common. cos, sin: [N, width / 2] in sums, and those of layers with a window."""

    kernels: Kernels
    tree: TreeTokens
    rope: tuple[Tensor, Tensor]
    local_rope: tuple[Tensor, Tensor]
    eps: float
    activation: Activation
    dropout: float


@dataclass(frozen=True)
class KeyValues:
    """Keys and values [C, kv_heads * width] of a context, and where their gradients are added up ([2, C, ..], sums)."""

    k: Tensor
    v: Tensor
    grad: Tensor | None


# By site: what its dropout is drawn from. A mask itself is as large as what a layer keeps, so it is drawn again.
Seeds = dict[str, int]


@dataclass(frozen=True)
class Layer:
    """One layer of a pass: its weights, what it keeps, what it stands on.

    sites: its adapters. own: where gradients by its own weights are added up, in sums, by the name that they have in
    Block; those without a name there are frozen. seeds: of its dropout, filled as they are drawn.
    """

    block: Block
    sites: Mapping[str, Site]
    own: Mapping[str, Tensor]
    saved: Saved
    context: KeyValues | None
    seeds: Seeds


def forward(layer: Layer, s: Setting, scratch: Scratch, out: Tensor) -> Seeds:
    """Compute the layer on saved.x into `out` [N, D]; fill `saved` and what is missing of the dropout's seeds."""
    k, block, saved, heads = s.kernels, layer.block, layer.saved, layer.block.heads
    q_width, k_width = heads.heads * heads.width, heads.kv_heads * heads.width
    k.norm(scratch.hidden, saved.x, block.norm_in, s.eps, saved.scale["in"])
    _project(s, layer, "qkv", scratch.hidden, saved.qkv)
    qk = saved.qkv[:, : q_width + k_width]
    q, keys = _split(saved.qkv, q_width, k_width, layer.context)
    if saved.raw_qk is not None:
        saved.raw_qk.copy_(qk)
        assert block.norm_q is not None and block.norm_k is not None
        k.norm(q, saved.raw_qk[:, :q_width], block.norm_q, s.eps, saved.scale["q"], heads=heads.heads)
        k.norm(keys.k, saved.raw_qk[:, q_width:], block.norm_k, s.eps, saved.scale["k"], heads=heads.kv_heads)
    k.rope(qk, *(s.local_rope if block.local else s.rope), width=heads.width)
    k.attention(saved.attn, saved.lse, q, keys, s.tree, heads)
    _add_to_stream(s, layer, "o", saved.attn, saved.x, saved.mid)
    k.norm(scratch.hidden, saved.mid, block.norm_ffn, s.eps, saved.scale["ffn"])
    _project(s, layer, "gate_up", scratch.hidden, saved.gate_up)
    k.gated(saved.gate_up, s.activation, scratch.act)
    _add_to_stream(s, layer, "down", scratch.act, saved.mid, out)
    return layer.seeds


def backward(layer: Layer, s: Setting, scratch: Scratch, dx: Tensor, extra: Tensor | None, *, last: bool) -> None:
    """Turn dx [N, D] (sums), the gradient by the layer's output, into that by its input; add to those of what learns.

    scratch.rounded holds dx in T before and after. `extra` [2, N, kv_heads * width]: gradients by this layer's keys and
    values that came from elsewhere. With `last` nothing below is trained, and dx is not finished.
    """
    k, block, saved, heads = s.kernels, layer.block, layer.saved, layer.block.heads
    q_width, k_width = heads.heads * heads.width, heads.kv_heads * heads.width
    rounded = scratch.rounded
    # feed-forward part
    dy = _through_post_norm(s, layer, "ffn_out", dx, saved.ffn_out, scratch)
    dlow = _back(s, layer, "down", dy, scratch.act, scratch)
    k.gated(saved.gate_up, s.activation, scratch.act, dy=scratch.act)
    _learn(s, layer, "down", scratch.act, dy, dlow)
    dlow = _back(s, layer, "gate_up", saved.gate_up, rounded, scratch)
    k.norm(scratch.hidden, saved.mid, block.norm_ffn, s.eps, saved.scale["ffn"])
    _learn(s, layer, "gate_up", scratch.hidden, saved.gate_up, dlow)
    _through_norm(s, layer, "ffn", dx, rounded, saved.mid, accumulate=True, rounded=rounded)
    # attention part
    dy = _through_post_norm(s, layer, "attn_out", dx, saved.attn_out, scratch)
    dlow = _back(s, layer, "o", dy, scratch.attn, scratch)
    _learn(s, layer, "o", saved.attn, dy, dlow)
    q, keys = _split(saved.qkv, q_width, k_width, layer.context)
    dqkv = scratch.qkv
    dq, dkeys = _split(dqkv, q_width, k_width, None)
    dcontext = layer.context.grad if layer.context is not None else None
    grads = (dq, dkeys.k, dkeys.v)
    k.attention_grad(grads, scratch.attn, saved.attn, saved.lse, q, keys, s.tree, heads, dcontext)
    if extra is not None:
        dkeys.k.add_(extra[0])
        dkeys.v.add_(extra[1])
    k.rope(dqkv[:, : q_width + k_width], *(s.local_rope if block.local else s.rope), width=heads.width, back=True)
    if saved.raw_qk is not None:
        _through_norm(s, layer, "q", dq, dq, saved.raw_qk[:, :q_width], heads=heads.heads)
        _through_norm(s, layer, "k", dkeys.k, dkeys.k, saved.raw_qk[:, q_width:], heads=heads.kv_heads)
    dlow = _back(s, layer, "qkv", dqkv, None if last else rounded, scratch)
    k.norm(scratch.hidden, saved.x, block.norm_in, s.eps, saved.scale["in"])
    _learn(s, layer, "qkv", scratch.hidden, dqkv, dlow)
    if not last:
        _through_norm(s, layer, "in", dx, rounded, saved.x, accumulate=True, rounded=rounded)


def _split(qkv: Tensor, q_width: int, k_width: int, context: KeyValues | None) -> tuple[Tensor, Keys]:
    q, k, v = torch.split(qkv, [q_width, k_width, k_width], dim=1)
    return q, Keys(k, v, context.k if context else None, context.v if context else None)


def _project(s: Setting, layer: Layer, name: str, x: Tensor, out: Tensor, residual: Tensor | None = None) -> None:
    site, seeds = layer.sites.get(name), layer.seeds
    weight, bias = layer.block.weights[name], layer.block.qkv_bias if name == "qkv" else None
    if site is None:
        s.kernels.linear(out, x, weight, Layout.NK, residual=residual, bias=bias)
        return
    source = x
    if s.dropout:
        if name not in seeds:
            seeds[name] = int(torch.randint(1 << 62, ()))
        source = _kept(s, x, seeds[name]).mul_(x)
    adapter = LowRank(site.a, site.b, layer.saved.low[name], source)
    s.kernels.linear(out, x, weight, Layout.NK, adapter=adapter, residual=residual, bias=bias)


def _add_to_stream(s: Setting, layer: Layer, name: str, x: Tensor, stream: Tensor, out: Tensor) -> None:
    """out = stream + projection of x, normed before it is added where the family does so."""
    saved, block = layer.saved, layer.block
    part = "attn_out" if name == "o" else "ffn_out"
    weight = block.norm_attn_out if name == "o" else block.norm_ffn_out
    y = saved.attn_out if name == "o" else saved.ffn_out
    if weight is None or y is None:
        _project(s, layer, name, x, out, residual=stream)
        return
    _project(s, layer, name, x, y)
    s.kernels.norm(out, y, weight, s.eps, saved.scale[part], residual=stream)


def _through_post_norm(s: Setting, layer: Layer, part: str, dx: Tensor, y: Tensor | None, scratch: Scratch) -> Tensor:
    """Return the gradient by what the projection gave, in T; without such a norm that is dx itself, rounded."""
    if y is not None:
        _through_norm(s, layer, part, scratch.rounded, dx, y)
    return scratch.rounded


def _through_norm(
    s: Setting,
    layer: Layer,
    part: str,
    dx: Tensor,
    dy: Tensor,
    x: Tensor,
    *,
    heads: int = 1,
    accumulate: bool = False,
    rounded: Tensor | None = None,
) -> None:
    """dx = (or +=) the gradient by the input of the norm `part`; add to that of its weight, where it learns."""
    name = f"norm_{part}"
    weight, scale = getattr(layer.block, name), layer.saved.scale[part]
    if name in layer.own:
        norm_weight_grad(layer.own[name], dy, x, scale)
    s.kernels.norm_grad(dx, dy, x, weight, scale, heads=heads, accumulate=accumulate, rounded=rounded)


def norm_weight_grad(grad: Tensor, dy: Tensor, x: Tensor, scale: Tensor) -> None:
    """grad [W] += the sum over tokens, and heads where x [N, heads W] has several, of dy x / rms; scale [N, heads]."""
    unit = x.view(len(x), -1, len(grad)).to(grad.dtype) * scale[..., None]
    grad.add_(unit.mul_(dy.reshape(unit.shape)).sum((0, 1)))


def _back(s: Setting, layer: Layer, name: str, dy: Tensor, dx: Tensor | None, scratch: Scratch) -> Tensor | None:
    """Fill dx = dy W + (scale dy B) A, if wanted; return scale dy B [N, R]."""
    site, w, seeds = layer.sites.get(name), layer.block.weights[name], layer.seeds
    if site is None:
        if dx is not None:
            s.kernels.linear(dx, dy, w, Layout.KN)
        return None
    rank = site.a.shape[0]
    dlow = scratch.dlow.view(-1)[: dy.shape[0] * rank].view(-1, rank)
    if dx is None or name in seeds:
        s.kernels.linear(dlow, dy, site.b, Layout.NK)
        if dx is not None:
            s.kernels.linear(dx, dy, w, Layout.KN)
            dx.add_(_kept(s, dx, seeds[name]).mul_(dlow @ site.a))
    else:
        s.kernels.linear(dx, dy, w, Layout.KN, adapter=LowRank(site.b, site.a, dlow))
    return dlow


def _learn(s: Setting, layer: Layer, name: str, x: Tensor, dy: Tensor, dlow: Tensor | None) -> None:
    """Add to the gradients of a product's adapter, or of its own weights, where they learn."""
    site, seeds = layer.sites.get(name), layer.seeds
    if site is not None and dlow is not None:
        source = _kept(s, x, seeds[name]).mul_(x) if name in seeds else x
        s.kernels.adapter_grad(site, source, dy, layer.saved.low[name], dlow)
    if name in layer.own:
        s.kernels.weight_grad(layer.own[name], x, dy)
    if name == "qkv" and "qkv_bias" in layer.own:
        grad = layer.own["qkv_bias"]
        grad.add_(dy.sum(0, dtype=grad.dtype))


def _kept(s: Setting, like: Tensor, seed: int) -> Tensor:
    """Return what dropout multiplies with: 0, or 1 / (1 - p) with probability 1 - p."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty_like(like).bernoulli_(1 - s.dropout, generator=generator).div_(1 - s.dropout)
