"""Weights -> a transformers model ready for the token tree. The one door to transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from fledge.errors import ModelError
from fledge.model import attention
from fledge.model.attention import Branch
from fledge.model.shape import Shape
from fledge.model.weights import Weights

AttentionInterface.register(attention.NAME, attention.tree_attention)


@dataclass(frozen=True)
class CausalModel:
    """A causal language model. `network` is transformers' own; adapters are put into it in place."""

    network: nn.Module
    shape: Shape
    dtype: torch.dtype

    def hidden(self, ids_1N: Tensor, position_1N: Tensor, tree: Sequence[Branch]) -> Tensor:
        """Return the last hidden states [N, D], after the final norm, of the tokens of a tree."""
        body: Any = self.network.model
        output = body(input_ids=ids_1N, position_ids=position_1N, use_cache=False, tree=tree)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @property
    def head(self) -> Tensor:
        """The output matrix [V, D]."""
        weight: Tensor = self.network.lm_head.weight  # type: ignore[union-attr,assignment]
        return weight


def load_model(weights: Weights, *, dtype: torch.dtype) -> CausalModel:
    """Return the model of `weights` in `dtype`, frozen, tensor by tensor so that float32 is never held whole."""
    build = BUILDERS.get(weights.shape.architecture)
    if build is None:
        raise ModelError(
            "model.unsupported",
            f"architecture '{weights.shape.architecture}' cannot be trained yet.",
            where=str(weights.path),
            remedy=f"These can: {', '.join(BUILDERS)}.",
        )
    with torch.device("meta"):
        network = build(weights.shape)
    state = {name: torch.from_numpy(weights.read(name)).to(dtype) for name in weights.names()}
    missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    assert not unexpected, f"tensors that the model does not know: {unexpected}"
    if weights.shape.tied:
        network.tie_weights()
        missing = [name for name in missing if name != "lm_head.weight"]
    assert not missing, f"tensors that were not read: {missing}"
    network.model.rotary_emb.inv_freq = _inverse_frequencies(weights.shape)
    network.requires_grad_(False)
    return CausalModel(network.eval(), weights.shape, dtype)


def _llama(shape: Shape) -> Any:
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.context_tokens,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tied,
        attn_implementation=attention.NAME,
    )
    return LlamaForCausalLM(config)


BUILDERS: dict[str, Callable[[Shape], Any]] = {"llama": _llama}


def _inverse_frequencies(shape: Shape) -> Tensor:
    """Return the rotary frequencies [head_width / 2], float32, scaled as the model's own factors say."""
    exponent = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    frequencies = 1.0 / (shape.rope_theta**exponent)
    if shape.rope_scaling is not None:
        frequencies = frequencies / torch.tensor(shape.rope_scaling["factors"], dtype=torch.float32)
    return frequencies
