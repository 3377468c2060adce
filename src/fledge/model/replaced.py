"""Weights that a run trained, in place of those of its base: read, merged and written like any other model's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fledge.errors import ModelError
from fledge.model.memory import forget_pages
from fledge.model.safetensors_file import map_safetensors
from fledge.model.weights import SINGLE_NAME, Blocks, Weights


class Replaced(Weights):
    """The weights of `base`, but for those in `folder`, which a run wrote there."""

    def __init__(self, base: Weights, folder: Path) -> None:
        self._base, self._own = base, map_safetensors(folder / SINGLE_NAME)
        self.path, self.shape, self.weights, self.kind = base.path, base.shape, base.weights, base.kind
        odd = [name for name, own in self._own.items() if name not in self.weights]
        odd += [name for name, own in self._own.items() if name not in odd and own.shape != base.tensor_shape(name)]
        if odd or not self._own:
            raise ModelError(
                "model.broken_file",
                f"does not fit its base: {odd[0] if odd else 'it holds no weights'}.",
                where=str(folder),
                remedy="Train the run again.",
            )

    @property
    def origin(self) -> Weights:
        return self._base.origin

    @property
    def added(self) -> Mapping[str, int]:
        return self._base.added

    def holds(self, name: str) -> bool:
        """Whether a tensor is among those that the run wrote."""
        return name in self._own

    def is_stored(self, name: str) -> bool:
        return name not in self._own and self._base.is_stored(name)

    def tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._base.tensor_shape(name)

    def read(self, name: str) -> NDArray[np.float32]:
        if name not in self._own:
            return self._base.read(name)
        values = self._own[name].read()
        forget_pages(self._own[name].raw)
        return values

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        if name not in self._own:
            return self._base.read_rows(name, start, stop)
        values = self._own[name].read_rows(start, stop)
        forget_pages(self._own[name].raw)
        return values

    def blocks(self, name: str) -> Blocks | None:
        return None if name in self._own else self._base.blocks(name)
