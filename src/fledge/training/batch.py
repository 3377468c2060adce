"""Trees -> tensors: the only place where lists become training tensors, and the order in which rows are learnt.

Shapes: N distinct tokens, U distinct (predictor, target) pairs, M supervised tokens, S sequences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fledge.data.course import Course
from fledge.data.tree import Places, Tree, in_order, pack_after_prompts, split
from fledge.model.tokens import TreeTokens
from fledge.records import Example
from fledge.training.ranks import Ranks

# What a token of a context takes (keys and values of all layers) is about so much of what an own one does.
PROMPT_SHARE = 1 / 8


@dataclass(frozen=True)
class Piece:
    """One tree of an optimizer step as tensors.

    A supervised token that k rows share is one (predictor, target) pair and k entries of M: `pair_M` leads from the
    entries to the pairs, so the LM head runs once per pair. Predictors are counted through the trunk first.
    prompt_places_C: where the model remembers the keys of the prompts that the piece stands on, if it does.
    """

    tokens: TreeTokens
    predictor_U: Tensor
    target_U: Tensor
    pair_M: Tensor
    sequence_M: Tensor
    weight_M: Tensor
    columns_S: Mapping[str, Tensor]
    num_sequences: int
    num_tokens_unshared: int
    prompt_places_C: Tensor | None = None
    tokens_M: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return self.tokens.num_tokens


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step, in pieces that fit in memory. Which rows they are never depends on the pieces.

    `trunk`: tokens that several pieces stand on, or None. `weight`: the sum of weights of the step's taught tokens.
    aside: rows that are scored before the step, without gradient, for what the objective has to know of all of it.
    temperature: of the softmax under which log-probabilities are taken; not for models that cap their logits.
    """

    trunk: TreeTokens | None
    pieces: tuple[Piece, ...]
    weight: float
    num_rows: int
    aside: Batch | None = None
    temperature: float = 1.0

    @property
    def num_tokens(self) -> int:
        """The tokens that are computed."""
        own = (self.trunk.num_tokens if self.trunk else 0) + sum(piece.num_tokens for piece in self.pieces)
        return own + (self.aside.num_tokens if self.aside else 0)

    @property
    def num_tokens_unshared(self) -> int:
        return sum(piece.num_tokens_unshared for piece in self.pieces)


@dataclass(frozen=True)
class Memory:
    """What a model has computed once for the whole run: `places` of every row's tokens, or of its prompt alone."""

    places: Places
    prompts: bool


def to_batch(
    examples: Sequence[Example],
    *,
    tokens_per_piece: int,
    trunk: bool = True,
    memory: Memory | None = None,
    numbers: Sequence[int] = (),
    ranks: Ranks | None = None,
    unit: int = 1,
) -> Batch:
    """Return the optimizer step over `examples`; with trunk=False no piece stands on another.

    `memory`: what the model remembers of the examples, of which these have the `numbers`. A row is `unit` examples in
    sequence. With several `ranks` the batch holds this rank's share of the rows, under the weight of them all.
    """
    weight = math.fsum(w for example in examples for w in example.weights if w > 0)
    num_rows = len(examples) // unit
    if ranks is not None and ranks.size > 1:
        order = [i for row in ranks.share(in_order([example.ids for example in examples], unit)) for i in row]
        examples, numbers = [examples[i] for i in order], [numbers[i] for i in order] if numbers else ()
        if not examples:
            return Batch(None, (), weight, num_rows)
    if memory is not None and memory.prompts:
        parts = tuple(_after_prompts(examples, memory.places, numbers, tokens_per_piece))
        return Batch(None, parts, weight, num_rows)
    step = split(examples, max_tokens=tokens_per_piece, trunk=trunk, unit=unit)
    pieces = []
    for indices, tree in step.pieces:
        place_N = _places(tree, memory.places, [numbers[i] for i in indices]) if memory else None
        pieces.append(_to_piece(tree, place_N))
    base = None
    if step.trunk is not None:
        base = to_tokens(step.trunk, _places(step.trunk, memory.places, numbers) if memory else None)
    return Batch(base, tuple(pieces), weight, num_rows)


def _after_prompts(
    examples: Sequence[Example], places: Places, numbers: Sequence[int], max_tokens: int
) -> Iterator[Piece]:
    """Yield the rows behind their prompts, in pieces of about `max_tokens`; a prompt's token counts for an eighth."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].ids)
    parts: list[list[int]] = [[]]
    tokens = 0.0
    for i in order:
        own = len(examples[i].ids) - examples[i].prompt_tokens * (1 - PROMPT_SHARE)
        if parts[-1] and tokens + own > max_tokens:
            parts.append([])
            tokens = 0
        parts[-1].append(i)
        tokens += own
    for part in parts:
        prompts, behind = pack_after_prompts([examples[i] for i in part])
        piece = _to_piece(behind, None)
        yield replace(piece, prompt_places_C=_places(prompts, places, [numbers[i] for i in part]))


def _places(tree: Tree, places: Places, numbers: Sequence[int]) -> Tensor:
    """Return the place of every own token of a tree whose sequence s is row numbers[s]."""
    found = [places.place_S[numbers[row]][position] for row, position in zip(tree.row_N, tree.position_N, strict=True)]
    return torch.tensor(found, dtype=torch.int64)


def to_tokens(tree: Tree, place_N: Tensor | None = None) -> TreeTokens:
    """Return the tokens of a tree as tensors."""
    nodes: list[tuple[int, ...]] = []
    spans: list[tuple[int, int, int]] = []
    for node in range(len(tree.start_B)):
        runs = tree.runs_above(node)
        ends = (int(tree.start_B[node]), int(tree.end_B[node]), tree.position(node))
        nodes.append((*ends, len(spans), len(spans) + len(runs)))
        spans += runs
    return TreeTokens(
        ids_N=torch.from_numpy(tree.ids_N),
        position_N=torch.from_numpy(tree.position_N),
        node_B5=torch.tensor(nodes, dtype=torch.int64).view(-1, 5),
        span_S3=torch.tensor(spans, dtype=torch.int64).view(-1, 3),
        num_context=tree.num_trunk,
        place_N=place_N,
    )


def _to_piece(tree: Tree, place_N: Tensor | None) -> Piece:
    pairs = np.stack([tree.predictor_M, tree.target_M])
    unique_2U, pair_M = np.unique(pairs, axis=1, return_inverse=True)
    return Piece(
        tokens=to_tokens(tree, place_N),
        predictor_U=torch.from_numpy(np.ascontiguousarray(unique_2U[0])),
        target_U=torch.from_numpy(np.ascontiguousarray(unique_2U[1])),
        pair_M=torch.from_numpy(pair_M.reshape(-1)),
        sequence_M=torch.from_numpy(tree.sequence_M),
        weight_M=torch.from_numpy(tree.weight_M),
        columns_S={name: torch.from_numpy(column) for name, column in tree.columns_S.items()},
        num_sequences=tree.num_sequences,
        num_tokens_unshared=tree.num_tokens_unshared,
        tokens_M={name: torch.from_numpy(column) for name, column in tree.tokens_M.items()},
    )


def num_steps(num_rows: int, *, epochs: float, rows_per_step: int) -> int:
    """Return how many optimizer steps `epochs` passes over `num_rows` take; the last step of an epoch may be short."""
    whole, part = divmod(epochs, 1)
    steps_per_epoch = math.ceil(num_rows / rows_per_step)
    # 1.1 epochs are 0.1 of a pass more, not the 0.1000...01 that floating point makes of it.
    return max(1, int(whole) * steps_per_epoch + math.ceil(round(part * num_rows / rows_per_step, 6)))


def batches(
    examples: Sequence[Example],
    *,
    rows_per_step: int,
    tokens_per_piece: int,
    course: Course,
    first_step: int,
    steps: int,
    trunk: bool = True,
    memory: Memory | None = None,
    ranks: Ranks | None = None,
    unit: int = 1,
    aside: Sequence[Example] = (),
) -> Iterator[Batch]:
    """Yield the batches of steps first_step..steps-1. Step k is the same whichever step one begins with.

    `course` says which of the rows each epoch sees and in which order; row r is the `unit` examples from r unit on, and
    aside[r], where there are some, goes with it. `ranks` are those of this process, where nothing else is said.
    """
    ranks = ranks or Ranks.here()
    steps_per_epoch = math.ceil(course.rows_per_epoch / rows_per_step)
    order: list[int] = []
    order_epoch = -1
    for step in range(first_step, steps):
        epoch, index = divmod(step, steps_per_epoch)
        if epoch != order_epoch:
            order, order_epoch = course.epoch(epoch), epoch
        rows = order[index * rows_per_step : (index + 1) * rows_per_step]
        numbers = [row * unit + part for row in rows for part in range(unit)]
        batch = to_batch(
            [examples[number] for number in numbers],
            tokens_per_piece=tokens_per_piece,
            trunk=trunk,
            memory=memory,
            numbers=numbers,
            ranks=ranks,
            unit=unit,
        )
        if aside:
            beside = [aside[row] for row in rows]
            batch = replace(batch, aside=to_batch(beside, tokens_per_piece=tokens_per_piece, trunk=trunk, ranks=ranks))
        yield batch
