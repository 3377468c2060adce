"""A GGUF file with a shape and no numbers: how fast llama.cpp computes does not depend on what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from fledge.model.shape import Shape
from fledge.release.gguf import ALIGNMENT, Tensor, write_header
from fledge.release.metadata import Value, architecture_keys

# Every decoder that we know is this one and small change: its norms of single heads, biases and windows cost next to
# nothing beside the products, and llama.cpp asks for no more than these tensors.
ARCHITECTURE = "llama"
_OUTER = ("token_embd", "output", "output_norm")
_INNER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


def write_hollow(
    path: Path, shape: Shape, tensors: Mapping[str, Sequence[int]], types: Mapping[str, str], num_layers: int
) -> int:
    """Write a file that llama.cpp runs, with the first layers of a shape, and return the bytes of its tensors.

    tensors, types: each tensor's shape and ggml type, by GGUF name. All numbers are zero; where the file system knows
    holes, they take no room on the disk. It has a vocabulary of the right size and no tokens in it.
    """
    wanted = {f"{name}.weight" for name in _OUTER}
    wanted |= {f"blk.{layer}.{name}.weight" for layer in range(num_layers) for name in _INNER}
    held = [Tensor(name, tuple(tensors[name]), types[name], _none) for name in tensors if name in wanted]
    keys = architecture_keys(shape, ARCHITECTURE, title="hollow")
    keys[f"{ARCHITECTURE}.block_count"] = Value(num_layers, GGUFValueType.UINT32)
    keys["tokenizer.ggml.model"] = Value("no_vocab", GGUFValueType.STRING)
    write_header(path, keys, held)
    sizes = [_bytes(tensor) for tensor in held]
    with path.open("ab") as file:
        at = file.tell() + -file.tell() % ALIGNMENT
        file.truncate(at + sum(size + -size % ALIGNMENT for size in sizes))
    return sum(sizes)


def _none() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.zeros(0, np.uint8)


def _bytes(tensor: Tensor) -> int:
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.type]]
    return math.prod(tensor.shape) // int(block) * int(block_bytes)
