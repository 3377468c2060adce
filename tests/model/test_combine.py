"""Adapters put together change weights by what their formulas say; PEFT's own functions agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft.utils.merge_utils import ties

from fledge.errors import ConfigError, ModelError
from fledge.model.adapter import PREFIX, SIDES, Adapter
from fledge.model.combine import Recipe, combine, how_of

SHAPES = {"model.layers.0.self_attn.q_proj": (12, 20), "model.layers.1.mlp.down_proj": (20, 9)}


def adapter(seed: int, *, rank: int = 3, alpha: float = 6.0, only: str = "", **more: Any) -> Adapter:
    numbers = np.random.default_rng(seed)
    tensors = {}
    for module, (outs, ins) in SHAPES.items():
        if only in module:
            tensors[PREFIX + module + SIDES[0]] = numbers.standard_normal((rank, ins), dtype=np.float32)
            tensors[PREFIX + module + SIDES[1]] = numbers.standard_normal((outs, rank), dtype=np.float32)
    return Adapter(rank, alpha, False, ("q_proj", "down_proj"), "base", tensors, **more)


def deltas(one: Adapter) -> dict[str, NDArray[np.float64]]:
    return {name: one.scale * (b.astype(np.float64) @ a) for name, (a, b) in one.pairs().items()}


def apart(found: Adapter, expected: dict[str, NDArray[np.float64]]) -> float:
    own = deltas(found)
    assert own.keys() == expected.keys()
    return max(float(np.linalg.norm(own[n] - expected[n]) / np.linalg.norm(expected[n])) for n in own)


def test_linear_is_the_weighted_sum_whatever_their_ranks_and_scales() -> None:
    one, two = adapter(0), replace(adapter(1, rank=5, alpha=1.0), use_rslora=True)
    found = combine([one, two], Recipe("linear", (0.7, -0.2)))
    expected = {n: 0.7 * d - 0.2 * deltas(two)[n] for n, d in deltas(one).items()}
    assert (found.adapter.rank, found.adapter.scale, found.kept) == (8, 1.0, 1.0)
    assert apart(found.adapter, expected) < 1e-6


def test_an_adapter_of_some_layers_adds_nothing_to_the_others() -> None:
    one, two = adapter(0), adapter(1, only="down_proj")
    found = combine([one, two], Recipe("linear", (1.0, 1.0)))
    expected = {n: d + deltas(two).get(n, 0.0) for n, d in deltas(one).items()}
    assert apart(found.adapter, expected) < 1e-6


@pytest.mark.parametrize("rank", [1, 4])
def test_fewer_ranks_give_the_nearest(rank: int) -> None:
    """The singular values that are left out are all that is missing."""
    one, two = adapter(0), adapter(1)
    found = combine([one, two], Recipe("linear", (1.0, 1.0), rank=rank))
    whole = {n: d + deltas(two)[n] for n, d in deltas(one).items()}
    held = total = 0.0
    for name, d in whole.items():
        u, s, v = np.linalg.svd(d)
        near = (u[:, :rank] * s[:rank]) @ v[:rank]
        assert np.linalg.norm(deltas(found.adapter)[name] - near) < 1e-5 * np.linalg.norm(d)
        held, total = held + float((s[:rank] ** 2).sum()), total + float((s**2).sum())
    assert found.kept == pytest.approx(held / total, rel=1e-5) and found.kept < 0.99


@pytest.mark.parametrize("density", [0.2, 0.5, 0.99])
def test_ties_are_pefts(density: float) -> None:
    adapters = [adapter(seed) for seed in range(3)]
    # Every rank is kept, so that only the rule is compared.
    found = combine([replace(a, rank=3) for a in adapters], Recipe("ties", (1.0, 1.0, 1.0), density, rank=9))
    for name in deltas(adapters[0]):
        tasks = [torch.from_numpy(deltas(a)[name].astype(np.float32)) for a in adapters]
        expected = ties(tasks, torch.ones(3), density).numpy()
        u, s, v = np.linalg.svd(expected)
        near = (u[:, :9] * s[:9]) @ v[:9]
        assert np.linalg.norm(deltas(found.adapter)[name] - near) < 1e-4 * np.linalg.norm(near)


def test_a_heavier_adapter_decides_the_sign() -> None:
    one = adapter(0)
    two = replace(one, tensors={n: -t if SIDES[1] in n else t for n, t in one.tensors.items()})
    for weights, side in (((2.0, 1.0), 2.0), ((1.0, 2.0), -2.0)):
        found = combine([one, two], Recipe("ties", weights, density=1.0))
        assert apart(found.adapter, {n: side * d for n, d in deltas(one).items()}) < 1e-5


def test_dare_is_the_sum_in_the_mean_and_the_same_for_a_seed() -> None:
    one, two = adapter(0), adapter(1)
    expected = {n: d + deltas(two)[n] for n, d in deltas(one).items()}
    whole = combine([one, two], Recipe("dare", (1.0, 1.0), density=1.0)).adapter
    assert apart(whole, expected) < 1e-5, "nothing is dropped"
    half = [combine([one, two], Recipe("dare", (1.0, 1.0), 0.5, 20, seed)).adapter for seed in (3, 3, 4)]
    assert all(np.array_equal(half[0].tensors[n], half[1].tensors[n]) for n in half[0].tensors)
    assert any(not np.array_equal(half[0].tensors[n], half[2].tensors[n]) for n in half[0].tensors)
    many = [deltas(combine([one, two], Recipe("dare", (1.0, 1.0), 0.5, 20, seed)).adapter) for seed in range(200)]
    for name, d in expected.items():
        mean = np.mean([one_of[name] for one_of in many], axis=0)
        # Truncation to six ranks and chance; dropping without making larger would be off by a half.
        assert np.linalg.norm(mean - d) < 0.25 * np.linalg.norm(d)


def test_what_cannot_be_put_together() -> None:
    one = adapter(0)
    with pytest.raises(ModelError, match="DoRA"):
        combine([one, replace(one, use_dora=True)], Recipe("linear", (1.0, 1.0)))
    with pytest.raises(ModelError, match="after the prompt"):
        combine([one, replace(one, invocation_tokens=(1, 2))], Recipe("linear", (1.0, 1.0)))
    other = replace(one, tensors={n: t[:, :5] if SIDES[0] in n else t for n, t in one.tensors.items()})
    with pytest.raises(ModelError, match=r"is \[12, 20\] in one and \[12, 5\] in another"):
        combine([one, other], Recipe("linear", (1.0, 1.0)))
    with pytest.raises(ConfigError, match="no way to combine; did you mean 'linear'"):
        how_of("lineer")
    assert how_of("TIES") == "ties"
