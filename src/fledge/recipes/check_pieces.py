"""Files cut into pieces, each looked at by whichever process is free: `fledge data check` on all cores.

A worker is `python -m fledge.recipes.check_pieces`: a piece of work is one line of JSON on its stdin, what it saw is
one line on its stdout. It ends when its stdin does, however we die.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fledge.data.checks.look import Asked, Seen, as_mapping, look
from fledge.data.checks.turns import mended
from fledge.data.checks.view import View
from fledge.data.formats import read_records
from fledge.data.forms.turns import RowFault
from fledge.data.readers.json_rows import read_jsonl_span
from fledge.data.sources import by_place, open_source
from fledge.errors import DataError, DiskError, Finding, Severity, writing
from fledge.evaluation.scorers import Template
from fledge.records import Conversation, Record, Row

# Large enough that starting on it costs nothing, small enough that progress moves.
PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class Piece:
    """A part of a file and how its rows are read. end 0: the whole file. Answers must match `template` or `shape`."""

    path: str
    folder: str
    form: str
    columns: Mapping[str, str] = field(default_factory=dict)
    me: str | None = None
    encoding: str = "auto"
    start: int = 0
    end: int = 0
    line: int = 1
    template: str | None = None
    shape: str | None = None
    asked: Asked = Asked()


def offer(row: Row, fault: RowFault) -> Sequence[Record]:
    """Raise the fault again, with what --fix would do about it."""
    found = mended(row.values)
    if found is not None and found[1]:
        fault.remedy = f"{fault.remedy} --fix does: {', '.join(found[1])}."
    raise fault


def records_of(piece: Piece, mend: Callable[[Row, RowFault], Sequence[Record]] = offer) -> Iterator[Record | Finding]:
    """Yield the records of a piece. A file that cannot be read on gives a Finding."""
    path = Path(piece.path)
    try:
        if piece.end:
            rows: Iterator[Row | Finding] = read_jsonl_span(path, start=piece.start, end=piece.end, line=piece.line)
        else:
            rows = open_source(path, encoding=piece.encoding, headless=by_place(piece.columns)).rows
        yield from read_records(rows, form=piece.form, columns=piece.columns, me=piece.me, mend=mend).records
    except DataError as error:
        yield Finding(error.code, error.where or piece.path, error.message, error.remedy)


def _fits(piece: Piece) -> Callable[[View], bool] | None:
    if piece.template is not None:
        template = Template(piece.template)
        return lambda v: template.adheres(v.answer, Conversation(v.turns, v.origin))
    if piece.shape is not None:
        shape = re.compile(piece.shape, re.DOTALL)
        return lambda v: shape.fullmatch(v.answer) is not None
    return None


def look_at(piece: Piece) -> Iterator[Finding | Seen]:
    """Yield the problems of a piece as they are met, and at the end what was seen."""
    yield from look(records_of(piece), piece.asked, Path(piece.folder), fits=_fits(piece))


def look_at_all(pieces: Iterable[Piece], *, workers: int) -> Iterator[tuple[Piece, Finding | Seen]]:
    """Yield what is seen in every piece, in order; with several workers the problems of a piece come with its end."""
    if workers <= 1:
        for piece in pieces:
            yield from ((piece, seen) for seen in look_at(piece))
        return
    hands = [_Worker() for _ in range(workers)]
    try:
        busy: deque[tuple[_Worker, Piece]] = deque()
        for number, piece in enumerate(pieces):
            worker = hands[number % workers]
            # Each has its next piece before it has finished one.
            if len(busy) >= 2 * workers:
                yield from _finished(*busy.popleft())
            worker.give(piece)
            busy.append((worker, piece))
        while busy:
            yield from _finished(*busy.popleft())
    finally:
        for worker in hands:
            worker.end()


def _finished(worker: _Worker, piece: Piece) -> Iterator[tuple[Piece, Finding | Seen]]:
    seen = worker.take()
    yield from ((piece, problem) for problem in seen.problems)
    yield piece, seen


class _Worker:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fledge.recipes.check_pieces"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def give(self, piece: Piece) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(piece)) + "\n")
        self._process.stdin.flush()

    def take(self) -> Seen:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process that looks at rows ended with {self._process.wait()}")
        told = json.loads(line)
        if "full" in told:
            raise DiskError(**told["full"])
        return _seen(told)

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        # What was left unsent belongs to nobody any more.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


def _seen(told: Mapping[str, Any]) -> Seen:
    seen = Seen(rows=told["rows"], errors=told["errors"])
    seen.counts.update(told["counts"])
    seen.problems = [
        Finding(p["code"], p["where"], p["message"], p["remedy"], Severity(p["severity"])) for p in told["problems"]
    ]
    seen.samples = [(origin, line) for origin, line in told["samples"]]
    return seen


def _piece(told: Mapping[str, Any]) -> Piece:
    return Piece(**{**told, "asked": Asked(**told["asked"])})


def main() -> None:
    """Look at pieces until stdin ends."""
    # Ctrl-C is for the process that gives the work; it ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # With PYTHONUNBUFFERED print would lose the rest of a long line where the process is stopped while it writes.
    with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as out:
        for line in sys.stdin:
            told, goes_on = _told(_piece(json.loads(line)))
            out.write(json.dumps(told) + "\n")
            out.flush()
            if not goes_on:
                return


def _told(piece: Piece) -> tuple[dict[str, Any], bool]:
    """Return what is said of a piece, and whether there is room on the disk to look at another."""
    try:
        with writing(Path(piece.folder).parent):
            seen = [item for item in look_at(piece) if isinstance(item, Seen)][-1]
    except DiskError as error:
        return {"full": error.as_dict()}, False
    problems = [as_mapping(problem) for problem in seen.problems]
    told = {"rows": seen.rows, "errors": seen.errors, "counts": seen.counts, "samples": seen.samples}
    return {**told, "problems": problems}, True


if __name__ == "__main__":
    main()
