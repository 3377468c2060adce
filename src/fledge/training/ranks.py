"""Several processes that take one optimizer step together: each computes a share of its rows, and gradients are summed.

Since losses are divided by the weight of the whole step, the sum over ranks is the gradient of one process. They meet
through torch.distributed (gloo on CPUs); who starts them and calls `init_process_group` is torchrun or the caller.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from fledge.objective.scored import Mean

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `size`. One alone needs no torch.distributed."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Return the group this process is in."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of `rows`: neighbours stay together, so that they share their prefixes."""
        return rows[len(rows) * self.rank // self.size : len(rows) * (self.rank + 1) // self.size]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every rank's gradients the sum over all ranks; a parameter without one counts as zero."""
        if self.size > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter, dtype=getattr(parameter, "grad_dtype", None))
                dist.all_reduce(parameter.grad)

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over all ranks of some numbers."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(list(numbers), dtype=torch.float64)
        dist.all_reduce(total)
        return [float(x) for x in total]

    def means(self, parts: Sequence[Mapping[str, Mean]]) -> dict[str, float]:
        """Return the means over the pieces of a step and over all ranks, by name; what has no numbers is left out.

        A rank that has no piece of a step knows no names; those of the others are told it.
        """
        own: dict[str, list[Mean]] = {}
        for part in parts:
            for name, mean in part.items():
                own.setdefault(name, []).append(mean)
        held = [own]
        if self.size > 1:
            told: list[dict[str, list[Mean]] | None] = [None] * self.size
            dist.all_gather_object(told, own)
            held = [one for one in told if one is not None]
        names = dict.fromkeys(name for one in held for name in one)
        every = {name: [mean for one in held for mean in one.get(name, ())] for name in names}
        counts = {name: math.fsum(mean.count for mean in every[name]) for name in names}
        return {name: math.fsum(m.total for m in every[name]) / counts[name] for name in names if counts[name]}
