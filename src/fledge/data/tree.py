"""Examples -> Tree: every distinct prefix once. The only packer. numpy only.

Shapes: N distinct tokens, M supervised tokens, S sequences, B nodes (branches). A node's tokens see their ancestors and
themselves causally, never siblings; a child's positions continue its parent's. Sharing is by token identity. The
gradient of a tree is the gradient of the rows one by one: a supervised token shared by k sequences stands k times in
M (the identity behind it: mean over branches == one pass with per-token weights, arXiv 2511.00413).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fledge.records import Example

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
NO_PARENT = -1


@dataclass(frozen=True)
class Tree:
    """A radix tree over token sequences, flat in memory, each node's tokens together and parents before children.

    ids_N, position_N: the tokens and their positions in their sequences.
    start_B, end_B, parent_B: node b holds tokens start_B[b]:end_B[b]; parent_B[b] is a node or NO_PARENT.
    predictor_M: the token (index into N) whose hidden state predicts target_M; sequence_M, weight_M: for whom, how
    much. columns_S: per-sequence numbers an objective may ask for.
    num_tokens_unshared: tokens that the same rows have without sharing.
    """

    ids_N: Ints
    position_N: Ints
    start_B: Ints
    end_B: Ints
    parent_B: Ints
    predictor_M: Ints
    target_M: Ints
    sequence_M: Ints
    weight_M: Floats
    columns_S: Mapping[str, Floats]
    num_sequences: int
    num_tokens_unshared: int

    def ancestors(self, node: int) -> list[int]:
        """Return the nodes from the root down to the parent of `node`."""
        path = []
        while (node := int(self.parent_B[node])) != NO_PARENT:
            path.append(node)
        return path[::-1]


@dataclass(frozen=True)
class _Node:
    """Tokens depth:depth + len of sequence `sequence` (and of all that share them)."""

    parent: int
    sequence: int
    depth: int
    end_depth: int
    start: int


def pack(examples: Sequence[Example]) -> Tree:
    """Return the tree of `examples`; sequence s of the tree is examples[s].

    Tokens after the last predictor of a sequence (its final taught token among them) are left out: nothing depends on
    them. Every example must teach something, and not its first token, which nothing predicts.
    """
    assert examples, "nothing to pack"
    for example in examples:
        assert example.num_taught and example.weights[0] == 0, (
            f"{example.origin}: nothing taught, or the first token is"
        )
    inputs = [example.ids[: max(i for i, w in enumerate(example.weights) if w > 0)] for example in examples]
    nodes, leaf_S = _radix(inputs)
    tokens = [inputs[n.sequence][n.depth : n.end_depth] for n in nodes]
    predictor, target, sequence, weight = [], [], [], []
    for s, example in enumerate(examples):
        flat = _flat_indices(nodes, leaf_S[s])
        for i, w in enumerate(example.weights):
            if w > 0:
                predictor.append(flat[i - 1])
                target.append(example.ids[i])
                sequence.append(s)
                weight.append(w)
    start = np.array([n.start for n in nodes], dtype=np.int64)
    length = np.array([n.end_depth - n.depth for n in nodes], dtype=np.int64)
    return Tree(
        ids_N=np.array([t for run in tokens for t in run], dtype=np.int64),
        position_N=np.concatenate([np.arange(n.depth, n.end_depth, dtype=np.int64) for n in nodes]),
        start_B=start,
        end_B=start + length,
        parent_B=np.array([n.parent for n in nodes], dtype=np.int64),
        predictor_M=np.array(predictor, dtype=np.int64),
        target_M=np.array(target, dtype=np.int64),
        sequence_M=np.array(sequence, dtype=np.int64),
        weight_M=np.array(weight, dtype=np.float32),
        columns_S=_columns(examples),
        num_sequences=len(examples),
        num_tokens_unshared=sum(map(len, inputs)),
    )


def pieces(examples: Sequence[Example], *, max_tokens: int) -> Iterator[tuple[list[int], Tree]]:
    """Yield (indices into examples, their tree), each of at most `max_tokens` distinct tokens where one row allows it.

    Rows with a common prefix stay together: they are cut in sorted order. Which rows share an optimizer step is not
    changed by this, only how much of it is in memory at once.
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].ids)
    piece: list[int] = []
    tokens = 0
    for i in order:
        ids = examples[i].ids
        shared = _common_prefix(examples[piece[-1]].ids, ids) if piece else 0
        if piece and tokens + len(ids) - shared > max_tokens:
            yield piece, pack([examples[j] for j in piece])
            piece, tokens, shared = [], 0, 0
        piece.append(i)
        tokens += len(ids) - shared
    if piece:
        yield piece, pack([examples[j] for j in piece])


def _radix(inputs: Sequence[list[int]]) -> tuple[list[_Node], list[int]]:
    """Return the nodes of the radix tree over `inputs` and, for each input, the node in which it ends.

    Sorted sequences that share a prefix are neighbours, so each node is a range of the sorted order.
    """
    order = sorted(range(len(inputs)), key=inputs.__getitem__)
    nodes: list[_Node] = []
    leaf = [NO_PARENT] * len(inputs)
    num_tokens = 0
    # (first, last) of the sorted range, the depth already covered, the parent that covers it
    todo = [(0, len(order), 0, NO_PARENT)]
    while todo:
        low, high, depth, parent = todo.pop()
        first, last = inputs[order[low]], inputs[order[high - 1]]
        end = _common_prefix(first, last)
        node = parent
        if end > depth:
            node = len(nodes)
            nodes.append(_Node(parent, order[low], depth, end, num_tokens))
            num_tokens += end - depth
        while low < high and len(inputs[order[low]]) == end:
            leaf[order[low]] = node
            low += 1
        ranges = []
        while low < high:
            token = inputs[order[low]][end]
            stop = low
            while stop < high and inputs[order[stop]][end] == token:
                stop += 1
            ranges.append((low, stop, end, node))
            low = stop
        todo += reversed(ranges)
    return nodes, leaf


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)


def _flat_indices(nodes: Sequence[_Node], leaf: int) -> list[int]:
    """Return the index into N of every token on the way from the root to `leaf`."""
    runs = []
    while leaf != NO_PARENT:
        node = nodes[leaf]
        runs.append(range(node.start, node.start + node.end_depth - node.depth))
        leaf = node.parent
    return [i for run in reversed(runs) for i in run]


def _columns(examples: Sequence[Example]) -> dict[str, Floats]:
    names = examples[0].columns
    assert all(set(e.columns) == set(names) for e in examples), "every example of a batch has the same columns"
    return {name: np.array([e.columns[name] for e in examples], dtype=np.float32) for name in names}
