"""The functions of a user's file as rewards, run in a process of its own that may crash, hang and be refused things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fledge.errors import RewardError
from fledge.rewards.child import Child, Gone, Silent
from fledge.rewards.record import Sample

WORKER = "fledge.rewards.worker"
CALL_TIMEOUT_S, LOAD_TIMEOUT_S = 5.0, 60.0
MEMORY_BYTES, FILE_BYTES = 2 << 30, 16 << 20
# A function that hung so often is not called any more: each time costs its whole time limit and a new process.
MAX_HANGS = 3
# What the kernel should keep it in with (`kernel`).
FILTERS = ("landlock", "seccomp")
SHOWN_LINES, SHOWN_LINE_CHARS, MAX_NOTES = 3, 200, 20


@dataclass(frozen=True)
class FileReward:
    """One function of a file. `where` is path:line of it."""

    name: str
    where: str
    file: RewardFile

    def score(self, sample: Sample) -> float:
        return self.file.call(self, sample)


class RewardFile:
    """A user's Python file, loaded in a worker. A context manager; use it from one thread.

    timeout_s: of each call. memory_bytes: of address space. file_bytes: of each file it writes, which it can only do in
    a temporary folder of its own. say: is told, once each, what the functions print, read outside, and were refused.

    Raises RewardError("reward.broken") with file:line where the file can't be loaded or holds no reward.
    """

    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
        file_bytes: int = FILE_BYTES,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._path, self._shown = path.resolve(), str(path)
        self._timeout_s, self._memory_bytes, self._file_bytes, self._say = timeout_s, memory_bytes, file_bytes, say
        self._said: set[str] = set()
        self._hangs: Counter[str] = Counter()
        self._child: Child | None = None
        if not self._path.is_file():
            raise RewardError("reward.broken", "there is no such file.", where=self._shown, remedy="Check the path.")
        self.rewards = [
            FileReward(each["name"], f"{self._shown}:{each['line']}", self) for each in self._start()["functions"]
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def worker_pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def close(self) -> None:
        """End the worker. Safe to call again."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def call(self, reward: FileReward, sample: Sample) -> float:
        """Return what a function gives for a sample. Raises RewardError("reward.failed") for anything but a number."""
        if self._hangs[reward.name] >= MAX_HANGS:
            raise self._failed(reward, "", f"it hung {MAX_HANGS} times and is not called any more", sample)
        if self._child is None:
            self._start()
        assert self._child is not None
        request = {"function": reward.name, "prompt": sample.prompt, "reply": sample.reply, "answer": sample.answer}
        try:
            answer = self._child.ask(request, timeout_s=self._timeout_s)
        except Silent:
            self._hangs[reward.name] += 1
            self._let_go()
            raise self._failed(reward, "", f"it gave nothing within {self._timeout_s:g} s", sample) from None
        except Gone as error:
            self._let_go()
            raise self._failed(reward, "", f"its process {error}", sample) from None
        self._tell(answer)
        if "fault" in answer:
            where = f"{self._shown}:{answer['line']}" if answer["line"] else ""
            raise self._failed(reward, where, answer["fault"], sample)
        return float(answer["value"])

    def _failed(self, reward: FileReward, where: str, what: str, sample: Sample) -> RewardError:
        return RewardError("reward.failed", f"{reward.name}: {what}, {sample.told}.", where=where or reward.where,
                           remedy="It must give a finite number for any reply.")  # fmt: skip

    def _start(self) -> dict[str, Any]:
        """Start a worker and return what it says of the file."""
        self._child = Child(WORKER)
        settings = {
            "path": str(self._path),
            "folder": self._child.folder,
            "memory_bytes": self._memory_bytes,
            "file_bytes": self._file_bytes,
            "load_s": LOAD_TIMEOUT_S,
            "call_s": self._timeout_s,
        }
        try:
            hello = self._child.ask(settings, timeout_s=LOAD_TIMEOUT_S)
        except Silent:
            hello = {"broken": f"it was not loaded within {LOAD_TIMEOUT_S:g} s", "line": 0}
        except Gone as error:
            hello = {"broken": f"its process {error} while it was loaded", "line": 0}
        if "broken" in hello:
            self._tell(hello)
            self.close()
            where = f"{self._shown}:{hello['line']}" if hello["line"] else self._shown
            remedy = "Write def reward_something(prompt, reply, answer) that returns a number."
            raise RewardError("reward.broken", f"{hello['broken']}.", where=where, remedy=remedy)
        self._tell(hello)
        return hello

    def _let_go(self) -> None:
        """Take down a worker that is of no use any more, after what it printed was told."""
        self._tell({})
        self.close()

    def _tell(self, answer: dict[str, Any]) -> None:
        assert self._child is not None
        lines = [line[:SHOWN_LINE_CHARS] for line in self._child.printed().splitlines() if line.strip()]
        notes = [f"it printed: {line}" for line in lines[:SHOWN_LINES]]
        notes += [f"it was refused {what}" for what in answer.get("refused", ())]
        notes += [f"it read {path}" for path in answer.get("read", ())]
        if missing := [name for name in FILTERS if name not in answer.get("held", FILTERS)]:
            notes.append(f"this kernel has no {' and no '.join(missing)}: what it does in native code is not held back")
        for note in notes:
            # A function that prints its reply prints something new each time.
            if note not in self._said and len(self._said) < MAX_NOTES:
                self._said.add(note)
                self._say(f"{self._shown}: {note}")
