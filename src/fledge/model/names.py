"""What each weight is called by Hugging Face and by llama.cpp, one table entry an architecture.

An entry says, for every tensor, both names, its shape by meaning, and whether its rows are permuted. To add an
architecture, add an entry; nothing else in this file changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Architecture:
    """The names of a model type. `per_layer` keys go after `model.layers.N.`, its GGUF names after `blk.N.`."""

    name: str
    hf_class: str
    embedding: str
    head: str
    outside: Mapping[str, Weight]
    per_layer: Mapping[str, Weight]


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        name="llama",
        hf_class="LlamaForCausalLM",
        embedding="model.embed_tokens.weight",
        head="lm_head.weight",
        outside={
            "model.embed_tokens.weight": Weight("token_embd.weight", ("vocab_size", "width")),
            "model.norm.weight": Weight("output_norm.weight", ("width",)),
            "lm_head.weight": Weight("output.weight", ("vocab_size", "width")),
        },
        per_layer={
            "input_layernorm.weight": Weight("attn_norm.weight", ("width",)),
            "self_attn.q_proj.weight": Weight("attn_q.weight", ("query_width", "width"), heads="num_heads"),
            "self_attn.k_proj.weight": Weight("attn_k.weight", ("key_width", "width"), heads="num_kv_heads"),
            "self_attn.v_proj.weight": Weight("attn_v.weight", ("key_width", "width")),
            "self_attn.o_proj.weight": Weight("attn_output.weight", ("width", "query_width")),
            "post_attention_layernorm.weight": Weight("ffn_norm.weight", ("width",)),
            "mlp.gate_proj.weight": Weight("ffn_gate.weight", ("ffn_width", "width")),
            "mlp.up_proj.weight": Weight("ffn_up.weight", ("ffn_width", "width")),
            "mlp.down_proj.weight": Weight("ffn_down.weight", ("width", "ffn_width")),
        },
    ),
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
