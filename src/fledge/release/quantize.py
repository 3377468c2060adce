"""Quantises weights with llama.cpp's own code, and chooses a type for each tensor as llama.cpp does.

The runtime library exports ggml's C function `ggml_quantize_chunk`; it is called through ctypes, without importing the
runtime into this process. Where the function is missing or fails its self-test, the types that the gguf package can
write in numpy remain; the K types then are refused by name.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from fledge.errors import ExportError, nearest

# What a user may ask for -> (ggml type of most matrices, llama.cpp's number for the mix: `general.file_type`).
FILE_TYPES: dict[str, tuple[str, int]] = {
    "f32": ("F32", 0),
    "f16": ("F16", 1),
    "bf16": ("BF16", 32),
    "q8_0": ("Q8_0", 7),
    "q6_k": ("Q6_K", 18),
    "q5_k_m": ("Q5_K", 17),
    "q4_k_m": ("Q4_K", 15),
    "q4_0": ("Q4_0", 2),
}
UNQUANTISED = ("F32", "F16", "BF16")

# The relative error (root mean square) that a type must stay under on gaussian numbers, about twice what is measured.
SELF_TEST = {"Q8_0": 0.012, "Q6_K": 0.04, "Q5_K": 0.08, "Q4_K": 0.15, "Q5_0": 0.1, "Q5_1": 0.1, "Q4_0": 0.2}

# Rows that a K type's blocks of 256 do not divide take a type with blocks of 32.
FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}

Chunk = Callable[[int, int, int, int, int, int, None], int]
_ROWS_PER_CALL = 256


def file_type(name: str) -> str:
    """Return the canonical lower-case name of a file type. Raises ExportError `export.unknown_type`."""
    if name.lower() not in FILE_TYPES:
        raise ExportError(
            "export.unknown_type",
            f"'{name}' is no type that fledge writes{nearest(name, list(FILE_TYPES)) or '.'}",
            remedy=f"Known types: {', '.join(FILE_TYPES)}.",
        )
    return name.lower()


def plan(name: str, shapes: Mapping[str, tuple[int, ...]], *, num_layers: int, tied: bool) -> dict[str, str]:
    """Return the ggml type of each tensor, by GGUF name, for a file of type `name`; `shapes` have rows first.

    The choices are those of llama.cpp's `llama-quantize` without an importance matrix: vectors stay float32, the output
    matrix (the embedding where it is tied) gets more bits, and in the M mixes so do `attn_v` and `ffn_down` of about
    half of the layers. The special cases for mixtures of experts and for 70B models are left out.
    """
    kind = file_type(name)
    output = "token_embd.weight" if tied else "output.weight"
    types = {}
    for tensor, shape in shapes.items():
        chosen = FILE_TYPES[kind][0]
        if len(shape) < 2:
            chosen = "F32"
        elif chosen not in UNQUANTISED:
            if tensor == output:
                chosen = "Q6_K" if chosen != "Q8_0" and shape[-1] % _block_size(chosen) == 0 else "Q8_0"
            elif kind.endswith("_k_m") and ("attn_v." in tensor or "ffn_down." in tensor):
                chosen = "Q6_K" if _gets_more_bits(int(tensor.split(".")[1]), num_layers) else chosen
            chosen = _that_divides(shape[-1], chosen)
        types[tensor] = chosen
    return types


def bits_per_weight(types: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the bits that a weight takes on average under a plan, scales included and metadata not."""
    num_weights = sum(int(np.prod(shape)) for shape in shapes.values())
    return 8 * sum(num_bytes(types[name], shape) for name, shape in shapes.items()) / num_weights


def num_bytes(ggml_type: str, shape: tuple[int, ...]) -> int:
    """Return the bytes that a tensor takes in a ggml type."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[ggml_type]]
    return int(np.prod(shape)) // int(block) * int(block_bytes)


def quantize(values: NDArray[np.float32], ggml_type: str) -> NDArray[np.uint8]:
    """Return the stored bytes [rows, bytes per row] of a float32 tensor [rows, columns] or [columns].

    Raises ExportError: `export.non_finite` for numbers that the type cannot hold, `export.unknown_type` for a K type
    when the runtime library cannot quantise here.
    """
    rows = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, values.shape[-1])
    largest = 65_504.0 if ggml_type == "F16" else float(np.finfo(np.float32).max)
    # abs() of a NaN compares false, so this finds NaN and infinity too.
    if not max(-float(rows.min()), float(rows.max())) <= largest:
        raise ExportError(
            "export.non_finite",
            f"a weight is not finite or too large for {ggml_type}.",
            remedy="Train again with a smaller learning rate.",
        )
    if ggml_type == "F32":
        return rows.view(np.uint8)
    if ggml_type in UNQUANTISED:
        stored = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[ggml_type])
        return np.ascontiguousarray(stored).view(np.uint8)
    chunk = _tested_chunk()
    return _quantize_rows(rows, ggml_type, chunk) if chunk is not None else quantize_in_numpy(rows, ggml_type)


def quantize_in_numpy(rows: NDArray[np.float32], ggml_type: str) -> NDArray[np.uint8]:
    """Return what `quantize` does, by the gguf package: slower, and without the K types."""
    try:
        stored: NDArray[np.uint8] = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[ggml_type])
    except NotImplementedError as error:
        raise ExportError(
            "export.unknown_type",
            f"{ggml_type} cannot be written here: the installed llama.cpp library has no usable quantiser.",
            remedy="Export q8_0, q4_0 or f16 instead.",
        ) from error
    return stored


def _quantize_rows(rows: NDArray[np.float32], ggml_type: str, chunk: Chunk) -> NDArray[np.uint8]:
    kind = int(gguf.GGMLQuantizationType[ggml_type])
    num_rows, num_columns = rows.shape
    out = np.empty((num_rows, num_bytes(ggml_type, (num_columns,))), np.uint8)

    def part(start: int) -> None:
        # ctypes lets go of the interpreter lock, so parts run at the same time.
        count = min(_ROWS_PER_CALL, num_rows - start)
        written = chunk(kind, rows[start:].ctypes.data, out[start:].ctypes.data, 0, count, num_columns, None)
        assert written == out[start : start + count].nbytes, "ggml wrote another number of bytes than its type takes"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(part, range(0, num_rows, _ROWS_PER_CALL)))
    return out


@functools.cache
def _tested_chunk() -> Chunk | None:
    """Return ggml's quantiser once it has quantised a block well, or None where there is none to trust."""
    chunk = _load_chunk()
    return chunk if chunk is not None and all(map(functools.partial(passes, chunk), SELF_TEST)) else None


def passes(chunk: Chunk, ggml_type: str) -> bool:
    """Return whether the gguf package reads back what `chunk` wrote within the error of the type."""
    rows = np.random.default_rng(0).standard_normal((2, 256), dtype=np.float32)
    stored = _quantize_rows(rows, ggml_type, chunk)
    with np.errstate(all="ignore"):  # what a broken quantiser wrote may read as no number at all
        back = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[ggml_type])
        return bool(np.sqrt(np.mean((back - rows) ** 2)) < SELF_TEST[ggml_type])


def _load_chunk() -> Chunk | None:
    spec = importlib.util.find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for library in sorted(Path(folder).glob("xllamacpp*.so")):
            try:
                function = ctypes.CDLL(str(library)).ggml_quantize_chunk
            except (OSError, AttributeError):
                continue
            # size_t ggml_quantize_chunk(enum ggml_type, const float * src, void * dst, int64_t start, int64_t nrows,
            #                            int64_t n_per_row, const float * imatrix)
            function.restype = ctypes.c_size_t
            function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
            return function
    return None


def _gets_more_bits(layer: int, num_layers: int) -> bool:
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _that_divides(num_columns: int, chosen: str) -> str:
    if num_columns % _block_size(chosen):
        chosen = FALLBACKS.get(chosen, chosen)
    return "F16" if num_columns % _block_size(chosen) else chosen


def _block_size(ggml_type: str) -> int:
    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[ggml_type]][0])
