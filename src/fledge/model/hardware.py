"""What this machine has, and the dtype that is fastest on it, measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fledge.model.engine.compile import below_avx512, compile_at_once, multiplies_bfloat16, to_compile
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.kernels import Kernels, Layout
from fledge.model.memory import memory_bytes
from fledge.runtime.threads import usable_cores

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# bf16 rounds; it has to win clearly to be chosen.
WORTH = 1.2
# The product that is timed, x [ROWS, WIDTH] by w [WIDTH, WIDTH], and for how long.
ROWS, WIDTH = 512, 1024
SURVEY_S, LEAST_ROUNDS, SLOW_S = 0.25, 5, 0.1
# A processor that multiplies bfloat16 by itself is given so long to find a quiet moment, and is believed afterwards
# unless it was clearly slower: on a quiet machine it is twice as fast or more, so what was measured was its neighbours.
PATIENCE_S, UNBELIEVED = 4.0, 0.6


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
    able = multiplies_bfloat16()
    rates = _rates(patient=able)
    dtype, reason = _choose(rates["bfloat16"] / rates["float32"], able=able)
    total, free = memory_bytes()
    return Machine("cpu", threads, total, free, rates, dtype, reason)


def _choose(ratio: float, *, able: bool) -> tuple[str, str]:
    limit = below_avx512()
    where = f"without AVX-512 ({limit})" if limit else "on this processor"
    measured = f"bfloat16 products run at {ratio:.1f} times the speed of float32 {where} (measured)"
    if ratio >= WORTH:
        return "bfloat16", measured
    if able and ratio >= UNBELIEVED:
        busy = f"the processor has bfloat16 products; how fast, other programs kept from measuring ({ratio:.1f} times)"
        return "bfloat16", busy
    return "float32", measured


def _rates(*, patient: bool) -> dict[str, float]:
    """Return the best rate of each dtype, in GF/s.

    They take turns for a quarter of a second and the best of each counts: a moment in which something else had the
    processor must not decide what a whole run is computed in. `patient`: a bfloat16 that does not win is measured for
    longer.
    """
    products = {name: _product(kernels_for(dtype), dtype) for name, dtype in DTYPES.items()}
    best = dict.fromkeys(products, math.inf)
    began, rounds = time.perf_counter(), 0

    def undecided() -> bool:
        taken = time.perf_counter() - began
        doubtful = patient and best["bfloat16"] * WORTH > best["float32"]
        return rounds < LEAST_ROUNDS or taken < SURVEY_S or (doubtful and taken < PATIENCE_S)

    while undecided():
        for name, product in products.items():
            # Where bf16 is emulated one product takes long, and the first tells enough.
            if rounds == 0 or best[name] < SLOW_S:
                best[name] = min(best[name], product())
        rounds += 1
    return {name: 2 * ROWS * WIDTH * WIDTH / seconds / 1e9 for name, seconds in best.items()}


def _product(kernels: Kernels, dtype: torch.dtype) -> Callable[[], float]:
    """Return a function that takes one product of a training step's size and gives its seconds."""
    x, w = torch.randn(ROWS, WIDTH).to(dtype), torch.randn(WIDTH, WIDTH).to(dtype)
    out = torch.empty(ROWS, WIDTH, dtype=dtype)

    def run() -> float:
        started = time.perf_counter()
        kernels.linear(out, x, w, Layout.NK)
        return time.perf_counter() - started

    return run
