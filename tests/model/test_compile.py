"""The kernels are compiled once for a machine, do without where they can't be, and stay below what they are told."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fledge.model.engine.compile import compile_at_once, compiled, cpu_flags, multiplies_bfloat16, to_compile
from fledge.model.hardware import DTYPES

SURVEY = """
import json, torch
from fledge.model.engine.compiled import kernels_for
from fledge.model.hardware import survey
said = []
machine = survey(said.append)
kernels = kernels_for(torch.float32)
print(json.dumps({"dtype": machine.dtype, "reason": machine.dtype_reason, "said": said,
                  "kernels": kernels.name, "why": kernels.reason, "rates": machine.gemm_gflops}))
"""


def survey(**environment: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", SURVEY],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_kernels_are_compiled_once_and_kept() -> None:
    dtypes = list(DTYPES.values())
    compile_at_once(dtypes)
    assert to_compile(dtypes) == []
    first = compiled(torch.float32)
    assert first.library is not None, first.reason
    compiled.cache_clear()
    again = compiled(torch.float32)
    assert again.library is not None and again.library._name == first.library._name
    kept = Path(first.library._name)
    assert kept.parent.stat().st_mode & 0o077 == 0, "nobody else may put a library there"
    assert survey()["said"] == []


def test_a_first_run_says_that_it_compiles_and_a_second_does_not(tmp_path: Path) -> None:
    first, second = (survey(FLEDGE_HOME=str(tmp_path)) for _ in range(2))
    assert first["said"] == ["compiles its kernels for this processor: some ten seconds, once"]
    assert second["said"] == []
    assert {path.suffix for path in (tmp_path / "kernels").iterdir()} == {".so"}, "nothing half-made is left"


def test_another_openmp_in_the_process_changes_nothing() -> None:
    """Packages bring their own OpenMP: the kernels have to run on the threads of torch's, under the same name."""
    names = "import torch; from fledge.model.engine.compile import _plan; print(_plan(torch.float32).path)"
    first = "import sentencepiece; "
    told = {subprocess.check_output([sys.executable, "-c", before + names]) for before in ("", first)}
    assert len(told) == 1


@pytest.mark.slow
def test_damaged_libraries_are_compiled_again(tmp_path: Path) -> None:
    """Loading one that a power cut has left half-written ends a process without a word."""
    survey(FLEDGE_HOME=str(tmp_path))
    cut, changed = sorted((tmp_path / "kernels").glob("*.so"))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    held = bytearray(changed.read_bytes())
    held[len(held) // 2] ^= 255
    changed.write_bytes(held)
    again, then = (survey(FLEDGE_HOME=str(tmp_path)) for _ in range(2))
    assert again["said"] == ["compiles its kernels for this processor: some ten seconds, once"]
    assert (then["said"], then["kernels"]) == ([], "compiled")


def test_without_a_compiler_the_same_is_done_in_torch(tmp_path: Path) -> None:
    told = survey(PATH=str(tmp_path))
    assert (told["kernels"], told["why"]) == ("torch", "no C++ compiler (g++) is installed")


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    fake = tmp_path / "g++"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo fake 1 && exit 0\necho "x.h:3: error: no AVX here" >&2\nexit 1\n'
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    told = survey(PATH=f"{tmp_path}:{os.environ['PATH']}", FLEDGE_HOME=str(tmp_path / "home"))
    assert told["kernels"] == "torch"
    assert told["why"] == "g++ could not compile the kernels: x.h:3: error: no AVX here"
    assert not list((tmp_path / "home" / "kernels").iterdir())


def test_without_avx512_float32_is_chosen_and_the_reason_told() -> None:
    """Emulated bfloat16 loses; a processor without bfloat16 products gives the same answer by itself."""
    for plain in ({}, {"FLEDGE_KERNELS": "plain"}):
        told = survey(ONEDNN_MAX_CPU_ISA="AVX2", **plain)
        assert told["dtype"] == "float32"
        assert str(told["reason"]).endswith("the speed of float32 without AVX-512 (ONEDNN_MAX_CPU_ISA=AVX2) (measured)")


def run_tests(file: str, chosen: str, limit: str) -> str:
    """Run tests of another file in a process that stays below a limit; return what pytest says at the end."""
    tests = str(Path(__file__).with_name(file))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", tests, "-k", chosen],
        capture_output=True,
        text=True,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.skipif("avx512f" not in cpu_flags(), reason="every other test is this one here")
def test_the_kernels_below_avx512_are_exact_too() -> None:
    chosen = "plain_computation and compiled and (smollm2 or gemma3-caps)"
    assert "4 passed" in run_tests("test_engine.py", chosen, "AVX2")


@pytest.mark.skipif(
    "amx_bf16" not in cpu_flags(), reason="this processor has no tiles: every other test is this one here"
)
def test_the_kernels_without_tiles_are_exact_too() -> None:
    limit = "AVX512_CORE_BF16"
    with_tiles, without = (survey(**limits)["rates"] for limits in ({}, {"ONEDNN_MAX_CPU_ISA": limit}))
    assert isinstance(with_tiles, dict) and isinstance(without, dict)
    assert with_tiles["bfloat16"] > 1.5 * without["bfloat16"], "the limit reaches our own products"
    assert "failed" not in run_tests("test_kernels.py", "product and bfloat16", limit)


@pytest.mark.slow
@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor has no bfloat16 products")
def test_busy_neighbours_do_not_decide_what_a_run_is_computed_in() -> None:
    quiet = survey()["dtype"]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        found = [survey()["dtype"] for _ in range(3)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert found == [quiet] * 3 == ["bfloat16"] * 3
