"""WhatsApp's and Signal's text exports -> one row a chat, as `messages` with author, time and text."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.data.chat_notes import said_in
from fledge.data.readers.opening import Encoding, lines_of, open_text
from fledge.errors import Finding
from fledge.records import Row

_LINE = re.compile(
    r"^[\u200e\u200f\ufeff]*\[?(\d{1,4})[./-](\d{1,2})[./-](\d{1,4}),?[\s\u202f](\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?"
    r"(?:[\s\u202f]?([AaPp])\.?[\s\u202f]?[Mm]\.?)?(?:\]|\s+[-\u2013])\s(.*)$",
    re.DOTALL,
)
SNIFFED_LINES = 40


@dataclass(frozen=True)
class _Stamp:
    """The three numbers of a date as they stand, and the time of day in seconds."""

    date: tuple[int, int, int]
    second: int


def is_chat_log(sample: str) -> bool:
    """Whether most lines of a text begin with a date and a time, as exported chats do."""
    lines = [line for line in sample.splitlines()[:SNIFFED_LINES] if line.strip()]
    stamped = sum(_LINE.match(line) is not None for line in lines)
    return stamped >= 2 and stamped >= 0.3 * len(lines)


def read_chat_log(path: Path, encoding: Encoding) -> Iterator[Row | Finding]:
    """Yield the whole chat as one row. A line without a date goes on with the message before it."""
    stamps: list[_Stamp] = []
    said: list[tuple[int, str, str]] = []
    with open_text(path, encoding) as file:
        for line in lines_of(file):
            line = line.rstrip("\r\n")
            found = _LINE.match(line)
            if found is None:
                if said:
                    place, author, text = said[-1]
                    said[-1] = (place, author, f"{text}\n{line}" if author else "")
                continue
            stamps.append(_stamp(found))
            author, colon, text = found[8].partition(": ")
            # A line without a writer is the program's own: "You were added".
            said.append((len(stamps) - 1, author.strip("\u200e\u202a\u202c~ ") if colon else "", text))
    times = _times(stamps)
    messages = [
        {"author": author, "timestamp": times[place], "text": spoken}
        for place, author, text in said
        if author and (spoken := said_in(text))
    ]
    if messages:
        yield Row({"messages": messages, "title": path.stem}, str(path))
    else:
        yield Finding("data.empty", str(path), "a chat in which nobody says anything.", "Export it again.")


def _stamp(found: re.Match[str]) -> _Stamp:
    hour, minute, second = int(found[4]), int(found[5]), int(found[6] or 0)
    if found[7]:
        hour = hour % 12 + (12 if found[7] in "Pp" else 0)
    return _Stamp((int(found[1]), int(found[2]), int(found[3])), (hour * 60 + minute) * 60 + second)


def _times(stamps: Sequence[_Stamp]) -> list[float]:
    """Return the stamps as seconds since 1970, their dates read in the order that makes them all dates.

    Where several orders do, the first in which time never runs back; a chat's lines stand in the order they were sent.
    """
    tried = [[_seconds(stamp, order) for stamp in stamps] for order in ("ymd", "dmy", "mdy")]
    possible = [times for times in tried if all(time == time for time in times)]
    forward = [times for times in possible if all(a <= b for a, b in zip(times, times[1:], strict=False))]
    return next(iter([*forward, *possible]), [float("nan")] * len(stamps))


def _seconds(stamp: _Stamp, order: str) -> float:
    parts = dict(zip(order, stamp.date, strict=True))
    year = parts["y"] if parts["y"] > 99 else 2000 + parts["y"]
    if order == "ymd" and stamp.date[0] < 100:
        return float("nan")
    try:
        day = datetime.datetime(year, parts["m"], parts["d"])
    except ValueError:
        return float("nan")
    return day.timestamp() + stamp.second
