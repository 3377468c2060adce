"""What a command prints: one JSON object on stdout with --json, words and progress on stderr always."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Lines for programs come at most this often; a person's terminal is redrawn as it likes.
LINE_EVERY_S = 5.0

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print words for a person."""
    console.print(text, markup=False)


def emit(value: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command on stdout."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


class Bar:
    """Progress with the time left: a drawn bar on a terminal, JSON lines otherwise."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self._label, self._total, self._last_line = label, total, 0.0
        self._started = time.monotonic()
        self._first = 0.0
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        if console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            ]
            self._progress = Progress(
                *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console
            )
            self._progress.start()
            self._task = self._progress.add_task(self._label, total=self._total, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, done: float, total: int | None = None, *, note: str = "") -> None:
        """Show that `done` of `total` are done; a part of one counts."""
        self._total = total if total is not None else self._total
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=self._total, note=note)
            return
        now = time.monotonic()
        self._first = self._first or done
        if now - self._last_line < LINE_EVERY_S and done != self._total:
            return
        self._last_line = now
        line: dict[str, Any] = {"progress": self._label, "done": done, "total": self._total}
        if self._total and done > self._first:
            line["left_s"] = round((now - self._started) / (done - self._first) * (self._total - done), 1)
        print(json.dumps(line | ({"note": note} if note else {})), file=sys.stderr, flush=True)


class Bars:
    """One bar after the other, for work in several parts: (what, done, total). A new `what` ends the bar before."""

    def __init__(self) -> None:
        self._what, self._bar = "", Bar("")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._bar.__exit__(None, None, None)
            self._what, self._bar = what, Bar(what).__enter__()
        self._bar(done, total)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
