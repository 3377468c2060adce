"""A process that runs code which is not ours: JSON lines in and out, a time limit on each, and its end for certain.

It has a session and an empty folder of its own, and an environment without anything of the user's. What it may do is
set up inside of it (`confinement`) before that code is loaded; what it prints goes to a log without a name on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import fledge

MAX_LINE_BYTES = 1 << 22
MAX_PRINTED_BYTES = 1 << 14


class Silent(Exception):
    """It did not answer in time, and was ended."""


class Gone(Exception):
    """It ended by itself; the words say how."""


class Child:
    """A running `python -m module`. Use it from one thread; after Silent or Gone only `printed` and `close` work."""

    def __init__(self, module: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="fledge-reward-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process does)
        self._heard = 0
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=self.folder,
            env=_environment(self.folder),
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._end = weakref.finalize(self, _end, self._process, self._log, self.folder)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, record: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Return what it answers to `record`. Raises Silent after `timeout_s` seconds, and Gone where it has ended."""
        deadline = time.monotonic() + timeout_s
        self._write(json.dumps(record).encode() + b"\n", deadline)
        while b"\n" not in self._rest:
            self._rest += self._read(deadline)
            if len(self._rest) > MAX_LINE_BYTES:
                raise self._gone()
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._gone() from None
        if not isinstance(answer, dict):
            raise self._gone()
        return answer

    def printed(self) -> str:
        """Return what it has printed since this was last asked, at most 16 KiB."""
        size = os.fstat(self._log.fileno()).st_size
        start = max(self._heard, size - MAX_PRINTED_BYTES)
        self._heard = size
        return os.pread(self._log.fileno(), size - start, start).decode(errors="replace")

    def kill(self) -> None:
        """Kill it and what it started; what it printed can still be read."""
        _kill(self._process)

    def close(self) -> None:
        """End it and remove its folder. Safe to call again."""
        self._end()

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        while data:
            self._wait(pipe, selectors.EVENT_WRITE, deadline)
            try:
                data = data[os.write(pipe, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._gone() from None

    def _read(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        self._wait(pipe, selectors.EVENT_READ, deadline)
        if not (chunk := os.read(pipe, 1 << 16)):
            raise self._gone()
        return chunk

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                self.kill()
                raise Silent

    def _gone(self) -> Gone:
        # What closed its pipe but runs on is ended as well.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.kill()
        code = self._process.returncode
        if code is not None and code < 0:
            return Gone(f"was ended by {signal.Signals(-code).name}")
        return Gone(f"ended with exit code {code}")


def _environment(folder: str) -> dict[str, str]:
    """Return an environment in which nothing is the user's; libraries for numbers keep to one thread."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "PYTHONPATH": str(Path(fledge.__file__).parents[1]),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        # The group first: once the leader is waited for, its number may be somebody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end(process: subprocess.Popen[bytes], log: IO[bytes], folder: str) -> None:
    _kill(process)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    log.close()
    shutil.rmtree(folder, ignore_errors=True)
