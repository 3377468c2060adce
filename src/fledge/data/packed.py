"""Examples kept in arrays: a fiftieth of what lists of Python integers take, so that many rows cost no memory.

Weights are kept as runs, since a row is taught in few stretches.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Self, overload

from fledge.records import Example

_NO_COLUMNS: Mapping[str, float] = MappingProxyType({})


class PackedExamples(Sequence[Example]):
    """A sequence of examples that makes each anew when it is asked for."""

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self._ids, self._id_ends = array("i"), array("q", [0])
        self._weights, self._lengths, self._run_ends = array("d"), array("i"), array("q", [0])
        self._origins: list[str] = []
        self._tasks: list[str] = []
        self._prompt_tokens = array("i")
        self._columns: dict[int, Mapping[str, float]] = {}
        self += examples

    def __iadd__(self, examples: Iterable[Example]) -> Self:
        for example in examples:
            self._add(example)
        return self

    def _add(self, example: Example) -> None:
        assert not example.tokens, "numbers of single tokens are not kept here"
        if example.columns:
            self._columns[len(self)] = example.columns
        self._ids.extend(example.ids)
        self._id_ends.append(len(self._ids))
        for weight, run in groupby(example.weights):
            self._weights.append(weight)
            self._lengths.append(sum(1 for _ in run))
        self._run_ends.append(len(self._weights))
        self._origins.append(example.origin)
        # One string for all rows of a source.
        self._tasks.append(sys.intern(example.task))
        self._prompt_tokens.append(example.prompt_tokens)

    def __len__(self) -> int:
        return len(self._origins)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        runs = slice(self._run_ends[i], self._run_ends[i + 1])
        weights: list[float] = []
        for weight, length in zip(self._weights[runs], self._lengths[runs], strict=True):
            weights += [weight] * length
        ids = self._ids[self._id_ends[i] : self._id_ends[i + 1]].tolist()
        columns = self._columns.get(i, _NO_COLUMNS)
        return Example(ids, weights, self._origins[i], columns, self._prompt_tokens[i], self._tasks[i])
