"""What code that is not ours may do, set up in the process that runs it: limits, an audit hook, the kernel's filters.

The hook makes what is refused a Python error that says what it was; the kernel (`kernel`) refuses what goes around it.
Nothing here is imported by fledge's own process.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

from fledge.rewards.kernel import confine

MAX_TOLD = 20
MAX_OPEN_FILES = 256
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PROGRAMS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
}
SIGNALS = {"os.kill", "os.killpg"}
# Events that change what a path names; their first arguments are paths.
CHANGES = {
    "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.chmod": 1, "os.chown": 1, "os.link": 2,
    "os.symlink": 2, "os.truncate": 1, "os.utime": 1, "shutil.rmtree": 1, "shutil.move": 2, "sqlite3.connect": 1,
}  # fmt: skip
IMPORTED = (".py", ".pyc", ".so", ".pth")
HARMLESS = ("/dev/null", "/dev/urandom", "/dev/random")


class Refused(PermissionError):
    """Something that code in here may not do; the words are for whoever wrote it."""


class Watch:
    """An audit hook. `refused` and `read` tell, since they were last taken, what was refused and read outside.

    modules: a folder whose Python files are read without a word. strict: nothing but Python and these can be read.
    """

    def __init__(self, folder: str, modules: str, *, strict: bool) -> None:
        self._folder = os.path.realpath(folder)
        self._modules = os.path.realpath(modules) if modules else ""
        self._own = tuple(os.path.realpath(path) for path in python_places())
        self._strict = strict
        self._busy = False
        self.refused: list[str] = []
        self.read: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:  # what the hook itself looks up
            return
        if event == "open":
            self._on_open(*arguments[:3])
        elif event in PROGRAMS:
            self._refuse("starting another program")
        elif event in SIGNALS:
            self._refuse("sending a signal to a process")
        elif event.startswith("socket."):
            self._refuse("a socket: a reward can't use the network")
        elif event in CHANGES:
            for path in arguments[: CHANGES[event]]:
                if not self._inside(path):
                    self._refuse(f"changing {_shown(path)}: only its own temporary folder can be written to")

    def take(self) -> tuple[list[str], list[str]]:
        """Return what was refused and what was read since the last time."""
        told = self.refused, self.read
        self.refused, self.read = [], []
        return told

    def _on_open(self, path: object, mode: object, flags: object) -> None:
        if isinstance(path, int) or path is None:
            return
        writes = bool(flags & WRITING) if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
        if self._inside(path):
            return
        if writes:
            self._refuse(f"writing {_shown(path)}: only its own temporary folder can be written to")
        elif not self._is_own(path):
            if self._strict:
                self._refuse(f"reading {_shown(path)}")
            if len(self.read) < MAX_TOLD and (shown := _shown(path)) not in self.read:
                self.read.append(shown)

    def _real(self, path: object) -> str:
        self._busy = True
        try:
            return os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""
        except (OSError, ValueError):
            return ""
        finally:
            self._busy = False

    def _inside(self, path: object) -> bool:
        return _below(real := self._real(path), self._folder) or real in HARMLESS

    def _is_own(self, path: object) -> bool:
        real = self._real(path)
        if self._modules and _below(real, self._modules) and real.endswith(IMPORTED):
            return True
        return any(_below(real, own) for own in self._own)

    def _refuse(self, what: str) -> None:
        if len(self.refused) < MAX_TOLD:
            self.refused.append(what)
        raise Refused(f"refused: {what}")


def shut_in(
    folder: str, *, memory_bytes: int, file_bytes: int, modules: str = "", strict: bool = False
) -> tuple[Watch, list[str]]:
    """Confine this process for good; return the hook and the names of the kernel's filters that hold.

    folder: what may be written to. modules: where its own modules stand. memory_bytes: of address space. file_bytes: of
    each file. strict: nothing but Python itself can be read.
    """
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
    ):
        resource.setrlimit(limit, (most, most))
    held = confine(folder, readable=python_places() if strict else None)
    if "seccomp" not in held:
        # It counts threads too, and all of the user's processes; so it is only the second choice.
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    watch = Watch(folder, modules, strict=strict)
    sys.addaudithook(watch)
    return watch, held


def python_places() -> list[str]:
    """Return where Python and what it imports stand."""
    places = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, "/usr", "/lib", "/lib64", "/etc/localtime"]
    return [path for path in dict.fromkeys(places) if path and path != "/"]


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _shown(path: object) -> str:
    return os.fsdecode(path)[:200] if isinstance(path, str | bytes | os.PathLike) else "a file"
