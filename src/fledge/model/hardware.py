"""What this machine has, and the dtype that is fastest on it, measured."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

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


def memory_bytes() -> tuple[int, int]:
    """Return (all, free) memory in bytes: the machine's, or the container's where its limit is lower."""
    if sys.platform != "linux":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total // 2
    lines = (line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    kilobytes = {name: int(rest.split()[0]) for name, rest in lines}
    total, free = kilobytes["MemTotal"] << 10, kilobytes["MemAvailable"] << 10
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        total, free = min(total, limit), min(free, limit - used)
    return total, free


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
