"""What this machine has, and the dtype that is fastest on it, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from fledge.model.memory import memory_bytes
from fledge.runtime.threads import usable_cores

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# bf16 rounds; it has to win clearly to be chosen.
WORTH = 1.2


@dataclass(frozen=True)
class Machine:
    """`gemm_gflops` is the measured rate of matrix products of a training step's size, by dtype name."""

    device: str
    threads: int
    ram_bytes: int
    ram_free_bytes: int
    gemm_gflops: dict[str, float]
    dtype: str
    dtype_reason: str


def survey() -> Machine:
    """Return what this machine can do; takes a fraction of a second. Sets torch's threads to the physical cores."""
    threads = usable_cores()
    torch.set_num_threads(threads)
    rates = {name: _gemm_gflops(dtype) for name, dtype in DTYPES.items()}
    ratio = rates["bfloat16"] / rates["float32"]
    dtype = "bfloat16" if ratio >= WORTH else "float32"
    reason = f"bfloat16 products run at {ratio:.1f} times the speed of float32 on this processor (measured)"
    total, free = memory_bytes()
    return Machine("cpu", threads, total, free, rates, dtype, reason)


def _gemm_gflops(dtype: torch.dtype, *, rows: int = 512, width: int = 1024) -> float:
    a, b = torch.randn(rows, width).to(dtype), torch.randn(width, width).to(dtype)
    # Where bf16 is emulated one product takes seconds: a first one on a small slice tells, and is taken as the answer.
    started = time.perf_counter()
    a[:32] @ b
    first_s = time.perf_counter() - started
    if first_s > 0.2:
        return 2 * 32 * width * width / first_s / 1e9
    best_s = min(_timed(a, b) for _ in range(5))
    return 2 * rows * width * width / best_s / 1e9


def _timed(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.perf_counter()
    a @ b
    return time.perf_counter() - started
