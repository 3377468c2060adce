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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from fledge.model.cache import cache_root

SOURCES = Path(__file__).parent / "native"
NUMBERS = {torch.bfloat16: "bf16", torch.float32: "float", torch.float64: "double"}
COMPILERS = ("g++", "c++")
# No reassociation and no assumption of finite numbers: a NaN has to arrive where it is looked for.
FLAGS = ("-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp", "-fPIC")
DIGEST_BYTES = 32
TIMEOUT_S = 120
# What oneDNN and torch themselves are told to stay below, so that one setting holds for all of a run's arithmetic.
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


@dataclass(frozen=True)
class Compiled:
    """`library` is None where there is none; `reason` then says why, in words."""

    library: ctypes.CDLL | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """How the library called `name` is made, if it is not there."""

    command: list[str]
    name: str

    @property
    def path(self) -> Path:
        """Where it is kept: asked each time, as the cache may be moved while the plan holds."""
        return cache_root() / "kernels" / self.name


def to_compile(dtypes: Sequence[torch.dtype]) -> list[torch.dtype]:
    """Return those whose kernels this machine can have and has not compiled yet."""
    plans = {dtype: _plan(dtype) for dtype in dtypes}
    return [dtype for dtype, plan in plans.items() if isinstance(plan, Plan) and not _whole(plan.path)]


def compile_at_once(dtypes: Sequence[torch.dtype]) -> None:
    """Compile what is missing side by side: two formats take little longer than one."""
    missing = to_compile(dtypes)
    with ThreadPoolExecutor(max(1, len(missing))) as pool:
        list(pool.map(compiled, missing))


@functools.cache
def compiled(dtype: torch.dtype) -> Compiled:
    """Return the kernels for `dtype`, from the cache or newly compiled (some ten seconds)."""
    plan = _plan(dtype)
    if isinstance(plan, str):
        return Compiled(None, plan)
    compiler = Path(plan.command[0]).name
    try:
        if not _whole(plan.path):
            _compile(plan.command, plan.path)
        return Compiled(ctypes.CDLL(str(plan.path)), f"compiled for this processor by {compiler}")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        told = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        return Compiled(None, f"{compiler} could not compile the kernels: {told}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Compiled(None, f"the kernels could not be compiled: {error}")


@functools.cache
def _plan(dtype: torch.dtype) -> Plan | str:
    """Return how the kernels for `dtype` are compiled here, or why they cannot be."""
    if os.environ.get("FLEDGE_KERNELS") == "plain":
        return "FLEDGE_KERNELS=plain"
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return "no C++ compiler (g++) is installed"
    openmp = _openmp_of_torch()
    if openmp is None:
        return "torch here does not use GNU OpenMP"
    command = [compiler, *FLAGS, *_machine_flags(), f"-DNUMBER={NUMBERS[dtype]}"]
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{Path(compiler).name} does not run: {error}"
    digest = _digest(" ".join(command), version.decode(errors="replace"), str(openmp), " ".join(cpu_flags()))
    command += ["-shared", str(SOURCES / "kernels.cpp"), str(openmp)]
    return Plan(command, f"{digest}.so")


def _compile(command: list[str], path: Path) -> None:
    """Write the library under a name of its own and rename it: two processes may compile at once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        staged = Path(folder) / path.name
        subprocess.run([*command, "-o", str(staged)], capture_output=True, check=True, timeout=TIMEOUT_S)
        with staged.open("r+b") as file:
            # Behind what the loader reads: one file that is there whole, or found out not to be.
            file.write(hashlib.sha256(file.read()).digest())
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)


def _whole(path: Path) -> bool:
    """Whether the library is what was compiled. A part of one, which a power cut can leave, would crash when loaded."""
    try:
        held = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(held[:-DIGEST_BYTES]).digest() == held[-DIGEST_BYTES:]


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()[:32]


def _machine_flags() -> list[str]:
    if os.uname().machine in ("aarch64", "arm64"):
        return ["-mcpu=native"]
    if below_avx512():
        return ["-march=native", "-mno-avx512f"]
    return ["-march=native", "-mno-amx-tile"] if below_amx() else ["-march=native"]


def below_avx512() -> str:
    """Return the setting that tells to do without AVX-512, as "NAME=VALUE", or "" where there is none."""
    limits = {name: os.environ.get(name, "").upper() for name in ISA_LIMITS}
    told = (f"{name}={value}" for name, value in limits.items() if value.startswith(("SSE", "AVX2", "DEFAULT")))
    avx = (f"{name}=AVX" for name, value in limits.items() if value == "AVX")
    return next(told, next(avx, ""))


def below_amx() -> bool:
    """Return whether a setting tells to do without the tiles of AMX."""
    limit = os.environ.get(ISA_LIMITS[0], "").upper()
    return bool(below_avx512()) or (limit.startswith("AVX") and "AMX" not in limit)


def multiplies_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 by itself, and faster than float32, as far as its kind tells.

    Intel's AVX512_BF16 is no faster than float32, its tiles (AMX) are by far; AMD's is twice as fast.
    """
    flags = frozenset(cpu_flags())
    if "amx_bf16" in flags and not below_amx():
        return True
    amd = not flags.isdisjoint(("sse4a", "misalignsse"))
    return not below_avx512() and ("bf16" in flags or ("avx512_bf16" in flags and amd))


@functools.cache
def cpu_flags() -> tuple[str, ...]:
    """Return the processor's features as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(sorted(found.partition(":")[2].split()))


def _openmp_of_torch() -> Path | None:
    """Return the OpenMP library that torch runs on. Ours must be the same: two would keep two sets of threads.

    Other packages bring and load one of their own, so the loader is asked which one torch's calls go to.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        mapped = [line.split(maxsplit=5) for line in maps if line.count("/") > 0]
        torch_library = next(fields[5] for fields in mapped if "libtorch_cpu" in fields[5])
        called = ctypes.cast(ctypes.CDLL(torch_library).GOMP_parallel, ctypes.c_void_p).value or 0
    except (OSError, StopIteration, AttributeError):
        return None
    for fields in mapped:
        first, end = (int(address, 16) for address in fields[0].split("-"))
        if first <= called < end:
            return Path(fields[5]) if "libgomp" in fields[5] else None
    return None
