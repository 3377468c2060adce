"""What this machine has, and the dtype that is fastest on it, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fledge.model.engine.compile import below_avx512, compile_at_once, to_compile
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.kernels import Kernels, Layout
from fledge.model.memory import memory_bytes
from fledge.runtime.threads import usable_cores

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# bf16 rounds; it has to win clearly to be chosen.
WORTH = 1.2


@dataclass(frozen=True)
class Machine:
    """`gemm_gflops`: the measured rate of the engine's matrix products at a training step's size, by dtype name."""

    device: str
    threads: int
    ram_bytes: int
    ram_free_bytes: int
    gemm_gflops: dict[str, float]
    dtype: str
    dtype_reason: str


def survey(say: Callable[[str], None] = lambda _: None) -> Machine:
    """Return what this machine can do; takes a fraction of a second once the kernels are compiled.

    Sets torch's threads to the physical cores.
    """
    threads = usable_cores()
    torch.set_num_threads(threads)
    if to_compile(list(DTYPES.values())):
        say("compiles its kernels for this processor: some ten seconds, once")
        compile_at_once(list(DTYPES.values()))
    rates = {name: _gemm_gflops(kernels_for(dtype), dtype) for name, dtype in DTYPES.items()}
    ratio = rates["bfloat16"] / rates["float32"]
    dtype = "bfloat16" if ratio >= WORTH else "float32"
    limit = below_avx512()
    where = f"without AVX-512 ({limit})" if limit else "on this processor"
    reason = f"bfloat16 products run at {ratio:.1f} times the speed of float32 {where} (measured)"
    total, free = memory_bytes()
    return Machine("cpu", threads, total, free, rates, dtype, reason)


def _gemm_gflops(kernels: Kernels, dtype: torch.dtype, *, rows: int = 512, width: int = 1024) -> float:
    x, w = torch.randn(rows, width).to(dtype), torch.randn(width, width).to(dtype)
    out = torch.empty(rows, width, dtype=dtype)
    # Where bf16 is emulated one product takes seconds: a first one on a small slice tells, and is taken as the answer.
    first_s = _timed(kernels, out[:32], x[:32], w)
    if first_s > 0.2:
        return 2 * 32 * width * width / first_s / 1e9
    best_s = min(_timed(kernels, out, x, w) for _ in range(5))
    return 2 * rows * width * width / best_s / 1e9


def _timed(kernels: Kernels, out: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> float:
    started = time.perf_counter()
    kernels.linear(out, x, w, Layout.NK)
    return time.perf_counter() - started
