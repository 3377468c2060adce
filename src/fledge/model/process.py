"""The manners of a process that computes for minutes on somebody's PC. To be called before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys

from fledge.runtime.waiting import openmp_environment

# glibc's mallopt parameters, from malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The activations of one projection over a few hundred tokens are some hundreds of kilobytes.
_LARGE_BYTES = 128 << 10


def prepare_process() -> None:
    """Set how threads wait for each other, and let large buffers go back to the system when they are freed.

    glibc by itself raises the size from which a buffer is mapped and unmapped on its own; activations of changing sizes
    then pile up holes in the heap, and resident memory grows for as long as a run lasts (docs/decisions.md).
    """
    os.environ.update(openmp_environment())
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
