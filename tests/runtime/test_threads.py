"""The number of threads, from the files in which Linux tells it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fledge.runtime.threads import cgroup_quota, physical_cores, usable_cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_hyper_threads_share_a_core(tmp_path: Path) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        write(tmp_path / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    assert physical_cores({0, 1, 2, 3}, system_files=tmp_path) == 2
    assert physical_cores({0, 2}, system_files=tmp_path) == 1
    assert physical_cores({0, 1, 2}, system_files=tmp_path / "none") == 3


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a/b", {"fs/cgroup/a/b/cpu.max": "max 100000", "fs/cgroup/a/cpu.max": "150000 100000"}, 1.5),
        ("0::/../elsewhere", {"fs/cgroup/cpu.max": "400000 100000"}, 4.0),
        ("1:cpu:/a", {"fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000", "fs/cgroup/cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("1:cpu:/", {"fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, None),
        ("4:memory:/a\n0::/", {}, None),
    ],
)
def test_the_tightest_quota_counts(tmp_path: Path, own: str, files: dict[str, str], quota: float | None) -> None:
    write(tmp_path / "cgroup", own)
    for name, text in files.items():
        write(tmp_path / name, text)
    assert cgroup_quota(system_files=tmp_path, own_cgroups=tmp_path / "cgroup") == quota


def test_this_machine_has_a_core() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
