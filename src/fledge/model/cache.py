"""The folder of pulled models: what is in it, whether it is still what was pulled, and how a new one gets in.

models/NAME.gguf or models/NAME/    whole and checked, because it came by rename
models/.checked/*.json              size, mtime and sha256 of every checked file, here or in a user's folder
models/.staging/NAME/, NAME.lock    a pull on its way; the lock is free as soon as its process is gone
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.errors import DiskError, PullError, writing
from fledge.project import fsync_folder, sha256_of, write_json_atomic

PART = ".part"
# Parts of a broken download are worth keeping for a resume, but not for ever.
KEEP_PARTS_S = 24 * 3600.0


@dataclass(frozen=True)
class Checked:
    """A model file or folder whose sha256 is known. `source` tells where it came from."""

    path: Path
    sha256: str
    bytes: int
    source: str


def cache_root() -> Path:
    """Return the folder of all that can be made again: FLEDGE_HOME, else below XDG_CACHE_HOME, else ~/.cache."""
    if home := os.environ.get("FLEDGE_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fledge"


def root() -> Path:
    """Return the folder of pulled models."""
    return cache_root() / "models"


def where(key: str) -> Path | None:
    """Return the path of a pulled model, unchecked, or None."""
    for path in (root() / f"{key}.gguf", root() / key):
        if path.exists():
            return path
    return None


def find(key: str, *, pinned: str | None) -> Checked | None:
    """Return a pulled model that is still what was pulled, or None; a damaged one is None too."""
    path = where(key)
    if path is None:
        return None
    record = _read_record(path)
    wanted = (pinned if path.suffix == ".gguf" else None) or record.get("sha256")
    try:
        return check(path, wanted=wanted, source=str(record.get("source", "cache")))
    except (PullError, FileNotFoundError):
        return None


def check(path: Path, *, wanted: str | None, source: str) -> Checked:
    """Return what a file or folder is. It is hashed once; afterwards its size and mtime vouch for it.

    Raises PullError where `wanted`, a sha256, is given and is another one.
    """
    stamps = _stamps(path)
    record = _read_record(path)
    if record.get("stamps") == stamps:
        sha256 = str(record["sha256"])
    else:
        sha256 = digest_of({name: sha256_of(path / name) for name in stamps})
    if wanted and sha256 != wanted:
        raise bad_hash(sha256, wanted)
    if record.get("stamps") != stamps:
        _write_record(path, sha256=sha256, stamps=stamps, source=source)
    return Checked(path, sha256, sum(size for size, _ in stamps.values()), source)


def keep(staged: Path, key: str, *, hashes: Mapping[str, str], source: str) -> Checked:
    """Move a staged file or folder, whole and on disk, to its final place. `hashes` are its files' sha256 by name."""
    final = root() / (key if staged.is_dir() else f"{key}.gguf")
    with writing(final):
        for name in hashes:
            with (staged / name).open("rb") as file:
                os.fsync(file.fileno())
        damaged = where(key)
        if damaged is not None:
            os.replace(damaged, staged.with_name("damaged"))
        # The record comes first: a rename keeps size and mtime, so the file is known the moment it is seen.
        stamps, sha256 = _stamps(staged), digest_of(hashes)
        _write_record(final, sha256=sha256, stamps=stamps, source=source)
        os.replace(staged, final)
        fsync_folder(final.parent)
    return Checked(final, sha256, sum(size for size, _ in stamps.values()), source)


def digest_of(hashes: Mapping[str, str]) -> str:
    """Return one sha256 for a set of files: a lone file's own, else that of the sorted lines `sha256  name`."""
    if list(hashes) == [""]:
        return hashes[""]
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def bad_hash(found: str, wanted: str) -> PullError:
    return PullError("model.bad_hash", f"sha256 is {found[:12]}..., expected {wanted[:12]}...")


@contextmanager
def staging(key: str) -> Iterator[Path]:
    """Give the one process that pulls `key` a folder of its own; others wait here until it is done.

    When the block ends well the folder goes. When it fails, parts that a later pull can resume stay; on a full disk
    everything goes.
    """
    folder = root() / ".staging" / key
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder, wait=True):
        for other in folder.parent.iterdir():
            if other.is_dir() and other != folder:
                with _locked(other, wait=False) as abandoned:
                    if abandoned:
                        _sweep(other)
        _sweep(folder)
        try:
            with writing(folder):
                folder.mkdir(exist_ok=True)
                yield folder
        except DiskError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            _sweep(folder)


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock beside a staging folder, or tell that another process does. A killed process lets go of it.

    Lock files stay: removing one races with a process that has just opened it.
    """
    with writing(folder):
        handle = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what a pull left in its staging folder, except parts that are young enough to resume."""
    if not folder.is_dir():
        return
    for child in folder.iterdir():
        if PART not in child.suffixes or time.time() - child.stat().st_mtime > KEEP_PARTS_S:
            # A killed pull may have left a pip that still writes; it fails on its own once its folder is gone.
            shutil.rmtree(child, ignore_errors=True) if child.is_dir() else child.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _stamps(path: Path) -> dict[str, list[int]]:
    """Size in bytes and mtime in ns by file name; the name of a lone file is "". A model folder is flat."""
    files = {p.name: p for p in sorted(path.iterdir()) if p.is_file()} if path.is_dir() else {"": path}
    return {name: [file.stat().st_size, file.stat().st_mtime_ns] for name, file in files.items()}


def _record_of(path: Path) -> Path:
    # A user's folder may be read-only, so the record of a file stands here, under a digest of its path.
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return root() / ".checked" / f"{path.stem}-{digest[:16]}.json"


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_record_of(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(path: Path, *, sha256: str, stamps: dict[str, list[int]], source: str) -> None:
    record = _record_of(path)
    with writing(record):
        record.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(record, {"path": str(path), "sha256": sha256, "source": source, "stamps": stamps})
