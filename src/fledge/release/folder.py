"""Writes base and adapter as one Hugging Face folder: config.json, model.safetensors, tokenizer files. float16."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fledge.data.tokenizer import Tokenizer
from fledge.data.tokenizer_files import extended_json, tokenizer_json
from fledge.errors import ExportError
from fledge.model.adapter import Adapter
from fledge.model.names import ARCHITECTURES
from fledge.model.shape import Shape
from fledge.model.weights import Weights
from fledge.project import staged_folder, write_json_atomic, write_text_atomic
from fledge.release.merge import merged

# Everything about text; weights and their index are written anew.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
# bfloat16 has 8 bits of precision and would round much of an adapter away; float16 keeps 11.
DTYPE, DTYPE_NAME = "F16", "float16"


def write_folder(out: Path, weights: Weights, adapter: Adapter | None, tokenizer: Tokenizer) -> int:
    """Write the folder, whole or not at all, one tensor in memory at a time; return its bytes.

    Raises ExportError where the model cannot be described by a config.json, DiskError for a full disk.
    """
    config = _config(weights, tokenizer)
    with staged_folder(out) as staged:
        _write_safetensors(staged / "model.safetensors", weights, adapter)
        write_json_atomic(staged / "config.json", config)
        write_tokenizer(staged, weights, tokenizer)
    return sum(path.stat().st_size for path in out.iterdir())


def write_tokenizer(out: Path, weights: Weights, tokenizer: Tokenizer) -> None:
    """Write everything about text into a folder: copied from the base's, or made; with the tokens that were added."""
    if weights.path.is_dir():
        copy_tokenizer(weights.path, out)
        if weights.added:
            add_tokens(out, weights.added)
    else:
        write_text_atomic(out / "tokenizer.json", tokenizer_json(tokenizer))
        write_json_atomic(out / "tokenizer_config.json", _tokenizer_config(tokenizer, weights.shape))


def add_tokens(folder: Path, added: Mapping[str, int]) -> None:
    """Write added tokens into the files of a tokenizer, wherever its kind keeps them."""
    path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if path.is_file():
        write_text_atomic(path, extended_json(path.read_text(encoding="utf-8"), added))
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
    if "added_tokens_decoder" in config or not path.is_file():
        plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False}
        held = dict(config.get("added_tokens_decoder") or {})
        held |= {str(number): {"content": text, **plain} for text, number in added.items()}
        write_json_atomic(config_path, config | {"added_tokens_decoder": held})


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy everything about text from one Hugging Face folder to another."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def _write_safetensors(path: Path, weights: Weights, adapter: Adapter | None) -> None:
    """Stream the tensors in the order of the header: 8 bytes of its length, its JSON, then the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in weights.names():
        shape = weights.tensor_shape(name)
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": DTYPE, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for (name, values), expected in zip(merged(weights, adapter), weights.names(), strict=True):
            assert name == expected, "tensors come in the order of names()"
            half = values.astype(np.float16)
            if not np.isfinite(half).all():
                raise ExportError("export.non_finite", f"'{name}' holds numbers that float16 cannot.", where=str(path))
            file.write(half.tobytes())


def _config(weights: Weights, tokenizer: Tokenizer) -> dict[str, Any]:
    if weights.path.is_dir():
        config = json.loads((weights.path / "config.json").read_text(encoding="utf-8"))
        grown = {"vocab_size": weights.shape.vocab_size} if weights.added else {}
        return dict(config) | grown | {"dtype": DTYPE_NAME, "torch_dtype": DTYPE_NAME}
    shape = weights.shape
    scaling = shape.rope_scaling
    if scaling is not None and scaling["rope_type"] == "factors":
        raise ExportError(
            "model.unsupported",
            "its rotary factors are known as numbers only, which config.json has no place for.",
            where=str(weights.path),
            remedy="Merge on top of the model's Hugging Face folder, or export a GGUF file.",
        )
    rope = {"rope_theta": shape.rope_theta, "rope_type": "default"}
    if scaling is not None:
        rope |= {key: value for key, value in scaling.items() if key != "factors"}
    return {
        "architectures": [ARCHITECTURES[shape.architecture].hf_class],
        "model_type": shape.architecture,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context_tokens,
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tied,
        "rope_theta": shape.rope_theta,
        "rope_parameters": rope,
        "bos_token_id": tokenizer.control.get(tokenizer.bos or ""),
        "eos_token_id": tokenizer.control.get(tokenizer.eos or ""),
        "dtype": DTYPE_NAME,
        "torch_dtype": DTYPE_NAME,
    }


def _tokenizer_config(tokenizer: Tokenizer, shape: Shape) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.bos,
        "eos_token": tokenizer.eos,
        "chat_template": tokenizer.chat_template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context_tokens,
    }
