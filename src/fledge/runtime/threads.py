"""How many threads llama.cpp should use here: the physical cores that this process may really have.

Two threads on one physical core share its vector units, so hyper-threads make a matrix product slower, not faster; and
threads beyond a container's CPU quota are put to sleep in the middle of it, while all others wait for them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

SYSTEM_FILES = Path("/sys")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return the number of physical cores that affinity and cgroup quota leave to this process; at least 1."""
    # sched_getaffinity exists on Linux only, as do the two file trees read below.
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = physical_cores(cpus, system_files=SYSTEM_FILES)
    quota = cgroup_quota(system_files=SYSTEM_FILES, own_cgroups=OWN_CGROUPS)
    return max(1, min(cores, int(quota)) if quota is not None else cores)


def physical_cores(cpus: Collection[int], *, system_files: Path) -> int:
    """Return how many physical cores the logical `cpus` lie on; without topology files each counts as one."""
    topology = system_files / "devices/system/cpu"
    return len({_text(topology / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus})


def cgroup_quota(*, system_files: Path, own_cgroups: Path) -> float | None:
    """Return the tightest CPU quota, in cores, over our cgroup and the ones above it; None when there is no limit."""
    quotas = []
    for line in (_text(own_cgroups) or "").splitlines():
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # An empty controller list is version 2, whose one tree is mounted at the root of cgroup/.
        mount = system_files / "fs/cgroup" / controllers
        quotas += [q for q in map(_quota, _up_to(mount, path)) if q is not None]
    return min(quotas, default=None)


def _up_to(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folder of the cgroup `path` and those above it; a container often sees only the mount itself."""
    folder = mount / path.lstrip("/")
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder


def _quota(folder: Path) -> float | None:
    if (version_2 := _text(folder / "cpu.max")) is not None:
        quota, period = version_2.split()
    else:
        quota = _text(folder / "cpu.cfs_quota_us") or "max"
        period = _text(folder / "cpu.cfs_period_us") or "100000"
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
