"""The numbers that describe a model, read from GGUF metadata or from a Hugging Face config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fledge.errors import ModelError
from fledge.model.names import ARCHITECTURES, Architecture
from fledge.model.style import Style, style_from_config

MAX_HEAD_WIDTH = 4096
MAX_REAL = 1e30


@dataclass(frozen=True)
class Shape:
    """What is needed to build, check and write a model.

    `rope_scaling` is None for plain rotary embeddings. Else it always holds `factors`, the head_width / 2 numbers by
    which the rotary frequencies 1 / rope_theta ** (2i / head_width) are divided, and `rope_type` ("llama3", "linear",
    or "factors" where a GGUF gives only the numbers) with the keys of config.json it was made from.
    """

    architecture: str
    num_layers: int
    width: int
    ffn_width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    vocab_size: int
    context_tokens: int
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None
    norm_eps: float
    tied: bool
    style: Style = Style()

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_width

    @property
    def key_width(self) -> int:
        return self.num_kv_heads * self.head_width


def shape_from_gguf(
    kv: Mapping[str, Any], *, vocab_size: int, tied: bool, factors: list[float] | None, where: str
) -> Shape:
    """Return the shape that GGUF metadata tells; `factors` are the contents of `rope_freqs.weight`, if any.

    Raises ModelError: `model.unsupported` for what fledge cannot load, `model.broken_file` for missing numbers.
    """
    name = kv.get("general.architecture")
    if kv.get("general.type", "model") != "model":
        raise _unsupported(where, f"holds a '{kv['general.type']}', not a model")
    architecture = known_architecture(name, where, gguf=True)
    fields = _Fields({k.removeprefix(f"{name}."): v for k, v in kv.items() if k.startswith(f"{name}.")}, where)
    num_heads = fields.whole("attention.head_count")
    width = fields.whole("embedding_length")
    head_width = fields.whole("attention.key_length", width // num_heads, most=MAX_HEAD_WIDTH)
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.whole(key, head_width) != head_width:
            raise _unsupported(where, f"has {key} {fields.values[key]} with heads of {head_width}")
    if fields.values.get("expert_count", 0):
        raise _unsupported(where, "is a mixture of experts")
    shape = Shape(
        architecture=architecture.name,
        num_layers=fields.whole("block_count"),
        width=width,
        ffn_width=fields.whole("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=fields.whole("attention.head_count_kv", num_heads),
        head_width=head_width,
        vocab_size=vocab_size,
        context_tokens=fields.whole("context_length"),
        rope_theta=_shortest(fields.real("rope.freq_base", 10_000.0)),
        rope_scaling=_gguf_scaling(fields, factors, head_width // 2),
        norm_eps=_shortest(fields.real("attention.layer_norm_rms_epsilon")),
        tied=tied,
        style=style_from_config({"model_type": architecture.name}, num_layers=1, width=width),
    )
    return _checked(shape, where)


def shape_from_config(config: Mapping[str, Any], *, where: str) -> Shape:
    """Return the shape that a config.json tells, in its transformers 5 form (`rope_parameters`) or the older one.

    Numbers that older files leave out take the defaults of transformers' LlamaConfig. Raises ModelError as above.
    """
    name = config.get("model_type")
    _refuse(config, where)
    known_architecture(name, where)
    gemma = name == "gemma3_text"
    fixed: dict[str, Any] = {"attention_bias": False, "mlp_bias": False, "use_bidirectional_attention": False}
    fixed |= {"hidden_activation": "gelu_pytorch_tanh"} if gemma else {"hidden_act": "silu"}
    for key, expected in fixed.items():
        if (config.get(key) or expected) != expected:
            raise _unsupported(where, f"has {key} {config[key]!r}; only {expected!r} can be loaded")
    fields = _Fields(config, where)
    num_heads = fields.whole("num_attention_heads")
    width = fields.whole("hidden_size")
    usual_width = {"gemma3_text": 256, "qwen3": 128}.get(str(name), width // num_heads)
    head_width = fields.whole("head_dim", usual_width, most=MAX_HEAD_WIDTH)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get("full_attention", rope) if isinstance(rope, dict) else rope
    if not isinstance(rope, dict):
        raise _broken(where, "has rope parameters that are no object")
    theta = _Fields({"rope_theta": config.get("rope_theta"), **rope}, where).real(
        "rope_theta", 1_000_000.0 if gemma else 10_000.0
    )
    shape = Shape(
        architecture=str(name),
        num_layers=fields.whole("num_hidden_layers"),
        width=width,
        ffn_width=fields.whole("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=fields.whole("num_key_value_heads", num_heads),
        head_width=head_width,
        vocab_size=fields.whole("vocab_size"),
        context_tokens=fields.whole("max_position_embeddings", 2048),
        rope_theta=theta,
        rope_scaling=_config_scaling(rope, theta, head_width, where),
        norm_eps=fields.real("rms_norm_eps", 1e-6),
        tied=config.get("tie_word_embeddings", gemma) is True,
        style=_style(config, fields.whole("num_hidden_layers"), width, where),
    )
    return _checked(shape, where)


def no_fast_path(config: Mapping[str, Any], *, where: str) -> str:
    """Return why the engine cannot compute the model of a config.json though transformers may, or "" where it can.

    Raises ModelError where nobody can, or should: no architecture, its own code, quantised weights.
    """
    _refuse(config, where)
    name = config["model_type"]
    if name not in ARCHITECTURES:
        return f"there is no fast path for '{name}' models"
    try:
        shape_from_config(config, where=where)
    except ModelError as error:
        if error.code == "model.unsupported":
            return f"it {error.message.rstrip('.')}"
        raise
    return ""


def _refuse(config: Mapping[str, Any], where: str) -> None:
    """Raise ModelError for what neither path takes."""
    if not isinstance(config.get("model_type"), str):
        raise _broken(where, "does not say its architecture")
    if config.get("auto_map"):
        raise _unsupported(where, "brings its own Python code (auto_map), which fledge does not run")
    if config.get("quantization_config"):
        raise _unsupported(where, "holds quantised weights (quantization_config)", "Use the original weights.")


# What architectures without a table entry call the same numbers.
_OTHER_NAMES = {
    "num_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "ffn_width": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "num_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "vocab_size": ("vocab_size",),
    "context_tokens": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
}


def other_shape(config: Mapping[str, Any], *, where: str) -> Shape:
    """Return what can be told of a model whose architecture fledge has no table for: enough to plan with.

    Raises ModelError where not even its sizes are told, or where it brings its own code.
    """
    _refuse(config, where)
    inner = config.get("text_config")
    told: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    found = {
        field: next((told[name] for name in names if isinstance(told.get(name), int)), None)
        for field, names in _OTHER_NAMES.items()
    }
    usual = {"num_heads": 1, "context_tokens": 2048, "ffn_width": 4 * (found["width"] or 0)}
    fields = _Fields({key: usual.get(key) if value is None else value for key, value in found.items()}, where)
    width, num_heads = fields.whole("width"), fields.whole("num_heads")
    return Shape(
        architecture=config["model_type"],
        num_layers=fields.whole("num_layers"),
        width=width,
        ffn_width=fields.whole("ffn_width"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_width=max(1, width // num_heads),
        vocab_size=fields.whole("vocab_size"),
        context_tokens=fields.whole("context_tokens"),
        rope_theta=10_000.0,
        rope_scaling=None,
        norm_eps=1e-5,
        tied=config.get("tie_word_embeddings", True) is True,
    )


def known_architecture(name: Any, where: str, *, gguf: bool = False) -> Architecture:
    """Return the table entry of the architecture that a config.json (or, with `gguf`, a GGUF file) claims.

    Raises ModelError that names the known ones.
    """
    if not isinstance(name, str):
        raise _broken(where, "does not say its architecture")
    known: dict[str, Architecture] = {}
    for architecture in ARCHITECTURES.values():
        own = architecture.gguf if gguf else architecture.name
        if own is not None:
            known.setdefault(own, architecture)
    if name not in known:
        raise _unsupported(where, f"is a '{name}' model; fledge can load: {', '.join(known)}")
    return known[name]


def _style(config: Mapping[str, Any], num_layers: int, width: int, where: str) -> Style:
    try:
        return style_from_config(config, num_layers=num_layers, width=width)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(where, f"has a config that makes no sense: {error}") from error


def llama3_factors(rope: Mapping[str, Any], *, theta: float, head_width: int) -> list[float]:
    """Return the frequency divisors of Llama 3.1's scaled rotary embedding, one for each of head_width / 2 frequencies.

    Waves longer than the old context / low_freq_factor are slowed by `factor`, those shorter than the old context /
    high_freq_factor stay, and between the two the slowing is blended linearly in 1 / wavelength.
    """
    low, high, slow = (float(rope[key]) for key in ("low_freq_factor", "high_freq_factor", "factor"))
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_width, 2) / head_width)
    turns = float(rope["original_max_position_embeddings"]) / wavelengths
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return [float(f) for f in 1.0 / ((1.0 - kept) / slow + kept)]


def _config_scaling(rope: Mapping[str, Any], theta: float, head_width: int, where: str) -> Mapping[str, Any] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unsupported(where, "rotates only a part of each head (partial_rotary_factor)")
    if kind == "default":
        return None
    try:
        if kind == "linear":
            return {"rope_type": kind, "factor": rope["factor"], "factors": [float(rope["factor"])] * (head_width // 2)}
        if kind == "llama3":
            keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            factors = llama3_factors(rope, theta=theta, head_width=head_width)
            return {"rope_type": kind, **{key: rope[key] for key in keys}, "factors": factors}
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise _broken(where, f"has incomplete '{kind}' rope parameters: {error}") from error
    raise _unsupported(where, f"uses rotary scaling '{kind}'; default, linear and llama3 can be loaded")


def _gguf_scaling(fields: _Fields, factors: list[float] | None, half: int) -> Mapping[str, Any] | None:
    kind = fields.values.get("rope.scaling.type", "none")
    if kind not in ("none", "linear") or (kind == "linear" and factors is not None):
        raise _unsupported(fields.where, f"uses rotary scaling '{kind}'; none, linear and llama3 can be loaded")
    if kind == "linear":
        factor = fields.real("rope.scaling.factor")
        return {"rope_type": "linear", "factor": factor, "factors": [factor] * half}
    if factors is None:
        return None
    if len(factors) != half or not all(math.isfinite(f) and f > 0 for f in factors):
        raise _broken(fields.where, f"has rotary factors that are not {half} positive numbers")
    return {"rope_type": "factors", "factors": factors}


@dataclass(frozen=True)
class _Fields:
    """Numbers by key; whatever is missing or of the wrong kind is told as a broken file."""

    values: Mapping[str, Any]
    where: str

    def whole(self, key: str, default: int | None = None, *, most: int = (1 << 31) - 1) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value <= most:
            raise _broken(self.where, f"gives {key} as {value!r}; it must be a whole number from 1 to {most}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or not 0 < value < MAX_REAL:
            raise _broken(self.where, f"gives {key} as {value!r}; it must be a positive number")
        return float(value)


def _shortest(value: float) -> float:
    # GGUF holds float32; the shortest decimal that means the same float32 is the number its author wrote.
    return float(str(np.float32(value)))


def _checked(shape: Shape, where: str) -> Shape:
    if shape.head_width % 2 or shape.num_heads % shape.num_kv_heads:
        raise _broken(
            where,
            f"has {shape.num_heads} heads of width {shape.head_width} over {shape.num_kv_heads} key heads; "
            "the width must be even and the key heads a divisor of the heads",
        )
    return shape


def _unsupported(where: str, what: str, remedy: str = "Choose another model.") -> ModelError:
    return ModelError("model.unsupported", f"{what}.", where=where, remedy=remedy)


def _broken(where: str, what: str) -> ModelError:
    return ModelError("model.broken_file", f"{what}.", where=where, remedy="Fetch or export the model again.")
