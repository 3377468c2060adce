"""Weights that stay in the blocks of their file: made into numbers when they are multiplied with, in one buffer.

A pass goes through the layers one by one and needs a weight once on its way there and once on its way back, so all
layers share a buffer for each kind of product. Frozen weights take the memory of the file, which is mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fledge.model.engine.kernels import Kernels
from fledge.model.weights import Blocks


class Buffers:
    """The memory in which weights are made: one piece for each kind of product."""

    def __init__(self, kernels: Kernels, dtype: torch.dtype) -> None:
        self.kernels, self.dtype = kernels, dtype
        self._memory: dict[str, Tensor] = {}

    def take(self, site: str, rows: int, columns: int) -> Tensor:
        """Return [rows, columns] of anything; the next call for this site takes the same memory."""
        held = self._memory.get(site)
        if held is None or held.numel() < rows * columns:
            held = self._memory[site] = torch.empty(rows * columns, dtype=self.dtype)
        return held[: rows * columns].view(rows, columns)


class StoredSites(Mapping[str, Tensor]):
    """The weights [out, in] of one layer by site. What is returned holds until a weight of that site is asked for."""

    def __init__(self, parts: Mapping[str, Sequence[Blocks | Tensor]], buffers: Buffers) -> None:
        self._parts, self._buffers = parts, buffers

    def __getitem__(self, site: str) -> Tensor:
        parts, kernels = self._parts[site], self._buffers.kernels
        counts = [_rows(part) for part in parts]
        made = self._buffers.take(site, sum(counts), _columns(parts))
        for part, rows in zip(parts, torch.split(made, counts), strict=True):
            if isinstance(part, Tensor):
                rows.copy_(part)
            else:
                kernels.dequantize(rows, part)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def rows_of(table: Tensor | Blocks, ids_N: Tensor, kernels: Kernels, dtype: torch.dtype) -> Tensor:
    """Return the rows [N, columns] of a table, whichever way it is kept."""
    if isinstance(table, Tensor):
        return table.index_select(0, ids_N)
    out = torch.empty(len(ids_N), table.columns, dtype=dtype)
    kernels.dequantize(out, replace(table, order=ids_N.numpy()))
    return out


def _rows(part: Blocks | Tensor) -> int:
    return len(part) if isinstance(part, Tensor) else len(part.rows)


def _columns(parts: Sequence[Blocks | Tensor]) -> int:
    first = parts[0]
    return first.shape[1] if isinstance(first, Tensor) else first.columns
