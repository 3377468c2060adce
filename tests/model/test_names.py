"""Both formats' names and row orders, held against gguf's own table and against the rotary embedding itself."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from fledge.model.names import permute_rows, unpermute_rows, weights_of


@pytest.mark.parametrize("tied", [True, False])
def test_names_are_a_bijection_that_agrees_with_the_gguf_package(tied: bool) -> None:
    table = weights_of("llama", 5, tied=tied)
    assert len({weight.gguf for weight in table.values()}) == len(table) == 2 + 9 * 5 + (not tied)
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 5)
    for name, weight in table.items():
        assert theirs.get_name(name, try_suffixes=(".weight",)) == weight.gguf


def test_a_tied_head_has_no_tensor_of_its_own() -> None:
    assert "lm_head.weight" not in weights_of("llama", 1, tied=True)
    assert weights_of("llama", 1, tied=False)["lm_head.weight"].gguf == "output.weight"


@pytest.mark.parametrize(("num_heads", "head_width"), [(1, 2), (3, 4), (9, 64), (3, 64)])
def test_permuting_and_back_changes_nothing(num_heads: int, head_width: int) -> None:
    weight = np.random.default_rng(0).standard_normal((num_heads * head_width, 5))
    for one, other in ((permute_rows, unpermute_rows), (unpermute_rows, permute_rows)):
        assert np.array_equal(other(one(weight, num_heads), num_heads), weight)
    vector = weight[:, 0]
    assert np.array_equal(permute_rows(vector, num_heads), permute_rows(weight, num_heads)[:, 0])


def rotated(vector: NDArray[np.float64], position: int, *, neighbours: bool) -> NDArray[np.float64]:
    """One head under rotary embedding: pairs (2i, 2i + 1) as in llama.cpp, or (i, i + d/2) as in transformers."""
    half = len(vector) // 2
    pairs = vector.reshape(half, 2) if neighbours else vector.reshape(2, half).T
    angle = position * 10_000.0 ** (-np.arange(half) / half)
    turned = (pairs[:, 0] + 1j * pairs[:, 1]) * np.exp(1j * angle)
    return np.stack([turned.real, turned.imag], axis=1).ravel()


def test_permuted_rows_under_llama_cpp_rotation_give_transformers_attention() -> None:
    numbers = np.random.default_rng(1)
    query, key = numbers.standard_normal((2, 8, 6))
    hidden = numbers.standard_normal((2, 6))
    theirs = rotated(query @ hidden[0], 7, neighbours=False) @ rotated(key @ hidden[1], 3, neighbours=False)
    ours = [
        rotated(change(query) @ hidden[0], 7, neighbours=True) @ rotated(change(key) @ hidden[1], 3, neighbours=True)
        for change in (lambda w: permute_rows(w, 1), lambda w: w)
    ]
    assert np.isclose(ours[0], theirs)
    assert not np.isclose(ours[1], theirs), "rows in the wrong order must show"
