"""What was computed once and is kept for the next time: bytes under a name, whole or not there, the newest that fit."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

DIGEST_BYTES = 32


def read_kept(path: Path) -> bytes | None:
    """Return what was kept under this name, which counts as used now; None where there is nothing, or nothing whole."""
    try:
        raw = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    held = raw[DIGEST_BYTES:]
    return held if hashlib.sha256(held).digest() == raw[:DIGEST_BYTES] else None


def keep(path: Path, held: bytes, *, most_bytes: int) -> None:
    """Keep it, and of the older files of its kind (by suffix) what was used last and fits into `most_bytes` beside.

    A full disk keeps nothing and is no error.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as staging:
            staged = Path(staging) / path.name
            staged.write_bytes(hashlib.sha256(held).digest() + held)
            staged.replace(path)
        kept = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda file: file.stat().st_mtime, reverse=True)
        total = 0
        for file in kept:
            total += file.stat().st_size
            if total > most_bytes:
                file.unlink(missing_ok=True)
    except OSError:
        return
