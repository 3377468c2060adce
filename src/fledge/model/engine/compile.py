"""Compiles the engine's kernels on the machine they run on, once, and keeps them.

The sources in native/ become one shared library for each number format, in the user's cache, under a name that is the
hash of all it depends on: sources, flags, compiler, processor. Without a C++ compiler the kernels in plain.py do the
same in torch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from fledge.model.cache import cache_root

SOURCES = Path(__file__).parent / "native"
NUMBERS = {torch.bfloat16: "bf16", torch.float32: "float", torch.float64: "double"}
COMPILERS = ("g++", "c++")
# No reassociation and no assumption of finite numbers: a NaN has to arrive where it is looked for.
FLAGS = ("-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp", "-fPIC")
TIMEOUT_S = 120
# What oneDNN and torch themselves are told to stay below, so that one setting holds for all of a run's arithmetic.
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


@dataclass(frozen=True)
class Compiled:
    """`library` is None where there is none; `reason` then says why, in words."""

    library: ctypes.CDLL | None
    reason: str


def has_bf16_products() -> bool:
    """Return whether this processor multiplies bf16 numbers (AVX512_BF16) and has not been told not to."""
    return "avx512_bf16" in _cpu_flags() and not _below_avx512()


@functools.cache
def compiled(dtype: torch.dtype) -> Compiled:
    """Return the kernels for `dtype`, from the cache or newly compiled (some ten seconds)."""
    if os.environ.get("FLEDGE_KERNELS") == "plain":
        return Compiled(None, "FLEDGE_KERNELS=plain")
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return Compiled(None, "no C++ compiler (g++) is installed")
    openmp = _loaded_openmp()
    if openmp is None:
        return Compiled(None, "torch here does not use GNU OpenMP")
    command = [compiler, *FLAGS, *_machine_flags(), f"-DNUMBER={NUMBERS[dtype]}"]
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=TIMEOUT_S).stdout
        digest = _digest(" ".join(command), version.decode(errors="replace"), str(openmp), " ".join(_cpu_flags()))
        path = cache_root() / "kernels" / f"{digest}.so"
        if not path.is_file():
            _compile([*command, "-shared", str(SOURCES / "kernels.cpp"), str(openmp)], path)
        return Compiled(ctypes.CDLL(str(path)), f"compiled for this processor by {Path(compiler).name}")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        told = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        return Compiled(None, f"{Path(compiler).name} could not compile the kernels: {told}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Compiled(None, f"the kernels could not be compiled: {error}")


def _compile(command: list[str], path: Path) -> None:
    """Write the library under a name of its own and rename it: two processes may compile at once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        staged = Path(folder) / path.name
        subprocess.run([*command, "-o", str(staged)], capture_output=True, check=True, timeout=TIMEOUT_S)
        staged.replace(path)


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()[:32]


def _machine_flags() -> list[str]:
    native = "-mcpu=native" if os.uname().machine in ("aarch64", "arm64") else "-march=native"
    return [native, "-mno-avx512f"] if _below_avx512() else [native]


def _below_avx512() -> bool:
    limits = (os.environ.get(name, "").upper() for name in ISA_LIMITS)
    return any(limit.startswith(("SSE", "AVX2", "AVX ", "DEFAULT")) or limit == "AVX" for limit in limits)


@functools.cache
def _cpu_flags() -> tuple[str, ...]:
    """Return the processor's features as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(sorted(found.partition(":")[2].split()))


def _loaded_openmp() -> Path | None:
    """Return the OpenMP library that torch runs on. Ours must be the same: two would keep two sets of threads."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    paths = {Path(line.split(maxsplit=5)[5]) for line in lines if "libgomp" in line}
    return next(iter(sorted(paths)), None)
