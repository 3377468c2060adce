"""One decoder layer, forward and backward written out over the kernels.

The residual stream and its gradient are kept in sums (float32), everything between in the compute dtype T. A layer
keeps its projections' outputs and recomputes norms and activations, which cost less than storing them.

Shapes: N tokens, D width.
"""

from __future__ import annotations

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


def forward(
    block: Block,
    sites: dict[str, Site],
    s: Setting,
    saved: Saved,
    scratch: Scratch,
    out: Tensor,
    context: KeyValues | None,
    seeds: Seeds,
) -> Seeds:
    """Compute the layer on saved.x into `out` [N, D]; fill `saved` and what is missing of the dropout `seeds`."""
    k, q_width, k_width = s.kernels, block.heads.heads * block.heads.width, block.heads.kv_heads * block.heads.width
    k.norm(scratch.hidden, saved.x, block.norm_in, s.eps, saved.scale["in"])
    _project(s, block, "qkv", sites, scratch.hidden, saved, saved.qkv, seeds)
    qk = saved.qkv[:, : q_width + k_width]
    q, keys = _split(saved.qkv, q_width, k_width, context)
    if saved.raw_qk is not None:
        saved.raw_qk.copy_(qk)
        assert block.norm_q is not None and block.norm_k is not None
        heads = block.heads
        k.norm(q, saved.raw_qk[:, :q_width], block.norm_q, s.eps, saved.scale["q"], heads=heads.heads)
        k.norm(keys.k, saved.raw_qk[:, q_width:], block.norm_k, s.eps, saved.scale["k"], heads=heads.kv_heads)
    k.rope(qk, *(s.local_rope if block.local else s.rope), width=block.heads.width)
    k.attention(saved.attn, saved.lse, q, keys, s.tree, block.heads)
    _add_to_stream(s, block, "o", sites, saved.attn, saved, saved.x, saved.mid, seeds)
    k.norm(scratch.hidden, saved.mid, block.norm_ffn, s.eps, saved.scale["ffn"])
    _project(s, block, "gate_up", sites, scratch.hidden, saved, saved.gate_up, seeds)
    k.gated(saved.gate_up, s.activation, scratch.act)
    _add_to_stream(s, block, "down", sites, scratch.act, saved, saved.mid, out, seeds)
    return seeds


def backward(
    block: Block,
    sites: dict[str, Site],
    s: Setting,
    saved: Saved,
    scratch: Scratch,
    seeds: Seeds,
    dx: Tensor,
    context: KeyValues | None,
    extra: Tensor | None,
    *,
    last: bool,
) -> None:
    """Turn dx [N, D] (sums), the gradient by the layer's output, into that by its input; add to those of adapters.

    scratch.rounded holds dx in T before and after. `extra` [2, N, kv_heads * width]: gradients by this layer's keys and
    values that came from elsewhere. With `last` nothing below is trained, and dx is not finished.
    """
    k, q_width, k_width = s.kernels, block.heads.heads * block.heads.width, block.heads.kv_heads * block.heads.width
    # feed-forward part
    dy = _through_post_norm(s, block.norm_ffn_out, dx, saved.ffn_out, saved.scale.get("ffn_out"), scratch)
    dlow = _back(s, block, "down", sites, dy, scratch.act, scratch, seeds)
    k.gated(saved.gate_up, s.activation, scratch.act, dy=scratch.act)
    _learn(s, "down", sites, scratch.act, dy, saved, dlow, seeds)
    dlow = _back(s, block, "gate_up", sites, saved.gate_up, scratch.rounded, scratch, seeds)
    k.norm(scratch.hidden, saved.mid, block.norm_ffn, s.eps, saved.scale["ffn"])
    _learn(s, "gate_up", sites, scratch.hidden, saved.gate_up, saved, dlow, seeds)
    scale = saved.scale
    rounded = scratch.rounded
    k.norm_grad(dx, rounded, saved.mid, block.norm_ffn, scale["ffn"], accumulate=True, rounded=rounded)
    # attention part
    dy = _through_post_norm(s, block.norm_attn_out, dx, saved.attn_out, scale.get("attn_out"), scratch)
    dlow = _back(s, block, "o", sites, dy, scratch.attn, scratch, seeds)
    _learn(s, "o", sites, saved.attn, dy, saved, dlow, seeds)
    q, keys = _split(saved.qkv, q_width, k_width, context)
    dqkv = scratch.qkv
    dq, dkeys = _split(dqkv, q_width, k_width, None)
    grads = (dq, dkeys.k, dkeys.v)
    dcontext = context.grad if context is not None else None
    k.attention_grad(grads, scratch.attn, saved.attn, saved.lse, q, keys, s.tree, block.heads, dcontext)
    if extra is not None:
        dkeys.k.add_(extra[0])
        dkeys.v.add_(extra[1])
    k.rope(dqkv[:, : q_width + k_width], *(s.local_rope if block.local else s.rope), width=block.heads.width, back=True)
    if saved.raw_qk is not None:
        assert block.norm_q is not None and block.norm_k is not None
        heads = block.heads
        k.norm_grad(dq, dq, saved.raw_qk[:, :q_width], block.norm_q, scale["q"], heads=heads.heads)
        k.norm_grad(dkeys.k, dkeys.k, saved.raw_qk[:, q_width:], block.norm_k, scale["k"], heads=heads.kv_heads)
    dlow = _back(s, block, "qkv", sites, dqkv, None if last else scratch.rounded, scratch, seeds)
    k.norm(scratch.hidden, saved.x, block.norm_in, s.eps, scale["in"])
    _learn(s, "qkv", sites, scratch.hidden, dqkv, saved, dlow, seeds)
    if not last:
        k.norm_grad(dx, rounded, saved.x, block.norm_in, scale["in"], accumulate=True, rounded=rounded)


def _split(qkv: Tensor, q_width: int, k_width: int, context: KeyValues | None) -> tuple[Tensor, Keys]:
    q, k, v = torch.split(qkv, [q_width, k_width, k_width], dim=1)
    return q, Keys(k, v, context.k if context else None, context.v if context else None)


def _project(
    s: Setting,
    block: Block,
    name: str,
    sites: dict[str, Site],
    x: Tensor,
    saved: Saved,
    out: Tensor,
    seeds: Seeds,
    residual: Tensor | None = None,
) -> None:
    site, bias = sites.get(name), block.qkv_bias if name == "qkv" else None
    if site is None:
        s.kernels.linear(out, x, block.weights[name], Layout.NK, residual=residual, bias=bias)
        return
    source = x
    if s.dropout:
        if name not in seeds:
            seeds[name] = int(torch.randint(1 << 62, ()))
        source = _kept(s, x, seeds[name]).mul_(x)
    adapter = LowRank(site.a, site.b, saved.low[name], source)
    s.kernels.linear(out, x, block.weights[name], Layout.NK, adapter=adapter, residual=residual, bias=bias)


def _add_to_stream(
    s: Setting,
    block: Block,
    name: str,
    sites: dict[str, Site],
    x: Tensor,
    saved: Saved,
    stream: Tensor,
    out: Tensor,
    seeds: Seeds,
) -> None:
    """out = stream + projection of x, normed before it is added where the family does so."""
    part = "attn_out" if name == "o" else "ffn_out"
    weight = block.norm_attn_out if name == "o" else block.norm_ffn_out
    y = saved.attn_out if name == "o" else saved.ffn_out
    if weight is None or y is None:
        _project(s, block, name, sites, x, saved, out, seeds, residual=stream)
        return
    _project(s, block, name, sites, x, saved, y, seeds)
    s.kernels.norm(out, y, weight, s.eps, saved.scale[part], residual=stream)


def _through_post_norm(
    s: Setting, weight: Tensor | None, dx: Tensor, y: Tensor | None, scale: Tensor | None, scratch: Scratch
) -> Tensor:
    """Return the gradient by what the projection gave, in T; without such a norm that is dx itself, rounded."""
    if weight is None or y is None or scale is None:
        return scratch.rounded
    s.kernels.norm_grad(scratch.rounded, dx, y, weight, scale)
    return scratch.rounded


def _back(
    s: Setting,
    block: Block,
    name: str,
    sites: dict[str, Site],
    dy: Tensor,
    dx: Tensor | None,
    scratch: Scratch,
    seeds: Seeds,
) -> Tensor | None:
    """Fill dx = dy W + (scale dy B) A, if wanted; return scale dy B [N, R]."""
    site, w = sites.get(name), block.weights[name]
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


def _learn(
    s: Setting,
    name: str,
    sites: dict[str, Site],
    x: Tensor,
    dy: Tensor,
    saved: Saved,
    dlow: Tensor | None,
    seeds: Seeds,
) -> None:
    """Add to the gradients of a site's adapter, where it has one."""
    site = sites.get(name)
    if site is not None and dlow is not None:
        source = _kept(s, x, seeds[name]).mul_(x) if name in seeds else x
        s.kernels.adapter_grad(site, source, dy, saved.low[name], dlow)


def _kept(s: Setting, like: Tensor, seed: int) -> Tensor:
    """Return what dropout multiplies with: 0, or 1 / (1 - p) with probability 1 - p."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty_like(like).bernoulli_(1 - s.dropout, generator=generator).div_(1 - s.dropout)
