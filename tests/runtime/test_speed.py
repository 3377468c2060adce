"""How fast llama.cpp would answer, told by a file that holds no numbers, against a file that does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fledge.model.random_weights import RandomWeights
from fledge.model.weights import GgufWeights, open_weights
from fledge.recipes import serving_speed
from fledge.recipes.serving_speed import tokens_per_s
from fledge.release import quantize
from fledge.runtime.speed import seconds_a_token


def shape_and_types(path: Path) -> tuple[GgufWeights, dict[str, tuple[int, ...]], dict[str, str]]:
    weights = open_weights(path)
    assert isinstance(weights, GgufWeights)
    named = RandomWeights(weights.shape, weights.shape.num_layers)
    tensors = {named.weights[name].gguf: named.tensor_shape(name) for name in named.names()}
    return weights, tensors, {name: weights.header.tensors[name].type for name in tensors}


def test_a_file_without_numbers_is_as_fast_as_one_with_numbers(starter_gguf: Path) -> None:
    weights, tensors, types = shape_and_types(starter_gguf)
    # In turn, and the quickest of each: what neighbours slow down is slow for both.
    pairs = [
        (1 / seconds_a_token(starter_gguf), tokens_per_s(weights.shape, tensors, types, starter_gguf.stat().st_size))
        for _ in range(3)
    ]
    held, hollow = (max(rates) for rates in zip(*pairs, strict=True))
    assert hollow == pytest.approx(held, rel=0.3)


def test_some_layers_tell_of_the_others(starter_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, tensors, types = shape_and_types(starter_gguf)
    size = starter_gguf.stat().st_size
    whole = max(tokens_per_s(weights.shape, tensors, types, size) for _ in range(3))
    monkeypatch.setattr(serving_speed, "MOST_BYTES", size // 3)
    part = max(tokens_per_s(weights.shape, tensors, types, size) for _ in range(3))
    assert part == pytest.approx(whole, rel=0.4)


def test_a_shape_of_another_architecture_runs_too() -> None:
    from fledge.model.catalog import get
    from fledge.model.catalog_shape import shape_of

    shape = shape_of(get("gemma-3-1b"))
    shape = replace(shape, num_layers=2, style=replace(shape.style, windows=shape.style.windows[:2]))
    named = RandomWeights(shape, 2)
    tensors = {named.weights[name].gguf: named.tensor_shape(name) for name in named.names()}
    types = quantize.plan("q8_0", tensors, num_layers=2, tied=shape.tied)
    assert tokens_per_s(shape, tensors, types, 1) > 0
