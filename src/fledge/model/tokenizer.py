"""The tokenizer that comes with a model's weights."""

from __future__ import annotations

from fledge.data import tokenizer
from fledge.data.tokenizer import Tokenizer, TokenType, with_added
from fledge.model.weights import GgufWeights, Weights


def load_tokenizer(weights: Weights) -> Tokenizer:
    """Return the tokenizer of a GGUF file or a Hugging Face folder, with the tokens that a run has added to it.

    Raises ModelError for one it cannot rebuild.
    """
    origin = weights.origin
    if isinstance(origin, GgufWeights):
        found = tokenizer.from_gguf(origin.header.kv, where=str(origin.path))
    else:
        found = tokenizer.from_folder(origin.path)
    return with_added(found, weights.added) if weights.added else found


def first_free_id(weights: Weights, own: Tokenizer) -> int:
    """Return the id behind the last token of a model's own: a GGUF file names the rows that no token uses too."""
    origin = weights.origin
    if not isinstance(origin, GgufWeights):
        return own.size
    types: list[int] = origin.header.kv["tokenizer.ggml.token_type"]
    return next((i + 1 for i in reversed(range(len(types))) if types[i] != TokenType.UNUSED), 0)
