"""What was paid for, kept beside the output from the moment it came: a killed run goes on where it was.

One JSON line an answer, flushed to the disk before anything is made of it. A line that was cut off is dropped when the
file is opened again. Lines are found by the key of their request, so a larger number of rows asks only what was not
asked before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fledge.errors import DataError, writing
from fledge.project import fsync_folder


@dataclass(frozen=True)
class Said:
    """A teacher's answer to a request, with the tokens that it took; estimated where the teacher does not count."""

    text: str
    tokens_in: int
    tokens_out: int
    estimated: bool = False


class Journal:
    """The answers so far, by the key of their request. A context manager; safe from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._answers: dict[str, Said] = {}
        self._wrote: set[str] = set()
        self._size = self._read() if path.exists() else 0

    def _read(self) -> int:
        """Take in every whole line and return where they end."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    value = json.loads(line)
                    if "wrote" in value:
                        self._wrote.add(str(value["wrote"]))
                    else:
                        key = value.pop("key")
                        self._answers[key] = Said(**value)
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise DataError(
                        "data.bad_row",
                        "is no line of a journal.",
                        where=f"{self.path}:{number}",
                        remedy="Move the file away to begin anew; what it holds is asked again.",
                    ) from error
                end += len(line)
        return end

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Said | None:
        return self._answers.get(key)

    def add(self, key: str, said: Said) -> None:
        """Keep an answer; when this returns it is on the disk."""
        with self._lock:
            self._append(json.dumps({"key": key, **asdict(said)}, ensure_ascii=False))
            self._answers[key] = said

    def will_write(self, content: str) -> None:
        """Note that an output with this content is about to be written, so that a later run knows it as its own."""
        with self._lock:
            self._append(json.dumps({"wrote": _digest(content.encode())}))

    def knows(self, path: Path) -> bool:
        """Whether the file is an output that was written with this journal and not changed since."""
        return _digest(path.read_bytes()) in self._wrote

    def _append(self, line: str) -> None:
        with writing(self.path):
            new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if not new else "wb") as file:
                # Behind the last whole line: what a kill left of another goes.
                file.seek(self._size)
                file.truncate()
                file.write(line.encode("utf-8", errors="replace") + b"\n")
                file.flush()
                os.fsync(file.fileno())
                self._size = file.tell()
            if new:
                fsync_folder(self.path.parent.absolute())

    def set_aside(self) -> Path:
        """Move the journal away, so that all of it is asked anew, and return where it is."""
        aside = self.path.with_name(f"{self.path.name}.unused")
        with writing(aside):
            self.path.replace(aside)
        return aside

    def remove(self) -> None:
        """Delete the journal: what it held stands in the output."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write `path` and its journal; a second run on the same output is refused."""
    import fcntl

    with writing(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        with lock.open("w") as file:
            busy = DataError(
                "data.busy",
                "another run is writing it.",
                where=str(path),
                remedy="Wait for it, or choose another name.",
            )
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise busy from error
            if not lock.exists() or lock.stat().st_ino != os.fstat(file.fileno()).st_ino:
                raise busy  # a run that ended just now took the file away; yet another may hold a new one
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
