"""Memory that was freed goes back to the system: seen from outside, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os
from fledge.model.process import prepare_process, return_memory
prepare_process()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

blocks = [libc.malloc(500_000) for _ in range(400)]
for block in blocks:
    libc.memset(block, 1, 500_000)
for block in blocks[:-1]:  # the last one keeps the top of the heap from being given back by itself
    libc.free(block)
before = resident()
{trim}
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is meant")
@pytest.mark.parametrize(("trim", "least"), [("return_memory()", 150e6), ("pass", None)])
def test_freed_memory_goes_back(trim: str, least: float | None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{trim}", trim)], capture_output=True, text=True, check=True
    )
    given_back = int(done.stdout)
    assert given_back >= least if least is not None else given_back < 10e6
