"""Texts as vectors, from a real file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fledge.errors import ModelError
from fledge.runtime.embeddings import TEXT_TOKENS, Embedder


@pytest.fixture(scope="module")
def embedder(starter_gguf: Path) -> Iterator[Embedder]:
    with Embedder(starter_gguf) as found:
        yield found


def test_what_means_the_same_lies_near(embedder: Embedder) -> None:
    texts = [
        "How do I sort a list of numbers in Python?",
        "Sorting a list in Python",
        "The recipe wants two eggs and some butter.",
        "Beat the eggs, then melt the butter.",
    ]
    vectors = embedder(texts)
    assert vectors.shape[0] == len(texts) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    centred = vectors - vectors.mean(axis=0)
    near = centred @ centred.T
    assert near[0, 1] > max(near[0, 2], near[0, 3]) and near[2, 3] > max(near[0, 2], near[1, 2])


def test_a_text_has_one_vector_whatever_is_asked_beside_it(embedder: Embedder) -> None:
    alone = embedder(["A kettle boils water."])
    together = embedder(["Something else.", "A kettle boils water.", "And more."])
    assert np.allclose(alone[0], together[1], atol=1e-3)


def test_a_long_text_is_cut_and_an_empty_one_has_a_vector(embedder: Embedder) -> None:
    long, empty = embedder(["word " * 4 * TEXT_TOKENS, ""])
    assert np.isfinite(long).all() and np.isfinite(empty).all()


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    with pytest.raises(ModelError):
        Embedder(tmp_path / "no.gguf")
