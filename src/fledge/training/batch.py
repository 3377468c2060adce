"""Trees -> tensors: the only place where lists become training tensors, and the order in which rows are learnt.

Shapes: N distinct tokens, U distinct (predictor, target) pairs, M supervised tokens, S sequences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fledge.data.mix import shuffled
from fledge.data.tree import Tree, pieces
from fledge.model.attention import Branch
from fledge.records import Example


@dataclass(frozen=True)
class Piece:
    """One tree of an optimizer step as tensors.

    A supervised token that k rows share is one (predictor, target) pair and k entries of M: `pair_M` leads from the
    entries to the pairs, so the LM head runs once per pair.
    """

    ids_1N: Tensor
    position_1N: Tensor
    branches: tuple[Branch, ...]
    predictor_U: Tensor
    target_U: Tensor
    pair_M: Tensor
    sequence_M: Tensor
    weight_M: Tensor
    columns_S: Mapping[str, Tensor]
    num_tokens_unshared: int

    @property
    def num_tokens(self) -> int:
        return self.ids_1N.shape[1]


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step, in pieces that fit in memory. Which rows they are never depends on the pieces."""

    pieces: tuple[Piece, ...]
    weight: float
    num_rows: int

    @property
    def num_tokens(self) -> int:
        return sum(piece.num_tokens for piece in self.pieces)

    @property
    def num_tokens_unshared(self) -> int:
        return sum(piece.num_tokens_unshared for piece in self.pieces)


def to_batch(examples: Sequence[Example], *, tokens_per_piece: int) -> Batch:
    """Return the optimizer step over `examples`."""
    weight = math.fsum(w for example in examples for w in example.weights if w > 0)
    parts = tuple(_to_piece(tree) for _, tree in pieces(examples, max_tokens=tokens_per_piece))
    return Batch(parts, weight, len(examples))


def _to_piece(tree: Tree) -> Piece:
    spans = list(zip(tree.start_B.tolist(), tree.end_B.tolist(), strict=True))
    pairs = np.stack([tree.predictor_M, tree.target_M])
    unique_2U, pair_M = np.unique(pairs, axis=1, return_inverse=True)
    return Piece(
        ids_1N=torch.from_numpy(tree.ids_N)[None],
        position_1N=torch.from_numpy(tree.position_N)[None],
        branches=tuple(Branch.of(*span, [spans[a] for a in tree.ancestors(b)]) for b, span in enumerate(spans)),
        predictor_U=torch.from_numpy(np.ascontiguousarray(unique_2U[0])),
        target_U=torch.from_numpy(np.ascontiguousarray(unique_2U[1])),
        pair_M=torch.from_numpy(pair_M.reshape(-1)),
        sequence_M=torch.from_numpy(tree.sequence_M),
        weight_M=torch.from_numpy(tree.weight_M),
        columns_S={name: torch.from_numpy(column) for name, column in tree.columns_S.items()},
        num_tokens_unshared=tree.num_tokens_unshared,
    )


def num_steps(num_rows: int, *, epochs: float, rows_per_step: int) -> int:
    """Return how many optimizer steps `epochs` passes take; the last step of an epoch may be short."""
    whole, part = divmod(epochs, 1)
    steps_per_epoch = math.ceil(num_rows / rows_per_step)
    # 1.1 epochs are 0.1 of a pass more, not the 0.1000...01 that floating point makes of it.
    return max(1, int(whole) * steps_per_epoch + math.ceil(round(part * num_rows / rows_per_step, 6)))


def batches(
    examples: Sequence[Example], *, rows_per_step: int, tokens_per_piece: int, seed: int, first_step: int, steps: int
) -> Iterator[Batch]:
    """Yield the batches of steps first_step..steps-1. Step k is the same whichever step one begins with."""
    steps_per_epoch = math.ceil(len(examples) / rows_per_step)
    order: list[int] = []
    order_epoch = -1
    for step in range(first_step, steps):
        epoch, index = divmod(step, steps_per_epoch)
        if epoch != order_epoch:
            order, order_epoch = shuffled(len(examples), seed=seed, epoch=epoch), epoch
        rows = order[index * rows_per_step : (index + 1) * rows_per_step]
        yield to_batch([examples[row] for row in rows], tokens_per_piece=tokens_per_piece)
