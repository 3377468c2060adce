"""Examples -> Tree: every distinct prefix once. The only packer. numpy only.

Shapes: N distinct tokens, M supervised tokens, S sequences, B nodes (branches). A node's tokens see their ancestors and
themselves causally, never siblings; a child's positions continue its parent's. Sharing is by token identity. The
gradient of a tree is the gradient of the rows one by one: a supervised token shared by k sequences stands k times in
M (the identity behind it: mean over branches == one pass with per-token weights, arXiv 2511.00413).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fledge.data.layout import NO_PARENT, Layout, Run, common_prefix, lay_out
from fledge.records import Example

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
# above every token id
_MARK = 1 << 40


@dataclass(frozen=True)
class Tree:
    """A radix tree over token sequences, flat in memory, each node's tokens together and parents before children.

    A tree may stand on a trunk of C tokens that were laid out before; keys are then counted through the trunk first:
    0..C are trunk tokens, C..C+N own ones. Without a trunk C is 0.

    ids_N, position_N: the own tokens and their positions in their sequences; row_N: one of the sequences they are in.
    start_B, end_B, parent_B: node b holds own tokens start_B[b]:end_B[b]; parent_B[b] is a node or NO_PARENT.
    trunk_B: for each node the runs (first key, length, position) of trunk tokens above its root.
    predictor_M: the token (index into C+N) whose hidden state predicts target_M; sequence_M, weight_M: for whom, how
    much. columns_S, tokens_M: numbers of sequences and of supervised tokens that an objective may ask for.
    num_tokens_unshared: tokens that the same rows have without sharing.
    """

    ids_N: Ints
    position_N: Ints
    row_N: Ints
    start_B: Ints
    end_B: Ints
    parent_B: Ints
    trunk_B: Sequence[Sequence[Run]]
    num_trunk: int
    predictor_M: Ints
    target_M: Ints
    sequence_M: Ints
    weight_M: Floats
    columns_S: Mapping[str, NDArray[np.float64]]
    num_sequences: int
    num_tokens_unshared: int
    tokens_M: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def ancestors(self, node: int) -> list[int]:
        """Return the nodes from the root down to the parent of `node`."""
        path = []
        while (node := int(self.parent_B[node])) != NO_PARENT:
            path.append(node)
        return path[::-1]

    def runs_above(self, node: int) -> list[Run]:
        """Return the runs of keys that all tokens of `node` see, from the first token of their sequences on."""
        own = [
            (self.num_trunk + int(self.start_B[a]), int(self.end_B[a] - self.start_B[a]), self.position(a))
            for a in self.ancestors(node)
        ]
        return [*self.trunk_B[node], *own]

    def position(self, node: int) -> int:
        return int(self.position_N[self.start_B[node]])


@dataclass(frozen=True)
class Step:
    """The rows of an optimizer step in trees that fit in memory.

    `trunk` holds tokens that several pieces stand on, so that each is computed once in the whole step; it is None where
    the step is one piece or the pieces share nothing. `pieces` are (indices of rows, their tree).
    """

    trunk: Tree | None
    pieces: tuple[tuple[list[int], Tree], ...]


def pack(examples: Sequence[Example]) -> Tree:
    """Return the tree of `examples`; sequence s of the tree is examples[s].

    Tokens after the last predictor of a sequence (its final taught token among them) are left out: nothing depends on
    them. Every example must teach something, and not its first token, which nothing predicts.
    """
    assert examples, "nothing to pack"
    return _filled(examples, lay_out([_input(example) for example in examples], []))


def split(examples: Sequence[Example], *, max_tokens: int, trunk: bool = True, unit: int = 1) -> Step:
    """Return the step over `examples` in pieces of at most `max_tokens` distinct tokens where one row allows it.

    A row is `unit` examples in sequence, which stay in one piece and in their order. Rows with a common prefix stay
    together: they are cut in sorted order. Which rows share an optimizer step is not changed by this, only how much of
    it is in memory at once. The trunk has at most `max_tokens` too; with trunk=False there is none, and each piece
    computes for itself what it shares with others.
    """
    base, parts = _divide([_input(example) for example in examples], max_tokens=max_tokens, trunk=trunk, unit=unit)
    pieces = ((part, _filled([examples[i] for i in part], layout)) for part, layout in parts)
    return Step(None if base is None else _bare(base), tuple(pieces))


def pack_after_prompts(examples: Sequence[Example]) -> tuple[Tree, Tree]:
    """Return (the tree of the rows' prompts, the tree of what follows them, which stands on it).

    A row's prompt is its first `prompt_tokens` tokens. Every token of the first tree is one of some row's prompt.
    """
    inputs = inputs_of(examples)
    prompts = [ids[: example.prompt_tokens] for ids, example in zip(inputs, examples, strict=True)]
    # A token behind a prompt is not the same as one within a longer prompt, though all before it be equal.
    marked = [ids[: len(p)] + [t + _MARK for t in ids[len(p) :]] for ids, p in zip(inputs, prompts, strict=True)]
    base = lay_out(prompts, [])
    behind = _filled(examples, lay_out(marked, [(base, prompts)]))
    return _bare(base), replace(behind, ids_N=behind.ids_N % _MARK)


@dataclass(frozen=True)
class Places:
    """A number for every distinct prefix of some sequences: what is computed of it once can be found again.

    trunk, parts: trees of all of them, numbered in this order, the trunk's tokens first (`count` in all). place_S: for
    each sequence the numbers of its tokens.
    """

    trunk: Tree | None
    parts: tuple[Tree, ...]
    place_S: tuple[Ints, ...]
    count: int


def number_prefixes(inputs: Sequence[list[int]], *, max_tokens: int) -> Places:
    """Return the places of all tokens of `inputs`, in trees of at most `max_tokens` where one input allows it."""
    base, parts = _divide(inputs, max_tokens=max_tokens, trunk=True)
    places: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(inputs)
    num_trunk = count = 0 if base is None else base.num_tokens
    for part, layout in parts:
        for own, i in enumerate(part):
            keys = np.array(layout.keys(own), dtype=np.int64)
            places[i] = np.where(keys < num_trunk, keys, keys - num_trunk + count)
        count += layout.num_tokens
    trees = tuple(_bare(layout) for _, layout in parts)
    return Places(None if base is None else _bare(base), trees, tuple(places), count)


def inputs_of(examples: Sequence[Example]) -> list[list[int]]:
    """Return the tokens of each example that the model has to read: all before its last taught one."""
    return [_input(example) for example in examples]


def _divide(
    inputs: Sequence[list[int]], *, max_tokens: int, trunk: bool, unit: int = 1
) -> tuple[Layout | None, list[tuple[list[int], Layout]]]:
    """Return the layout of the trunk, if there is one, and the (indices, layout) of every part."""
    rows = in_order(inputs, unit)
    common = common_prefix(min(inputs), max(inputs))
    parts = _cut(inputs, rows, max_tokens, free=min(common, max_tokens) if trunk else 0)
    ends = [(before[-1], after[0]) for before, after in pairwise(parts)] if trunk else []
    prefixes = [(inputs[i][: common_prefix(inputs[i], inputs[j])], i) for i, j in ends]
    held = _at_most(prefixes, max_tokens)
    if not held:
        return None, [(part, lay_out([inputs[i] for i in part], [])) for part in parts]
    base = replace(lay_out([ids for ids, _ in held], []), owner_S=[owner for _, owner in held])
    above = [(base, [ids for ids, _ in held])]
    return base, [(part, lay_out([inputs[i] for i in part], above)) for part in parts]


def _input(example: Example) -> list[int]:
    assert example.num_taught and example.weights[0] == 0, f"{example.origin}: nothing taught, or the first token is"
    return example.ids[: max(i for i, w in enumerate(example.weights) if w > 0)]


def in_order(inputs: Sequence[list[int]], unit: int) -> list[list[int]]:
    """Return the indices of each row, rows that begin alike beside each other; a row is `unit` inputs in sequence."""
    rows = [list(range(first, first + unit)) for first in range(0, len(inputs), unit)]
    return sorted(rows, key=lambda row: min(inputs[i] for i in row))


def _cut(inputs: Sequence[list[int]], rows: Sequence[list[int]], max_tokens: int, *, free: int) -> list[list[int]]:
    """Return runs of `rows` of at most `max_tokens` distinct tokens each; the first `free` of an input cost nothing."""
    parts: list[list[int]] = [[]]
    tokens = 0
    for row in rows:
        own = _new_tokens(inputs, [*parts[-1][-1:], *row], free)
        alone = _new_tokens(inputs, row, free) + len(inputs[row[0]]) - free
        if not parts[-1]:
            own = alone
        elif tokens + own > max_tokens:
            parts.append([])
            tokens, own = 0, alone
        parts[-1] += row
        tokens += own
    return parts


def _new_tokens(inputs: Sequence[list[int]], run: Sequence[int], free: int) -> int:
    """Return the tokens that each input of a run adds to those of the one before it, the first one's left out."""
    return sum(len(inputs[i]) - max(free, common_prefix(inputs[before], inputs[i])) for before, i in pairwise(run))


def _at_most(prefixes: Sequence[tuple[list[int], int]], max_tokens: int) -> list[tuple[list[int], int]]:
    """Return the (prefix, owner) all cut to the greatest length at which together they have at most `max_tokens`.

    Shorter prefixes are shared by more pieces, so what is cut off saves the least.
    """
    low, high = 0, max((len(ids) for ids, _ in prefixes), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        layout = lay_out([ids[:middle] for ids, _ in prefixes if ids], [])
        if layout.num_tokens <= max_tokens:
            low = middle
        else:
            high = middle - 1
    # sorted and without repetition, so that a step is laid out the same however its rows were given
    return [(list(ids), owner) for ids, owner in sorted({tuple(p[:low]): i for p, i in prefixes if p[:low]}.items())]


def _filled(examples: Sequence[Example], layout: Layout) -> Tree:
    """Return the tree of a layout with what its examples teach."""
    assert examples, "nothing to pack"
    predictor, target, sequence, weight = [], [], [], []
    for s, example in enumerate(examples):
        flat = layout.keys(s)
        for i, w in enumerate(example.weights):
            if w > 0:
                predictor.append(flat[i - 1])
                target.append(example.ids[i])
                sequence.append(s)
                weight.append(w)
    return replace(
        _bare(layout),
        predictor_M=np.array(predictor, dtype=np.int64),
        target_M=np.array(target, dtype=np.int64),
        sequence_M=np.array(sequence, dtype=np.int64),
        weight_M=np.array(weight, dtype=np.float32),
        columns_S=_columns(examples),
        num_sequences=len(examples),
        num_tokens_unshared=sum(map(len, layout.inputs)),
        tokens_M=_token_columns(examples),
    )


def _bare(layout: Layout) -> Tree:
    """Return the tree of a layout, with nothing supervised."""
    nodes = layout.nodes
    tokens = [layout.inputs[n.sequence][n.depth : n.end_depth] for n in nodes]
    start = np.array([n.start for n in nodes], dtype=np.int64)
    none = np.zeros(0, dtype=np.int64)
    owner = range(len(layout.inputs)) if layout.owner_S is None else layout.owner_S
    return Tree(
        ids_N=np.array([t for run in tokens for t in run], dtype=np.int64),
        position_N=np.array([p for n in nodes for p in range(n.depth, n.end_depth)], dtype=np.int64),
        row_N=np.array([owner[n.sequence] for n in nodes for _ in range(n.length)], dtype=np.int64),
        start_B=start,
        end_B=start + np.array([n.length for n in nodes], dtype=np.int64),
        parent_B=np.array([n.parent for n in nodes], dtype=np.int64),
        trunk_B=[layout.above_S[n.sequence] for n in nodes],
        num_trunk=layout.num_trunk,
        predictor_M=none,
        target_M=none,
        sequence_M=none,
        weight_M=np.zeros(0, dtype=np.float32),
        columns_S={},
        num_sequences=0,
        num_tokens_unshared=0,
    )


def _columns(examples: Sequence[Example]) -> dict[str, NDArray[np.float64]]:
    names = examples[0].columns
    assert all(set(e.columns) == set(names) for e in examples), "every example of a batch has the same columns"
    return {name: np.array([e.columns[name] for e in examples], dtype=np.float64) for name in names}


def _token_columns(examples: Sequence[Example]) -> dict[str, NDArray[np.float64]]:
    names = examples[0].tokens
    assert all(set(e.tokens) == set(names) for e in examples), "every example of a batch has the same numbers"
    return {name: np.array([x for e in examples for x in e.tokens[name]], dtype=np.float64) for name in names}
