"""The metadata of a GGUF file: copied from a GGUF base, or made from a Hugging Face folder.

A tokenizer is described to llama.cpp by its tokens, merges and the name of its pre-tokeniser, which llama.cpp has built
in. A wrong name gives wrong tokens without any error, so a pre-tokeniser is recognised by its whole structure in
tokenizer.json, and one that is not known is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, TokenType

from fledge.errors import ModelError
from fledge.model.names import ARCHITECTURES
from fledge.model.safetensors_file import read_object
from fledge.model.shape import Shape
from fledge.model.weights import FolderWeights, GgufWeights, Weights
from fledge.release.quantize import FILE_TYPES

# Keys that describe how a file was stored, not what the model is.
_STORAGE_KEYS = ("general.alignment", "split.", "quantize.imatrix.")
QUANTIZATION_VERSION = 2
# Such tokens are found before anything is merged, so that no merge may win because of theirs.
ADDED_SCORE = -1000.0

_SPLIT_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Value:
    """A metadata value with its type and, for an array, the type of its elements."""

    value: Any
    type: GGUFValueType
    element: GGUFValueType | None = None


def metadata_of(weights: Weights, kind: str, *, overrides: Mapping[str, str]) -> dict[str, Value]:
    """Return all keys of the GGUF file of type `kind`, `general.architecture` first; `overrides` sets string keys.

    Raises ModelError `model.unsupported` for a tokenizer that llama.cpp could not repeat exactly.
    """
    origin = weights.origin
    if isinstance(origin, GgufWeights):
        kv = _copied(origin)
    else:
        assert isinstance(origin, FolderWeights)
        keys = architecture_keys(origin.shape, gguf_name(origin), title=origin.path.resolve().name)
        kv = {**keys, **_tokenizer_keys(origin)}
    if weights.added:
        kv |= _grown(kv, weights)
    kv["general.file_type"] = _u32(FILE_TYPES[kind][1])
    kv["general.quantization_version"] = _u32(QUANTIZATION_VERSION)
    return kv | {key: _text(text) for key, text in overrides.items()}


def _grown(kv: Mapping[str, Value], weights: Weights) -> dict[str, Value]:
    """Return the keys of the vocabulary with the tokens that a run has added, which text may spell."""
    size, added = weights.shape.vocab_size, weights.added
    fill: dict[str, Callable[[int], object]] = {
        "tokens": lambda i: f"[PAD{i}]",
        "token_type": lambda _: int(TokenType.UNUSED),
        "scores": lambda _: ADDED_SCORE,
    }
    found = {}
    for name, other in fill.items():
        if (held := kv.get(f"tokenizer.ggml.{name}")) is not None:
            values = [*held.value, *map(other, range(len(held.value), size))]
            for text, number in added.items():
                values[number] = {"tokens": text, "token_type": int(TokenType.USER_DEFINED)}.get(name, ADDED_SCORE)
            found[f"tokenizer.ggml.{name}"] = Value(values, held.type, held.element)
    counted = f"{kv['general.architecture'].value}.vocab_size"
    return found | ({counted: _u32(size)} if counted in kv else {})


def _copied(weights: GgufWeights) -> dict[str, Value]:
    header = weights.header
    found = {}
    for key, value in header.kv.items():
        kind, element = header.kv_types[key]
        # An array without entries says nothing, and the gguf package cannot write one.
        if not key.startswith(_STORAGE_KEYS) and value != []:
            found[key] = Value(value, GGUFValueType(kind), None if element is None else GGUFValueType(element))
    return found


def architecture_keys(shape: Shape, prefix: str, *, title: str) -> dict[str, Value]:
    """Return the keys that tell a shape as the architecture that llama.cpp calls `prefix`, that of the name first."""
    values = {
        "general.architecture": _text(prefix),
        "general.type": _text("model"),
        "general.name": _text(title),
    }
    numbers = {
        "block_count": shape.num_layers,
        "context_length": shape.context_tokens,
        "embedding_length": shape.width,
        "feed_forward_length": shape.ffn_width,
        "attention.head_count": shape.num_heads,
        "attention.head_count_kv": shape.num_kv_heads,
        "vocab_size": shape.vocab_size,
        "rope.dimension_count": shape.head_width,
    }
    if shape.query_width != shape.width:
        numbers |= {"attention.key_length": shape.head_width, "attention.value_length": shape.head_width}
    values |= {f"{prefix}.{key}": _u32(number) for key, number in numbers.items()}
    values[f"{prefix}.rope.freq_base"] = _f32(shape.rope_theta)
    values[f"{prefix}.attention.layer_norm_rms_epsilon"] = _f32(shape.norm_eps)
    return values | _rope_keys(shape, prefix)


def gguf_name(weights: Weights) -> str:
    """Return what llama.cpp calls the architecture. Raises ModelError where no such file can be written yet."""
    name = ARCHITECTURES[weights.shape.architecture].gguf
    if name is None or any(weights.shape.style.windows):
        what = "its sliding window" if name else f"the architecture '{weights.shape.architecture}'"
        raise _unsupported(weights.path, f"something that cannot be written as GGUF yet: {what}")
    return name


def _rope_keys(shape: Shape, architecture: str) -> dict[str, Value]:
    scaling = shape.rope_scaling
    if scaling is None or scaling["rope_type"] != "linear":
        return {}
    prefix = f"{architecture}.rope.scaling"
    return {f"{prefix}.type": _text("linear"), f"{prefix}.factor": _f32(scaling["factor"])}


def _tokenizer_keys(weights: FolderWeights) -> dict[str, Value]:
    folder = weights.path
    tokenizer = read_object(folder / "tokenizer.json")
    config_path = folder / "tokenizer_config.json"
    config = read_object(config_path) if config_path.is_file() else {}
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise _unsupported(folder, f"a {model.get('type')} tokenizer; only byte-level BPE can be written")
    tokens, types = _tokens(tokenizer, weights)
    ids = {token: i for i, token in enumerate(tokens)}
    special = _special_ids(config, weights.config, ids)
    keys = {
        "tokenizer.ggml.model": _text("gpt2"),
        "tokenizer.ggml.pre": _text(pre_tokenizer_name(tokenizer, folder)),
        "tokenizer.ggml.tokens": Value(tokens, GGUFValueType.ARRAY, GGUFValueType.STRING),
        "tokenizer.ggml.token_type": Value(types, GGUFValueType.ARRAY, GGUFValueType.INT32),
        "tokenizer.ggml.merges": Value(_merges(model, folder), GGUFValueType.ARRAY, GGUFValueType.STRING),
        **{f"tokenizer.ggml.{name}_token_id": _u32(i) for name, i in special.items()},
        # Always said, because llama.cpp's default depends on the pre-tokeniser.
        **{f"tokenizer.ggml.add_{end}_token": _flag(on) for end, on in _added_ends(tokenizer, special, ids).items()},
        "tokenizer.ggml.add_space_prefix": _flag(False),
    }
    template = _chat_template(folder, config)
    return keys | ({"tokenizer.chat_template": _text(template)} if template else {})


def pre_tokenizer_name(tokenizer: Mapping[str, Any], folder: Path) -> str:
    """Return llama.cpp's name for the pre-tokeniser in a tokenizer.json. Raises ModelError `model.unsupported`."""
    found = tokenizer.get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", [found])
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False}
    words = {"type": "Split", "behavior": "Isolated", "invert": False}
    splitting, plain_bytes = {**byte_level, "use_regex": True}, {**byte_level, "use_regex": False}
    known: dict[str, list[dict[str, Any]]] = {
        "gpt-2": [splitting],
        "smollm": [{"type": "Digits", "individual_digits": True}, splitting],
        "llama-bpe": [{**words, "pattern": {"Regex": _SPLIT_WORDS % r"\p{N}{1,3}"}}, plain_bytes],
        "qwen2": [{**words, "pattern": {"Regex": _SPLIT_WORDS % r"\p{N}"}}, plain_bytes],
    }
    # Offsets do not change tokens, and `use_regex` may be left out where it is on.
    plain = [{"use_regex": True} | s if s.get("type") == "ByteLevel" else s for s in steps]
    plain = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in plain]
    for name, expected in known.items():
        # llama.cpp does not normalise; Qwen's NFC is left out there as well.
        if plain == expected and (normalizer is None or (name, normalizer) == ("qwen2", "NFC")):
            return name
    parts = " + ".join(str(step.get("type")) for step in steps)
    raise _unsupported(folder, f"a pre-tokeniser ({parts}, normaliser {normalizer}) that is none of {', '.join(known)}")


def _tokens(tokenizer: Mapping[str, Any], weights: Weights) -> tuple[list[str], list[int]]:
    """Return the vocabulary and its token types by id, holes filled, as many as the embedding has rows."""
    size = weights.shape.vocab_size
    by_id = {i: (token, TokenType.NORMAL) for token, i in tokenizer["model"].get("vocab", {}).items()}
    for added in tokenizer.get("added_tokens", []):
        by_id[added["id"]] = (added["content"], TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    if by_id and max(by_id) >= size:
        raise _unsupported(weights.path, f"a token with id {max(by_id)}, but embeddings for {size} tokens")
    whole = [by_id.get(i, (f"[PAD{i}]", TokenType.UNUSED)) for i in range(size)]
    return [token for token, _ in whole], [int(kind) for _, kind in whole]


def _merges(model: Mapping[str, Any], folder: Path) -> list[str]:
    # Older files hold "a b", newer ones ["a", "b"].
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model.get("merges", [])]
    if not pairs or any(len(pair) != 2 or " " in pair[0] + pair[1] for pair in pairs):
        raise _unsupported(folder, "merges that are no pairs of tokens")
    return [f"{left} {right}" for left, right in pairs]


def _special_ids(config: Mapping[str, Any], model: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """Return the ids of the tokens for beginning, end, unknown and padding that the folder names."""
    found = {}
    for name, short in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = config.get(f"{short}_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = ids.get(token) if isinstance(token, str) else model.get(f"{short}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and 0 <= number < len(ids):
            found[name] = number
    return found


def _added_ends(tokenizer: Mapping[str, Any], special: Mapping[str, int], ids: Mapping[str, int]) -> dict[str, bool]:
    """Return whether the tokenizer itself puts the bos token first and the eos token last."""
    processor = tokenizer.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    pieces = [piece for step in steps if step.get("type") == "TemplateProcessing" for piece in step.get("single", [])]
    placed = [ids.get(piece.get("SpecialToken", {}).get("id", "")) for piece in pieces] or [None]
    return {
        "bos": placed[0] is not None and placed[0] == special.get("bos"),
        "eos": placed[-1] is not None and placed[-1] == special.get("eos"),
    }


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        return next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _unsupported(folder: Path, what: str) -> ModelError:
    return ModelError("model.unsupported", f"has {what}.", where=str(folder), remedy="Start from a GGUF of the model.")


def _text(value: str) -> Value:
    return Value(value, GGUFValueType.STRING)


def _u32(value: int) -> Value:
    return Value(value, GGUFValueType.UINT32)


def _f32(value: float) -> Value:
    return Value(value, GGUFValueType.FLOAT32)


def _flag(value: bool) -> Value:
    return Value(value, GGUFValueType.BOOL)
