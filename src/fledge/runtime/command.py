"""A teacher that is a command: the prompt goes in on stdin, what it prints is the answer."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from subprocess import PIPE
from typing import IO

from fledge.errors import ConfigError, TeacherError

MAX_ANSWER_BYTES, MAX_COMPLAINT_BYTES = 1 << 22, 1 << 16
# What a killed command leaves open, a grandchild of another group may hold for longer: it is not waited for.
LET_GO_S = 1.0


class Command:
    """A command line, started anew for every prompt and without a shell. `ask` may be called from several threads.

    Raises ConfigError for a line that cannot be cut into words, or a program that does not exist.
    """

    def __init__(self, line: str, *, timeout_s: float = 300.0) -> None:
        self.where = line
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise ConfigError("config.bad_value", f"cannot be read as a command: {error}.", where=f"cmd:{line}",
                              remedy="Close the quotes.") from error  # fmt: skip
        if not self._words or shutil.which(self._words[0]) is None:
            name = self._words[0] if self._words else ""
            raise ConfigError("config.bad_value", f"there is no program '{name}'.", where=f"cmd:{line}",
                              remedy="Give its path; shell syntax needs cmd:'sh -c \"...\"'.")  # fmt: skip
        self._timeout_s = timeout_s
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, prompt: str) -> str:
        """Return what the command prints.

        Raises TeacherError("teacher.failed") where it fails, takes too long or prints more than an answer can be.
        """
        # Its own group, so that what it started ends with it.
        process = subprocess.Popen(self._words, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True)
        with self._lock:
            self._running.add(process)
            closed = self._closed
        try:
            if closed:
                _kill(process)
            said, told = self._hear(process, prompt)
        finally:
            _end(process)
            with self._lock:
                self._running.discard(process)
        if process.returncode:
            last = (told.strip() or said.strip()).splitlines()[-1:] or ["it said nothing"]
            raise self._failure(f"ended with exit code {process.returncode}: {last[0][:200]}.")
        if not said.strip():
            raise self._failure("printed nothing.")
        return said

    def _hear(self, process: subprocess.Popen[bytes], prompt: str) -> tuple[str, str]:
        """Return what it prints on stdout and stderr until both are closed and it has ended."""
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        deadline = time.monotonic() + self._timeout_s
        said, told = _Ear(process.stdout, MAX_ANSWER_BYTES), _Ear(process.stderr, MAX_COMPLAINT_BYTES, drain=True)
        mouth = threading.Thread(target=_write, args=(process.stdin, prompt.encode("utf-8", "replace")), daemon=True)
        threads = (said, told, mouth)
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
                if said.full:
                    raise self._failure(f"printed more than {MAX_ANSWER_BYTES >> 20} MB.")
                if thread.is_alive():
                    raise self._failure(f"did not answer within {self._timeout_s:g} s.")
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not answer within {self._timeout_s:g} s.") from None
        finally:
            # The pipes close with the command, and the threads end with the pipes.
            _kill(process)
            for thread in threads:
                thread.join(LET_GO_S)
        return said.text, told.text

    def close(self) -> None:
        """End what is running."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _kill(process)  # whoever asked it still reads from it, and takes it down

    def _failure(self, what: str) -> TeacherError:
        name = Path(self._words[0]).name
        remedy = "Try it by hand: it must read the prompt from stdin and print the answer."
        return TeacherError("teacher.failed", f"'{name}' {what}", where=f"cmd:{self.where}", remedy=remedy)


class _Ear(threading.Thread):
    """Reads a pipe up to `limit` bytes; the rest is thrown away with `drain`, else it stops there and is `full`."""

    def __init__(self, pipe: IO[bytes], limit: int, *, drain: bool = False) -> None:
        super().__init__(daemon=True)
        self._pipe, self._limit, self._drain = pipe, limit, drain
        self._heard = bytearray()
        self.full = False

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(self._pipe.fileno(), 1 << 16):
                self._heard += chunk[: self._limit - len(self._heard)]
                if len(self._heard) == self._limit and not self._drain:
                    self.full = True
                    return

    @property
    def text(self) -> str:
        return self._heard.decode("utf-8", errors="replace")


def _write(pipe: IO[bytes], prompt: bytes) -> None:
    # A command that answers without reading on is none of our business.
    with contextlib.suppress(OSError, ValueError):
        pipe.write(prompt)
        pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the command and all it started, where it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the command where it still runs, and let go of it."""
    _kill(process)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
