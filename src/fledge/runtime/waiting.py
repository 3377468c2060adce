"""How OpenMP threads wait for each other: spinning while the processor is ours, sleeping while others want it too.

A matrix product is cut into one part per core, and all wait for the last. A spinning thread goes on at once, but where
another program wants a core it keeps that core from the very thread it waits for. Seconds per training step of the
starter model on two cores (benchmarks/README.md):

    spins before sleeping    nobody else    one busy program
    default (no end)             1.0           10 to 29
    10 000                       1.05              5.2
    100                          1.5               1.75
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from fledge.runtime.threads import usable_cores

SPINS, FEW_SPINS = "10000", "100"
SAMPLE_S = 0.15
STAT = Path("/proc/stat")


def openmp_environment() -> dict[str, str]:
    """Return the settings for a process that is about to load OpenMP; it reads them once. Looks for SAMPLE_S seconds.

    What the user has set is left alone.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return {}
    free = free_cpus()
    crowded = free is not None and free < usable_cores() - 0.3
    return {"GOMP_SPINCOUNT": FEW_SPINS if crowded else SPINS}


def free_cpus(*, stat: Path = STAT, sample_s: float = SAMPLE_S) -> float | None:
    """Return how many logical processors were idle over a short while, or None where the system does not tell."""
    first = _idle_and_all(stat)
    if first is None:
        return None
    time.sleep(sample_s)
    second = _idle_and_all(stat)
    if second is None or second[1] == first[1]:
        return None
    return (os.cpu_count() or 1) * (second[0] - first[0]) / (second[1] - first[1])


def _idle_and_all(stat: Path) -> tuple[int, int] | None:
    """Return (idle, all) clock ticks since boot, summed over the processors; waiting for a disk is idle."""
    try:
        name, *ticks = stat.read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    numbers = [int(tick) for tick in ticks]
    # user nice system idle iowait irq softirq steal; guest times are counted in user already
    return (numbers[3] + numbers[4], sum(numbers[:8])) if name == "cpu" else None
