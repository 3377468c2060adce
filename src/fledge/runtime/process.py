"""One child process in which llama.cpp runs, and the certainty that it ends when we do.

Native code can crash (a damaged file, a missing CPU instruction, no memory), keeps memory it has freed, and chatters on
stdout. So it always lives in a process of its own:

* settings go in as one JSON line on stdin (never in argv or the environment, where others could read the API key), one
  JSON line comes back on stdout when the worker is ready, and what is said in between is the worker's own protocol;
* stderr, and the stdout of native code, go to a log without a name on disk, which we read when something went wrong;
* the worker ends when its stdin ends. That holds however we die, SIGKILL included. The parent-death signal of Linux is
  not used: it fires when the *thread* that started the worker ends, which may be long before the process does;
* the worker has a session of its own, so Ctrl-C in the terminal reaches us and we decide.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from typing import IO, Any

from fledge.errors import EngineError
from fledge.runtime.waiting import openmp_environment

_LOG_PREFIX = re.compile(r"^[\d.]+ [A-Z] +")  # llama.cpp's time and level
_ERROR_LINE = re.compile(r"^[\d.]+ E +")
_EXIT_WAIT_S = 5.0
_LOG_READ_BYTES = 65536

_ENVIRONMENT_DEFAULTS = {
    # On an assertion ggml would otherwise start a debugger to print its stack.
    "GGML_NO_BACKTRACE": "1",
}
_REMEDIES = {
    "SIGKILL": "Most often the machine ran out of memory: use a smaller model or context.",
    "SIGILL": "llama.cpp needs a CPU with AVX2, FMA and F16C.",
}


class WorkerProcess:
    """A running worker. `hello` is the JSON object it sent when it was ready; `where` names its model in errors.

    Raises EngineError("engine.start") when the worker ends, or stays silent for `start_timeout_s`, before it is ready.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], *, where: str, start_timeout_s: float) -> None:
        self.where = where
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the worker does)
        self._process = subprocess.Popen(
            # -P: a json.py in the user's folder must not stand in for the standard library's.
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_ENVIRONMENT_DEFAULTS | openmp_environment() | os.environ,
            start_new_session=True,
        )
        # A finalizer runs on close(), when the object is collected, and at the exit of the interpreter; once.
        self._end = weakref.finalize(self, _end, self._process, self._log)
        try:
            self.hello = self._start(settings, timeout_s=start_timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, record: Mapping[str, Any]) -> None:
        """Write one JSON line to the worker. Raises EngineError("engine.died") when nobody reads it any more."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(record).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self.death() from error

    def receive(self, num_bytes: int) -> bytes:
        """Return exactly `num_bytes` of the worker's stdout. Raises EngineError("engine.died") when it ends before."""
        assert self._process.stdout is not None
        data = self._process.stdout.read(num_bytes)
        if len(data) < num_bytes:
            raise self.death()
        return data

    def death(self) -> EngineError:
        """Return the error that tells how the worker ended, to be raised by whoever lost touch with it."""
        if not self._end.alive:
            return EngineError("engine.died", "the llama.cpp worker was closed while it worked.", where=self.where)
        try:
            how = _ending(self._process.wait(timeout=_EXIT_WAIT_S))
        except subprocess.TimeoutExpired:
            how = "broke the connection but still runs"
        said = self._log_lines()
        log = f" Its log ends: {_words(said[-1])}." if said else ""
        return EngineError(
            "engine.died", f"the llama.cpp worker {how} while it worked.{log}", where=self.where, remedy=_remedy(how)
        )

    def close(self) -> None:
        """End the worker. Safe to call again, and from any thread."""
        self._end()

    def _start(self, settings: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        with contextlib.suppress(EngineError):  # a worker that died at once is told about below
            self.send(settings)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                raise EngineError(
                    "engine.start",
                    f"the llama.cpp worker was not ready after {timeout_s:g} s.",
                    where=self.where,
                    remedy="Close other programs, or use a smaller model or context.",
                )
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            how = _ending(self._process.wait(timeout=_EXIT_WAIT_S))
            raise EngineError("engine.start", f"{self._reason(how)}.", where=self.where, remedy=_remedy(how))
        hello: dict[str, Any] = json.loads(line)
        return hello

    def _reason(self, how: str) -> str:
        # llama.cpp says what is wrong in its first error line; the ones after it only say that this was fatal.
        lines = self._log_lines()
        said = [line for line in lines if _ERROR_LINE.match(line)][:1] or lines[-1:]
        return f"llama.cpp did not start: {_words(said[0])}" if said else f"the llama.cpp worker {how} at its start"

    def _log_lines(self) -> list[str]:
        # pread: the worker writes through the same file offset, which a seek here would move.
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _LOG_READ_BYTES, max(0, size - _LOG_READ_BYTES))
        return [line for line in tail.decode(errors="replace").splitlines() if line.strip()]


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    process.kill()  # the worker holds nothing worth saving, and a polite request could hang in native code
    process.wait()
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # what a dead worker left unread
        process.stdin.close()
    process.stdout.close()
    log.close()


def _words(log_line: str) -> str:
    return _LOG_PREFIX.sub("", log_line).strip().rstrip(".")


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"


def _remedy(how: str) -> str:
    return next((remedy for name, remedy in _REMEDIES.items() if how.endswith(name)), "")
