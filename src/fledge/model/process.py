"""The manners of a process that computes for minutes on somebody's PC: how it waits, and what memory it keeps."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Any

from fledge.runtime.waiting import openmp_environment

# glibc's mallopt parameters, from malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Above this a buffer is mapped for itself and goes back when it is freed; mapping costs page faults, so not much lower.
_MAPPED_BYTES = 1 << 20
# So much free memory at the top of the heap is kept for the next use.
_KEPT_BYTES = 256 << 20


def prepare_process() -> None:
    """Set how threads wait and from which size buffers are mapped. To be called before torch is imported.

    glibc by itself raises that size; activations of changing sizes then pile up holes in the heap, and resident memory
    grows for as long as a run lasts (docs/decisions.md).
    """
    os.environ.update(openmp_environment())
    if mallopt := _libc("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def return_memory() -> None:
    """Give what lies free in the heap back to the system. Between two training steps it costs nothing measurable."""
    if trim := _libc("malloc_trim"):
        trim(0)


@functools.cache
def _libc(name: str) -> Any:
    """Return a function of the C library, or None where it has no such one (musl, macOS)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
