"""The tokens of a tree as a model reads them.

Shapes: N own tokens, C tokens of a context computed earlier, B nodes, S spans. Keys are counted through the context
first and then through the own tokens, 0..C+N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TreeTokens:
    """ids_N, position_N: the tokens and their places in their sequences.

    node_B5: own tokens start:end, the first one's position, and the rows first:end of span_S3 that are its ancestors.
    place_N: the numbers under which a model remembers what it has computed of these tokens before, if it has.
    span_S3: (start, length, position) of consecutive ancestor keys. A node sees its spans whole and itself causally.
    """

    ids_N: Tensor
    position_N: Tensor
    node_B5: Tensor
    span_S3: Tensor
    num_context: int = 0
    place_N: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return self.ids_N.shape[0]

    def nodes(self) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """Yield (start, end, ancestors), the ancestors as ranges of keys start:end."""
        spans = [(start, start + length) for start, length, _ in self.span_S3.tolist()]
        for start, end, _, first, last in self.node_B5.tolist():
            yield start, end, spans[first:last]


def single(ids: Tensor, position: int = 0) -> TreeTokens:
    """Return one sequence, nothing shared."""
    count = ids.shape[0]
    return TreeTokens(
        ids_N=ids,
        position_N=torch.arange(position, position + count),
        node_B5=torch.tensor([[0, count, position, 0, 0]]),
        span_S3=torch.zeros(0, 3, dtype=torch.int64),
    )


def behind(ids: Tensor, context_tokens: int) -> TreeTokens:
    """Return one sequence that goes on behind a context of `context_tokens` tokens, all of which it sees."""
    count = ids.shape[0]
    return TreeTokens(
        ids_N=ids,
        position_N=torch.arange(context_tokens, context_tokens + count),
        node_B5=torch.tensor([[0, count, context_tokens, 0, 1]]),
        span_S3=torch.tensor([[0, context_tokens, 0]]),
        num_context=context_tokens,
    )


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts as a tree: the tokens of all `trees` are numbered in order, and with `trunk` the others stand on
    the first. runs: for each prompt the (first number, length, position) of its tokens.
    """

    ids: Sequence[Sequence[int]]
    trees: Sequence[TreeTokens]
    trunk: bool
    runs: Sequence[Sequence[tuple[int, int, int]]]

    @property
    def num_tokens(self) -> int:
        return sum(tokens.num_tokens for tokens in self.trees)

    def length(self, prompt: int) -> int:
        return len(self.ids[prompt])


@dataclass
class Growing:
    """A reply under way: to which prompt, in which slot, and the tokens and log-probabilities that it has so far."""

    number: int
    prompt: int
    slot: int
    uniforms: Sequence[float]
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
