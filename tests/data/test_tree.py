"""A tree holds each distinct prefix once, and from it every row can be rebuilt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.tree import NO_PARENT, Tree, pack, split
from fledge.records import Example
from tiny import tries


def inputs(example: Example) -> list[int]:
    """What the model has to read of a row: all before its last taught token."""
    return example.ids[: max(i for i, w in enumerate(example.weights) if w > 0)]


@dataclass(frozen=True)
class Walk:
    """What stands on the way from the root to one token, by following parents alone."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]


def walk(tree: Tree, key: int, trunk: Tree | None = None) -> Walk:
    """What stands on the way from the root to a token, by the runs above its node alone; keys count the trunk first."""
    if key < tree.num_trunk:
        assert trunk is not None
        return walk(trunk, key)
    token = key - tree.num_trunk
    node = next(b for b in range(len(tree.start_B)) if tree.start_B[b] <= token < tree.end_B[b])
    keys = [k for start, length, _ in tree.runs_above(node) for k in range(start, start + length)]
    keys += range(tree.num_trunk + int(tree.start_B[node]), key + 1)
    own, base = [k - tree.num_trunk for k in keys if k >= tree.num_trunk], [k for k in keys if k < tree.num_trunk]
    ids = [int(trunk.ids_N[k]) for k in base] if trunk else []
    positions = [int(trunk.position_N[k]) for k in base] if trunk else []
    told = [p for _, length, first in tree.runs_above(node) for p in range(first, first + length)]
    positions += tree.position_N[own].tolist()
    assert positions[: len(told)] == told, "a run's position is that of its first token"
    return Walk(tuple(ids + tree.ids_N[own].tolist()), tuple(positions))


def entries(tree: Tree, trunk: Tree | None = None) -> Counter[tuple[int, tuple[int, ...], int, float]]:
    """Every supervised token as (row, what it is predicted from, target, weight)."""
    return Counter(
        (int(s), walk(tree, int(p), trunk).ids, int(t), float(w))
        for p, t, s, w in zip(tree.predictor_M, tree.target_M, tree.sequence_M, tree.weight_M, strict=True)
    )


def expected_entries(examples: Sequence[Example]) -> Counter[tuple[int, tuple[int, ...], int, float]]:
    return Counter(
        (s, tuple(example.ids[:i]), example.ids[i], w)
        for s, example in enumerate(examples)
        for i, w in enumerate(example.weights)
        if w > 0
    )


def distinct_prefixes(examples: Sequence[Example]) -> set[tuple[int, ...]]:
    return {tuple(inputs(e)[: i + 1]) for e in examples for i in range(len(inputs(e)))}


@settings(max_examples=300, deadline=None)
@given(examples=tries())
def test_every_row_can_be_rebuilt_and_nothing_stands_twice(examples: list[Example]) -> None:
    tree = pack(examples)
    assert entries(tree) == expected_entries(examples)
    walks = [walk(tree, token) for token in range(len(tree.ids_N))]
    assert all(w.positions == tuple(range(len(w.ids))) for w in walks), "positions count on from the root"
    assert {w.ids for w in walks} == distinct_prefixes(examples)
    assert len(tree.ids_N) == len(distinct_prefixes(examples))
    assert tree.num_tokens_unshared == sum(len(inputs(e)) for e in examples)
    assert tree.num_sequences == len(examples)
    assert tree.columns_S["label"].tolist() == [float(i) for i in range(len(examples))]


@settings(max_examples=200, deadline=None)
@given(examples=tries())
def test_nodes_are_flat_parents_first_and_as_long_as_can_be(examples: list[Example]) -> None:
    tree = pack(examples)
    assert tree.start_B[0] == 0
    assert tree.end_B[-1] == len(tree.ids_N)
    assert (tree.start_B[1:] == tree.end_B[:-1]).all(), "nodes lie one after the other"
    assert (tree.end_B > tree.start_B).all()
    assert all(int(parent) < node for node, parent in enumerate(tree.parent_B))
    leaves = Counter(int(p) for p in tree.parent_B)
    ends = {tuple(inputs(e)) for e in examples}
    for node in range(len(tree.start_B)):
        assert tree.ancestors(node) == sorted(tree.ancestors(node))
        # A node with a single child could be one node with it, unless a row ends there.
        assert leaves[node] != 1 or walk(tree, int(tree.end_B[node]) - 1).ids in ends
    children: dict[int, set[int]] = {}
    for node, parent in enumerate(tree.parent_B):
        first = int(tree.ids_N[tree.start_B[node]])
        assert first not in children.setdefault(int(parent), set()), "siblings begin differently"
        children[int(parent)].add(first)


@settings(max_examples=400, deadline=None)
@given(examples=tries(), max_tokens=st.integers(1, 60), trunk=st.booleans())
def test_a_split_step_holds_every_row_once_and_changes_no_total(
    examples: list[Example], max_tokens: int, trunk: bool
) -> None:
    step = split(examples, max_tokens=max_tokens, trunk=trunk)
    assert sorted(i for indices, _ in step.pieces for i in indices) == list(range(len(examples)))
    total: Counter[tuple[int, tuple[int, ...], int, float]] = Counter()
    for indices, tree in step.pieces:
        assert tree.num_trunk == (len(step.trunk.ids_N) if step.trunk else 0)
        assert len(tree.ids_N) <= max_tokens or len({tuple(inputs(examples[i])) for i in indices}) == 1 or trunk
        for (row, *rest), count in entries(tree, step.trunk).items():
            total[indices[row], *rest] += count  # type: ignore[index]
    assert total == expected_entries(examples)
    assert sum(tree.num_tokens_unshared for _, tree in step.pieces) == sum(len(inputs(e)) for e in examples)


@settings(max_examples=300, deadline=None)
@given(examples=tries(), max_tokens=st.integers(1, 60))
def test_what_pieces_share_stands_once_in_the_whole_step(examples: list[Example], max_tokens: int) -> None:
    step = split(examples, max_tokens=max_tokens)
    if step.trunk is None:
        return
    assert len(step.trunk.ids_N) <= max_tokens
    assert {walk(step.trunk, t).ids for t in range(len(step.trunk.ids_N))} <= distinct_prefixes(examples)
    whole = len(step.trunk.ids_N) + sum(len(tree.ids_N) for _, tree in step.pieces)
    apart = sum(len(tree.ids_N) for _, tree in split(examples, max_tokens=max_tokens, trunk=False).pieces)
    longest = max(len(ids) for ids in distinct_prefixes(examples))
    if longest <= max_tokens and len(step.trunk.ids_N) < max_tokens:
        assert whole == len(distinct_prefixes(examples)), "every distinct prefix is computed once"
    assert whole <= apart or max_tokens < longest


@settings(max_examples=100, deadline=None)
@given(examples=tries())
def test_enough_room_gives_one_piece_and_no_room_one_row_each(examples: list[Example]) -> None:
    step = split(examples, max_tokens=10_000)
    assert (step.trunk, len(step.pieces)) == (None, 1)
    for indices, _ in split(examples, max_tokens=1, trunk=False).pieces:
        assert len({tuple(inputs(examples[i])) for i in indices}) == 1, "only equal rows cost nothing more"


def test_a_system_prompt_is_the_trunk_of_a_split_step() -> None:
    system = list(range(1000))
    examples = [Example([*system, 2000 + i, *range(50), 1], [0.0] * 1051 + [1.0], str(i)) for i in range(40)]
    step = split(examples, max_tokens=1024)
    assert step.trunk is not None
    assert step.trunk.ids_N.tolist() == system
    assert [len(tree.ids_N) for _, tree in step.pieces] == [20 * 51, 20 * 51]


def test_a_shared_supervised_token_counts_for_each_row() -> None:
    examples = [Example([5, 6, 7], [0, 1, 1], "a"), Example([5, 6, 8], [0, 1, 1], "b")]
    tree = pack(examples)
    assert tree.ids_N.tolist() == [5, 6]
    assert tree.predictor_M.tolist() == [0, 1, 0, 1]
    assert tree.target_M.tolist() == [6, 7, 6, 8]
    assert tree.sequence_M.tolist() == [0, 0, 1, 1]


def test_a_thousand_tokens_of_system_prompt_are_held_once() -> None:
    system = list(range(1000))
    examples = [Example([*system, 2000 + i, 1], [0.0] * 1001 + [1.0], str(i)) for i in range(16)]
    tree = pack(examples)
    assert (len(tree.ids_N), tree.num_tokens_unshared) == (1016, 16016)
    assert tree.parent_B.tolist() == [NO_PARENT, *[0] * 16]


def test_a_row_of_ten_thousand_tokens_is_no_trouble() -> None:
    numbers = np.random.default_rng(0)
    ids = numbers.integers(0, 50, 10_000).tolist()
    cuts = numbers.integers(2, 10_000, 50).tolist()
    examples = [Example(ids[:cut], [0.0] * (cut - 1) + [1.0], "x") for cut in cuts]
    assert len(pack(examples).ids_N) == max(cuts) - 1


@pytest.mark.parametrize(
    "examples",
    [[], [Example([1, 2], [0.0, 0.0], "untaught")], [Example([1, 2], [1.0, 1.0], "first")]],
)
def test_what_cannot_be_packed_is_a_fault_of_ours(examples: list[Example]) -> None:
    with pytest.raises(AssertionError):
        pack(examples)


def test_negative_control_a_tree_with_a_token_moved_is_not_the_rows() -> None:
    examples = [Example([5, 6, 7, 8], [0, 0, 1, 1], "a"), Example([5, 6, 9, 8], [0, 0, 1, 1], "b")]
    tree = pack(examples)
    tree.predictor_M[0] += 1
    assert entries(tree) != expected_entries(examples)
