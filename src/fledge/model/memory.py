"""How much memory this machine has, and how much of it this process took. Needs no torch."""

from __future__ import annotations

import mmap
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any


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


def forget_pages(array: Any) -> None:
    """Let go of the pages of the mapped file that `array` is a view of; they are read again when they are wanted."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)


def rss_bytes() -> int:
    """Return the resident memory of this process now; the peak where the system tells no more."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return peak_rss_bytes()
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far.

    Of two places where Linux tells it, getrusage begins with the peak of the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
        return int(found[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
