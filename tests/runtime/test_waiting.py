"""How threads wait is chosen by what the processor is doing, and the user's own choice stands."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fledge.runtime import waiting


def _stat(path: Path, *, busy: int, idle: int) -> None:
    path.write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n", encoding="ascii")


@pytest.mark.parametrize(("busy", "idle", "share"), [(0, 100, 1.0), (100, 100, 0.5), (300, 100, 0.25)])
def test_free_processors_are_counted(
    busy: int, idle: int, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting.os, "cpu_count", lambda: 4)
    stat = tmp_path / "stat"
    _stat(stat, busy=1000, idle=5000)
    timer = threading.Timer(0.05, lambda: _stat(stat, busy=1000 + busy, idle=5000 + idle))
    timer.start()
    assert waiting.free_cpus(stat=stat, sample_s=0.3) == pytest.approx(4 * share)
    timer.join()


def test_a_system_that_does_not_tell_is_no_fault(tmp_path: Path) -> None:
    assert waiting.free_cpus(stat=tmp_path / "missing", sample_s=0.0) is None


@pytest.mark.parametrize(("free", "spins"), [(2.0, waiting.SPINS), (0.9, waiting.FEW_SPINS), (None, waiting.SPINS)])
def test_few_spins_where_cores_are_wanted(free: float | None, spins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(waiting, "usable_cores", lambda: 2)
    monkeypatch.setattr(waiting, "free_cpus", lambda: free)
    assert waiting.openmp_environment() == {"GOMP_SPINCOUNT": spins}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_users_choice_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "anything")
    assert waiting.openmp_environment() == {}
