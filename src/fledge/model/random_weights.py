"""Weights of a shape without a file: what a step costs in time and memory does not depend on what the numbers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
from numpy.typing import NDArray

from fledge.model.shape import Shape
from fledge.model.weights import Blocks, Weights

# Of so many rows all others are copies.
ROWS = 64
SPREAD = 0.02
_NONE: Mapping[str, str] = MappingProxyType({})


class RandomWeights(Weights):
    """A model of `shape` with `num_layers` of its layers.

    stored: the ggml type of tensors that are to be had as blocks, by GGUF name; their numbers are zeros.
    """

    kind = "folder"

    def __init__(self, shape: Shape, num_layers: int, *, stored: Mapping[str, str] = _NONE) -> None:
        style = replace(shape.style, windows=shape.style.windows[:num_layers])
        super().__init__(Path("random"), replace(shape, num_layers=num_layers, style=style))
        self._stored, self._generator = stored, np.random.default_rng(0)

    def read(self, name: str) -> NDArray[np.float32]:
        return self.read_rows(name, 0, self.tensor_shape(name)[0])

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        shape = self.tensor_shape(name)
        count = min(stop, shape[0]) - start
        if len(shape) == 1:
            return np.ones(count, np.float32)
        some = self._generator.standard_normal((min(ROWS, count), *shape[1:]), dtype=np.float32) * SPREAD
        return np.resize(some, (count, *shape[1:]))

    def blocks(self, name: str) -> Blocks | None:
        shape, kind = self.tensor_shape(name), self._stored.get(self.weights[name].gguf, "F32")
        if len(shape) < 2 or kind in ("F32", "F16", "BF16"):
            return None
        block, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        # Zeros that nobody writes to take no memory.
        return Blocks(kind, np.zeros((shape[0], shape[1] // int(block) * int(num_bytes)), np.uint8), None)
