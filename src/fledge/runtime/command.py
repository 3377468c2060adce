"""A teacher that is a command: the prompt goes in on stdin, what it prints is the answer."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
from pathlib import Path

from fledge.errors import ConfigError, TeacherError

MAX_ANSWER_CHARS = 1 << 22


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
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, prompt: str) -> str:
        """Return what the command prints. Raises TeacherError("teacher.failed") where it fails or takes too long."""
        process = subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Its own group, so that what it started ends with it.
            start_new_session=True,
        )
        with self._lock:
            self._running.add(process)
            closed = self._closed
        try:
            if closed:
                _kill(process)
            said, told = process.communicate(prompt, timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not answer within {self._timeout_s:g} s.") from None
        finally:
            _end(process)
            with self._lock:
                self._running.discard(process)
        if process.returncode:
            last = (told.strip() or said.strip()).splitlines()[-1:] or ["it said nothing"]
            raise self._failure(f"ended with exit code {process.returncode}: {last[0][:200]}.")
        if not said.strip():
            raise self._failure("printed nothing.")
        return said[:MAX_ANSWER_CHARS]

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


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the command and all it started, where it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the command where it still runs, and let go of it."""
    _kill(process)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
