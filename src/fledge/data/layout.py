"""Where the tokens of some sequences lie so that every distinct prefix lies there once: a radix tree, laid out flat.

Tokens are counted by keys: through a trunk first, if there is one, and then through the own ones. Sharing is by token
identity.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

NO_PARENT = -1
# (first key, number of tokens, position of the first)
Run = tuple[int, int, int]


@dataclass(frozen=True)
class Node:
    """Tokens depth:end_depth of sequence `sequence` (and of all that share them), beginning at `start`."""

    parent: int
    sequence: int
    depth: int
    end_depth: int
    start: int

    @property
    def length(self) -> int:
        return self.end_depth - self.depth


@dataclass(frozen=True)
class Layout:
    """Where every token of some inputs lies: nodes, and for each input the runs of it that lie in a trunk.

    owner_S: which sequence an input was taken from, where it was cut from a longer one.
    """

    nodes: list[Node]
    leaf_S: list[int]
    inputs: Sequence[list[int]]
    above_S: list[list[Run]]
    num_trunk: int
    owner_S: Sequence[int] | None = None

    def keys(self, sequence: int) -> list[int]:
        """Return the key of every token of an input, from its first to its last."""
        return [key for start, length, _ in self.runs(sequence) for key in range(start, start + length)]

    @property
    def num_tokens(self) -> int:
        return self.nodes[-1].start + self.nodes[-1].length if self.nodes else 0

    def runs(self, sequence: int) -> list[Run]:
        """Return where the tokens of an input lie, from its first to its last."""
        own: list[Run] = []
        leaf = self.leaf_S[sequence]
        while leaf != NO_PARENT:
            node = self.nodes[leaf]
            own.append((self.num_trunk + node.start, node.length, node.depth))
            leaf = node.parent
        return [*self.above_S[sequence], *reversed(own)]


def lay_out(inputs: Sequence[list[int]], trunk: Sequence[tuple[Layout, Sequence[list[int]]]]) -> Layout:
    """Lay the tokens of `inputs` out as a tree; those that lie in the trunk already are not laid out again."""
    nodes, leaf = _radix(inputs)
    above: list[list[Run]] = [[] for _ in inputs]
    num_trunk = 0
    for base, held in trunk:
        num_trunk = base.num_tokens
        order = sorted(range(len(held)), key=held.__getitem__)
        in_order = [held[i] for i in order]
        for s, ids in enumerate(inputs):
            # In lexical order, nothing shares more with a sequence than what stands right before or behind its place.
            place = bisect.bisect_left(in_order, ids)
            near = order[max(0, place - 1) : place + 1]
            depth, best = max((common_prefix(ids, held[i]), i) for i in near)
            above[s] = _first(base.runs(best), depth)
    depth_S = [sum(length for _, length, _ in runs) for runs in above]
    kept: list[Node] = []
    number = {NO_PARENT: NO_PARENT}
    tokens = 0
    for old, node in enumerate(nodes):
        first = max(node.depth, depth_S[node.sequence])
        if first >= node.end_depth:
            number[old] = NO_PARENT
            continue
        number[old] = len(kept)
        kept.append(Node(number[node.parent], node.sequence, first, node.end_depth, tokens))
        tokens += node.end_depth - first
    return Layout(kept, [number[node] for node in leaf], inputs, above, num_trunk)


def _first(runs: Sequence[Run], count: int) -> list[Run]:
    """Return the first `count` tokens of `runs`."""
    found = []
    for start, length, position in runs:
        if position < count:
            found.append((start, min(length, count - position), position))
    return found


def _radix(inputs: Sequence[list[int]]) -> tuple[list[Node], list[int]]:
    """Return the nodes of the radix tree over `inputs` and, for each input, the node in which it ends.

    Sorted sequences that share a prefix are neighbours, so each node is a range of the sorted order.
    """
    order = sorted(range(len(inputs)), key=inputs.__getitem__)
    nodes: list[Node] = []
    leaf = [NO_PARENT] * len(inputs)
    num_tokens = 0
    # (first, last) of the sorted range, the depth already covered, the parent that covers it
    todo = [(0, len(order), 0, NO_PARENT)]
    while todo:
        low, high, depth, parent = todo.pop()
        first, last = inputs[order[low]], inputs[order[high - 1]]
        end = common_prefix(first, last)
        node = parent
        if end > depth:
            node = len(nodes)
            nodes.append(Node(parent, order[low], depth, end, num_tokens))
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


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)
