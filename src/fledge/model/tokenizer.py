"""The tokenizer that comes with a model's weights."""

from __future__ import annotations

from fledge.data import tokenizer
from fledge.data.tokenizer import Tokenizer
from fledge.model.weights import GgufWeights, Weights


def load_tokenizer(weights: Weights) -> Tokenizer:
    """Return the tokenizer of a GGUF file or a Hugging Face folder. Raises ModelError for one it cannot rebuild."""
    weights = weights.origin
    if isinstance(weights, GgufWeights):
        return tokenizer.from_gguf(weights.header.kv, where=str(weights.path))
    return tokenizer.from_folder(weights.path)
