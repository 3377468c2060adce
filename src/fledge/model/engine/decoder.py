"""The frozen weights of a Llama-family decoder as the engine multiplies with them: siblings fused, norms in sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.model.engine.kernels import READ_AT_ONCE, HeadShape, Kernels, sums_dtype
from fledge.model.engine.stored import Buffers, StoredSites
from fledge.model.memory import forget_pages
from fledge.model.shape import Shape
from fledge.model.weights import Blocks, Weights

# The fused products of a block, each with its projections in order. A projection is named as Hugging Face does.
SITES: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True)
class Block:
    """One layer. Weights [out, in] in T by site; norm weights in sums, None where the family has none.

    Weights that stay quantised are made when they are asked for, into a buffer that all layers share (`stored`).
    """

    weights: Mapping[str, Tensor]
    qkv_bias: Tensor | None
    norm_in: Tensor
    norm_ffn: Tensor
    norm_attn_out: Tensor | None
    norm_ffn_out: Tensor | None
    norm_q: Tensor | None
    norm_k: Tensor | None
    heads: HeadShape
    local: bool


@dataclass(frozen=True)
class Decoder:
    """embedding_VD and head_VD are one tensor where they are tied. inverse_frequencies: [width / 2] in float64.

    An embedding that stays quantised is read row by row.
    """

    shape: Shape
    dtype: torch.dtype
    embedding_VD: Tensor | Blocks
    head_VD: Tensor
    norm_out: Tensor
    blocks: tuple[Block, ...]
    inverse_frequencies: Tensor
    local_inverse_frequencies: Tensor | None


def site_widths(shape: Shape, site: str) -> tuple[int, list[int]]:
    """Return (in, [out of each projection]) of a fused product."""
    outs = {
        "qkv": [shape.query_width, shape.key_width, shape.key_width],
        "o": [shape.width],
        "gate_up": [shape.ffn_width, shape.ffn_width],
        "down": [shape.width],
    }
    ins = {"qkv": shape.width, "o": shape.query_width, "gate_up": shape.width, "down": shape.ffn_width}
    return ins[site], outs[site]


def read_decoder(weights: Weights, kernels: Kernels, *, dtype: torch.dtype, stay: bool = False) -> Decoder:
    """Return the decoder of `weights` in `dtype`, some rows at a time: float32 is never held of a whole tensor.

    With `stay` quantised weights stay in the blocks of their file, but for a head, which every token needs whole.
    """
    shape = weights.shape

    def read(name: str) -> Tensor:
        held = torch.empty(weights.tensor_shape(name), dtype=dtype)
        if (stored := weights.blocks(name)) is not None:
            kernels.dequantize(held, stored)
            # A model is read once; its file would stay in our memory beside what was made of it.
            forget_pages(stored.rows)
            return held
        rows = max(1, READ_AT_ONCE * len(held) // max(1, held.numel()))
        for start in range(0, len(held), rows):
            held[start : start + rows] = torch.from_numpy(weights.read_rows(name, start, start + rows))
        return held

    def norm(name: str) -> Tensor:
        return torch.from_numpy(weights.read(name)).to(sums_dtype(dtype)) + shape.style.norm_offset

    buffers = Buffers(kernels, dtype) if stay else None
    rows = weights.blocks("model.embed_tokens.weight") if stay and not shape.tied else None
    embedding = rows or read("model.embed_tokens.weight")
    head = embedding if shape.tied else read("lm_head.weight")
    assert isinstance(head, Tensor)
    return Decoder(
        shape,
        dtype,
        embedding_VD=embedding,
        head_VD=head,
        norm_out=norm("model.norm.weight"),
        blocks=tuple(_block(weights, layer, read, norm, buffers) for layer in range(shape.num_layers)),
        inverse_frequencies=inverse_frequencies(shape),
        local_inverse_frequencies=_frequencies(shape.style.local_theta, shape) if shape.style.local_theta else None,
    )


def held_bytes(weights: Weights, dtype: torch.dtype) -> int:
    """Return what the weights take where quantised ones stay in their blocks: the file, the head and the buffers."""
    blocks = {name: weights.blocks(name) for name in weights.names()}
    kept = sum(stored.rows.nbytes for stored in blocks.values() if stored is not None)
    numbers = sum(math.prod(weights.tensor_shape(name)) for name, stored in blocks.items() if stored is None)
    shape = weights.shape
    buffers = sum(ins * sum(outs) for ins, outs in (site_widths(shape, site) for site in SITES))
    return kept + (numbers + shape.vocab_size * shape.width + buffers) * dtype.itemsize


def _block(
    weights: Weights,
    layer: int,
    read: Callable[[str], Tensor],
    norm: Callable[[str], Tensor],
    buffers: Buffers | None,
) -> Block:
    shape = weights.shape
    style = shape.style
    prefix = f"model.layers.{layer}."
    names = {site: [f"{prefix}{name}.weight" for name in own] for site, own in SITES.items()}

    def fused(site: str) -> Tensor:
        parts = [read(name) for name in names[site]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def stored(site: str) -> list[Blocks | Tensor]:
        return [weights.blocks(name) or read(name) for name in names[site]]

    bias = [read(f"{prefix}{name}.bias") for name in SITES["qkv"]] if style.qkv_bias else []
    ffn = "pre_feedforward_layernorm" if style.post_norms else "post_attention_layernorm"
    return Block(
        weights={site: fused(site) for site in SITES}
        if buffers is None
        else StoredSites({site: stored(site) for site in SITES}, buffers),
        qkv_bias=torch.cat(bias).to(norm(f"{prefix}input_layernorm.weight").dtype) if bias else None,
        norm_in=norm(f"{prefix}input_layernorm.weight"),
        norm_ffn=norm(f"{prefix}{ffn}.weight"),
        norm_attn_out=norm(f"{prefix}post_attention_layernorm.weight") if style.post_norms else None,
        norm_ffn_out=norm(f"{prefix}post_feedforward_layernorm.weight") if style.post_norms else None,
        norm_q=norm(f"{prefix}self_attn.q_norm.weight") if style.head_norm else None,
        norm_k=norm(f"{prefix}self_attn.k_norm.weight") if style.head_norm else None,
        heads=HeadShape(
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_width,
            scale=style.query_scale or shape.head_width**-0.5,
            window=style.window(layer),
            softcap=style.attention_softcap,
        ),
        local=style.local_theta is not None and style.window(layer) > 0,
    )


def inverse_frequencies(shape: Shape) -> Tensor:
    """Return the rotary frequencies [head_width / 2], float64, scaled as the model's own factors say."""
    frequencies = _frequencies(shape.rope_theta, shape)
    if shape.rope_scaling is not None:
        frequencies = frequencies / torch.tensor(shape.rope_scaling["factors"], dtype=torch.float64)
    return frequencies


def _frequencies(theta: float, shape: Shape) -> Tensor:
    exponent = torch.arange(0, shape.head_width, 2, dtype=torch.float64) / shape.head_width
    # transformers computes them in float32; so must we, or long contexts drift apart
    return (1.0 / (theta ** exponent.float())).double()
