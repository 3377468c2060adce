"""Attention over a token tree, exact, without a T x T mask.

Each node attends to its ancestors and, causally, to itself. Gradients of shared keys and values are the sum over the
branches, which autograd gives because there is one tensor of them. It enters transformers through the public
AttentionInterface, so the model code stays theirs.

Shapes: N tokens in the tree, H query heads, K key/value heads, W head width, B nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NAME = "fledge_tree"


@dataclass(frozen=True)
class Branch:
    """One node: its tokens start:end, the tokens of its ancestors, and which of all these each own token may see."""

    start: int
    end: int
    ancestors: tuple[tuple[int, int], ...]
    visible: Tensor | None

    @classmethod
    def of(cls, start: int, end: int, ancestors: Sequence[tuple[int, int]]) -> Branch:
        """Return the branch; `visible` [own, ancestors + own] is None for a root, where plain causality is enough."""
        if not ancestors:
            return cls(start, end, (), None)
        own, before = end - start, sum(b - a for a, b in ancestors)
        visible = torch.ones(own, before + own, dtype=torch.bool).tril(diagonal=before)
        return cls(start, end, tuple(ancestors), visible)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Sequence[Branch],
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the attention output [1, N, H, W] of query [1, H, N, W], key and value [1, K, N, W] over `tree`."""
    assert attention_mask is None, "the tree is the mask"
    outputs = []
    for branch in tree:
        spans = (*branch.ancestors, (branch.start, branch.end))
        outputs.append(
            functional.scaled_dot_product_attention(
                query[:, :, branch.start : branch.end],
                _gather(key, spans),
                _gather(value, spans),
                attn_mask=branch.visible,
                is_causal=branch.visible is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _gather(tensor: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    parts = [tensor[:, :, start:end] for start, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
