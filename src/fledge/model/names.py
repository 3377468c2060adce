"""What each weight is called by Hugging Face and by llama.cpp, one table entry an architecture.

An entry says, for every tensor, both names, its shape by meaning, and whether its rows are permuted. To add an
architecture, add an entry; nothing else in this file changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

ROPE_FREQS = "rope_freqs.weight"
"""A GGUF tensor without a counterpart in a Hugging Face folder: the divisors of the rotary frequencies."""


@dataclass(frozen=True)
class Weight:
    """One kind of weight: its GGUF name, its dimensions as attributes of `Shape`, and whose heads permute its rows.

    llama.cpp rotates neighbouring rows (2i, 2i+1) of a head and transformers rotates rows (i, i + d/2). So the rows of
    the query and key projections stand in another order in the two formats; `heads` names the attribute of `Shape` with
    the number of heads, or is None where rows stay.
    """

    gguf: str
    dims: tuple[str, ...]
    heads: str | None = None


_OUTSIDE: Mapping[str, Weight] = {
    "model.embed_tokens.weight": Weight("token_embd.weight", ("vocab_size", "width")),
    "model.norm.weight": Weight("output_norm.weight", ("width",)),
    "lm_head.weight": Weight("output.weight", ("vocab_size", "width")),
}


@dataclass(frozen=True)
class Architecture:
    """The names of a model type. `per_layer` keys go after `model.layers.N.`, its GGUF names after `blk.N.`.

    `gguf` is what llama.cpp calls it, None where its files cannot be read or written yet.
    """

    name: str
    gguf: str | None
    hf_class: str
    per_layer: Mapping[str, Weight]
    outside: Mapping[str, Weight] = field(default_factory=lambda: _OUTSIDE)
    embedding: str = "model.embed_tokens.weight"
    head: str = "lm_head.weight"


# What all of them have; llama.cpp turns only Llama's heads another way round.
_PROJECTIONS = {
    "input_layernorm.weight": Weight("attn_norm.weight", ("width",)),
    "self_attn.q_proj.weight": Weight("attn_q.weight", ("query_width", "width")),
    "self_attn.k_proj.weight": Weight("attn_k.weight", ("key_width", "width")),
    "self_attn.v_proj.weight": Weight("attn_v.weight", ("key_width", "width")),
    "self_attn.o_proj.weight": Weight("attn_output.weight", ("width", "query_width")),
    "mlp.gate_proj.weight": Weight("ffn_gate.weight", ("ffn_width", "width")),
    "mlp.up_proj.weight": Weight("ffn_up.weight", ("ffn_width", "width")),
    "mlp.down_proj.weight": Weight("ffn_down.weight", ("width", "ffn_width")),
}
_FFN_NORM = {"post_attention_layernorm.weight": Weight("ffn_norm.weight", ("width",))}
_HEAD_NORMS = {
    "self_attn.q_norm.weight": Weight("attn_q_norm.weight", ("head_width",)),
    "self_attn.k_norm.weight": Weight("attn_k_norm.weight", ("head_width",)),
}
_LLAMA = {
    **_PROJECTIONS,
    "self_attn.q_proj.weight": Weight("attn_q.weight", ("query_width", "width"), heads="num_heads"),
    "self_attn.k_proj.weight": Weight("attn_k.weight", ("key_width", "width"), heads="num_kv_heads"),
    **_FFN_NORM,
}
_BIASES = {
    "self_attn.q_proj.bias": Weight("attn_q.bias", ("query_width",)),
    "self_attn.k_proj.bias": Weight("attn_k.bias", ("key_width",)),
    "self_attn.v_proj.bias": Weight("attn_v.bias", ("key_width",)),
}
_SANDWICH = {
    "post_attention_layernorm.weight": Weight("post_attention_norm.weight", ("width",)),
    "pre_feedforward_layernorm.weight": Weight("ffn_norm.weight", ("width",)),
    "post_feedforward_layernorm.weight": Weight("post_ffw_norm.weight", ("width",)),
}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "llama", "LlamaForCausalLM", _LLAMA),
    "mistral": Architecture("mistral", "llama", "MistralForCausalLM", _LLAMA),
    "qwen2": Architecture("qwen2", "qwen2", "Qwen2ForCausalLM", {**_PROJECTIONS, **_BIASES, **_FFN_NORM}),
    "qwen3": Architecture("qwen3", "qwen3", "Qwen3ForCausalLM", {**_PROJECTIONS, **_HEAD_NORMS, **_FFN_NORM}),
    "gemma3_text": Architecture("gemma3_text", None, "Gemma3ForCausalLM", {**_PROJECTIONS, **_HEAD_NORMS, **_SANDWICH}),
}


def weights_of(architecture: str, num_layers: int, *, tied: bool) -> dict[str, Weight]:
    """Return every weight of a model by its Hugging Face name, in file order; GGUF names carry their layer.

    With `tied`, the head is the embedding and has no tensor of its own in either format.
    """
    arch = ARCHITECTURES[architecture]
    found = {name: weight for name, weight in arch.outside.items() if not (tied and name == arch.head)}
    for layer in range(num_layers):
        for name, weight in arch.per_layer.items():
            found[f"model.layers.{layer}.{name}"] = Weight(f"blk.{layer}.{weight.gguf}", weight.dims, weight.heads)
    return found


def permute_rows(weight: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Return [rows, ...] with the rows of each head in llama.cpp's order: i, i + d/2 become 2i, 2i + 1."""
    rows = weight.shape[0]
    split = weight.reshape(num_heads, 2, rows // num_heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def unpermute_rows(weight: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Return [rows, ...] with the rows of each head in transformers' order; the inverse of `permute_rows`."""
    rows = weight.shape[0]
    split = weight.reshape(num_heads, rows // num_heads // 2, 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)
