"""In what the members of the Llama family differ from each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Activation(IntEnum):
    """The function of a gated feed-forward part. The numbers are those of native/elementwise.h."""

    SILU = 0
    GELU_TANH = 1


@dataclass(frozen=True)
class Style:
    """The defaults are Llama's. `windows` holds a sliding window per layer, 0 for none; empty means none anywhere.

    qkv_bias: the projections to queries, keys and values have one (Qwen2.5). head_norm: queries and keys are normed per
    head (Qwen3, Gemma 3). post_norms: what a block adds is normed too (Gemma). norm_offset: what a stored norm weight
    lacks (Gemma stores w - 1). local_theta: rotary base of layers with a window, where it differs.
    """

    qkv_bias: bool = False
    head_norm: bool = False
    post_norms: bool = False
    activation: Activation = Activation.SILU
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    query_scale: float | None = None
    windows: tuple[int, ...] = ()
    local_theta: float | None = None
    attention_softcap: float = 0.0
    final_softcap: float = 0.0

    def window(self, layer: int) -> int:
        return self.windows[layer] if self.windows else 0
