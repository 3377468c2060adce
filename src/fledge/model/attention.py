"""Attention over a token tree inside transformers' own models, through their public AttentionInterface.

Each node attends to its ancestors and, causally, to itself; there is no T x T mask. Gradients of shared keys and values
are the sum over the branches, which autograd gives because there is one tensor of them. On a CUDA device a tree of many
tokens goes through FlexAttention, whose blocks skip what no token sees; a CPU has no backward pass for that.

Shapes: N tokens in the tree, H query heads, K key/value heads, W head width, B nodes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fledge.model.tokens import TreeTokens

NAME = "fledge_tree"
# What models hand to any attention function that changes nothing over a tree: its own mask and order are in `tree`.
HARMLESS = {
    *("dropout", "is_causal", "position_ids", "cache_position", "use_cache", "past_key_values", "past_key_value"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "position_bias"),
}
# Below so many tokens FlexAttention's blocks of 128 cost more than they save.
FLEX_TOKENS = 1024


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: TreeTokens,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    windows: set[int] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the attention output [1, N, H, W] of query [1, H, N, W], key and value [1, K, N, W] over `tree`.

    `windows` gathers each sliding window that a model hands over.
    Raises NotImplementedError where a model hands over something that would change the result and is not known here.
    """
    if odd := [name for name, value in others.items() if name not in HARMLESS and value is not None]:
        raise NotImplementedError(f"attention with {', '.join(odd)}")
    if windows is not None and sliding_window:
        windows.add(sliding_window)
    assert tree.num_context == 0, "transformers' models keep no context"
    if query.is_cuda and tree.num_tokens >= FLEX_TOKENS and not softcap:
        return flex_attention(query, key, value, tree, scaling=scaling, window=sliding_window).transpose(1, 2), None
    outputs = []
    for (start, end, _a), (own, keys) in zip(tree.nodes(), _places(tree), strict=True):
        visible = key_is_seen(own, keys, sliding_window).to(query.device)
        which = keys[1].to(query.device)
        q, k, v = query[:, :, start:end], key[:, :, which], value[:, :, which]
        outputs.append(
            _capped(q, k, v, visible, scaling, softcap)
            if softcap
            else functional.scaled_dot_product_attention(
                q, k, v, attn_mask=visible, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _places(tree: TreeTokens) -> list[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Return for every node its tokens' positions, and (positions, numbers) of the keys that it may look at."""
    spans = tree.span_S3.tolist()
    found = []
    for start, end, position, first, last in tree.node_B5.tolist():
        runs = [*spans[first:last], [start, end - start, position]]
        positions = torch.cat([torch.arange(p, p + n) for _, n, p in runs])
        numbers = torch.cat([torch.arange(s, s + n) for s, n, _ in runs])
        found.append((torch.arange(position, position + end - start), (positions, numbers)))
    return found


def key_is_seen(own: Tensor, keys: tuple[Tensor, Tensor], window: int | None) -> Tensor:
    """Return which keys [keys] each own token [n] sees: not after itself, and not further back than `window`."""
    visible = keys[0] <= own[:, None]
    return visible & (keys[0] > own[:, None] - window) if window else visible


def _capped(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scaling: float | None, softcap: float) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = softcap * torch.tanh(q @ k.transpose(2, 3) * ((scaling or q.shape[-1] ** -0.5) / softcap))
    precise = torch.promote_types(q.dtype, torch.float32)
    return scores.masked_fill(~visible, -torch.inf).softmax(-1, dtype=precise).to(v.dtype) @ v


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, tree: TreeTokens, *, scaling: float | None, window: int | None
) -> Tensor:
    """Return the attention output [1, H, N, W] by FlexAttention (Dong et al. 2024, arXiv 2412.05496).

    A token sees another where that one's node lies on its way from the root: first <= number < beyond in the order of a
    walk through the tree, and its position is not later.
    """
    from torch.nn.attention import flex_attention as flex

    mask = _block_mask(tree, window, str(query.device))
    run = torch.compile(flex.flex_attention, dynamic=True) if query.is_cuda else flex.flex_attention
    output: Tensor = run(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return output


# A tree is known by its tensors; all layers of a pass ask for the same masks, one for each window.
@functools.lru_cache(maxsize=4)
def _block_mask(tree: TreeTokens, window: int | None, device: str) -> Any:
    from torch.nn.attention import flex_attention as flex

    first_N, beyond_N = (x.to(device) for x in _walk(tree))
    position_N = tree.position_N.to(device)

    def seen(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        above = (first_N[k] <= first_N[q]) & (first_N[q] < beyond_N[k]) & (position_N[k] <= position_N[q])
        return above & (position_N[k] > position_N[q] - window) if window else above

    return flex.create_block_mask(seen, None, None, tree.num_tokens, tree.num_tokens, device=device)


def _walk(tree: TreeTokens) -> tuple[Tensor, Tensor]:
    """Return for every token its node's number in a walk through the tree, and the first number beyond its subtree.

    Nodes lie parents first and children right behind, so the order in memory is such a walk.
    """
    nodes = tree.node_B5.tolist()
    spans = tree.span_S3.tolist()
    number_at = {start: b for b, (start, *_) in enumerate(nodes)}
    beyond = list(range(1, len(nodes) + 1))
    for b in reversed(range(len(nodes))):
        for start, _, _ in spans[nodes[b][3] : nodes[b][4]]:
            beyond[number_at[start]] = max(beyond[number_at[start]], beyond[b])
    sizes = torch.tensor([end - start for start, end, *_ in nodes])
    return torch.arange(len(nodes)).repeat_interleave(sizes), torch.tensor(beyond).repeat_interleave(sizes)
