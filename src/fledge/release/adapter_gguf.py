"""Writes a LoRA adapter as a small GGUF file that llama.cpp puts on top of its base model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from fledge.errors import ExportError
from fledge.model.adapter import Adapter, check_fits
from fledge.model.names import permute_rows
from fledge.model.weights import Weights
from fledge.project import sha256_of
from fledge.release.gguf import Tensor, Written, write_file
from fledge.release.metadata import Value, gguf_name
from fledge.release.quantize import FILE_TYPES, bits_per_weight, file_type, quantize
from fledge.runtime import invocation


def write_adapter_gguf(out: Path, adapter: Adapter, weights: Weights, kind: str = "f16") -> Written:
    """Write the adapter of `weights` as GGUF of type `f32` or `f16`, under a staging name first.

    llama.cpp scales B @ A by alpha / rank and knows no rank-stabilised scale; for that, alpha * sqrt(rank) is written.
    The rows of the query and key projections are permuted, which touches B alone.
    Raises ExportError for another type, ModelError where the adapter does not fit, DiskError for a full disk.
    """
    kind = file_type(kind)
    if kind not in ("f32", "f16"):
        raise ExportError(
            "export.unknown_type", f"an adapter cannot be written as {kind}.", remedy="Use f16 or f32; it is small."
        )
    if adapter.use_dora:
        raise ExportError(
            "export.unknown_type",
            "llama.cpp cannot run a DoRA adapter on top of its base.",
            remedy="Export the merged model: set release.adapter to false.",
        )
    if adapter.token_rows:
        raise ExportError(
            "export.unknown_type",
            "an adapter file has no place for added tokens: it is put on top of a base that does not know them.",
            remedy="Export the merged model: fledge export RUN --quant q8_0",
        )
    check_fits(adapter, weights)
    text, number = GGUFValueType.STRING, GGUFValueType.UINT32
    metadata = {
        "general.architecture": Value(gguf_name(weights), text),
        "general.type": Value("adapter", text),
        "adapter.type": Value("lora", text),
        "adapter.lora.alpha": Value(adapter.scale * adapter.rank, GGUFValueType.FLOAT32),
        "general.file_type": Value(FILE_TYPES[kind][1], number),
    }
    if adapter.invocation_tokens:
        ids = list(adapter.invocation_tokens)
        metadata[invocation.KEY] = Value(ids, GGUFValueType.ARRAY, number)
    tensors = []
    for name, (a, b) in adapter.pairs().items():
        weight = weights.weights[name]
        rows = permute_rows(b, getattr(weights.shape, weight.heads)) if weight.heads is not None else b
        tensors += [_tensor(f"{weight.gguf}.lora_a", a, kind), _tensor(f"{weight.gguf}.lora_b", rows, kind)]
    write_file(out, metadata, tensors)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    bits = bits_per_weight({tensor.name: tensor.type for tensor in tensors}, shapes)
    return Written(out, kind, out.stat().st_size, bits, sha256_of(out))


def _tensor(name: str, values: NDArray[np.float32], kind: str) -> Tensor:
    ggml_type = FILE_TYPES[kind][0]
    return Tensor(name, values.shape, ggml_type, partial(quantize, values, ggml_type))
