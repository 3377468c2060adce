"""The shape of a model of the catalog, before anything of it is fetched."""

from __future__ import annotations

from typing import Any

from fledge.model.catalog import CatalogModel
from fledge.model.shape import Shape, shape_from_config

# What the published configurations of a family have beside the numbers of the catalog.
_MORE: dict[str, dict[str, Any]] = {"gemma3_text": {"sliding_window": 512}}


def shape_of(model: CatalogModel) -> Shape:
    """Return the shape that the model's own configuration tells, but for the scaling of its positions."""
    config = {
        "model_type": model.model_type,
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.width,
        "intermediate_size": model.ffn_width,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_width,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context_tokens,
        "tie_word_embeddings": model.tied_embeddings,
        **_MORE.get(model.model_type, {}),
    }
    return shape_from_config(config, where=model.name)
