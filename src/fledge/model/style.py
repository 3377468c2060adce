"""In what the members of the Llama family differ from each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


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


def style_from_config(config: Mapping[str, Any], *, num_layers: int, width: int) -> Style:
    """Return the style of a config.json; what it leaves out is as in transformers' class of that model type.

    Raises KeyError, TypeError or ValueError where it makes no sense.
    """
    kind = config["model_type"]
    if kind == "mistral":
        return Style(windows=_windows(config, num_layers, config.get("sliding_window", 4096)))
    if kind == "qwen2":
        return Style(qkv_bias=True, windows=_windows(config, num_layers, _qwen_window(config)))
    if kind == "qwen3":
        return Style(head_norm=True, windows=_windows(config, num_layers, _qwen_window(config)))
    if kind == "gemma3_text":
        every = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
        types = config.get("layer_types") or [
            "full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(num_layers)
        ]
        rope = config.get("rope_parameters") or {}
        local = rope.get("sliding_attention", {}).get("rope_theta", config.get("rope_local_base_freq", 10_000.0))
        return Style(
            head_norm=True,
            post_norms=True,
            activation=Activation.GELU_TANH,
            norm_offset=1.0,
            embedding_scale=math.sqrt(width),
            query_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
            windows=_windows({"layer_types": types}, num_layers, config.get("sliding_window", 4096)),
            local_theta=float(local),
            attention_softcap=float(config.get("attn_logit_softcapping") or 0.0),
            final_softcap=float(config.get("final_logit_softcapping") or 0.0),
        )
    return Style()


def _qwen_window(config: Mapping[str, Any]) -> int | None:
    return config.get("sliding_window", 4096) if config.get("use_sliding_window") else None


def _windows(config: Mapping[str, Any], num_layers: int, window: int | None) -> tuple[int, ...]:
    """Return the window of every layer; empty where no layer has one."""
    if not window:
        return ()
    first = config.get("max_window_layers", 28) if str(config.get("model_type", "")).startswith("qwen") else 0
    types = config.get("layer_types") or [
        "sliding_attention" if i >= first else "full_attention" for i in range(num_layers)
    ]
    if len(types) != num_layers:
        raise ValueError(f"layer_types has {len(types)} entries for {num_layers} layers")
    windows = tuple(int(window) if kind == "sliding_attention" else 0 for kind in types)
    return windows if any(windows) else ()
