"""JSON -> rows: one object a line, an array of objects, or objects wrapped in one; read as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from fledge.data import columns
from fledge.data.readers.opening import MAX_ROW_CHARS, Encoding, lines_of, open_text
from fledge.errors import Finding
from fledge.records import Row

CHUNK_CHARS = 1 << 20
# An object that wraps its rows is read whole; beyond this it would fill the memory.
MAX_DOCUMENT_CHARS = 1 << 29
# Keys that hold the turns of one conversation: what they hold is never a list of rows.
TURN_KEYS = frozenset((*columns.TURNS, *columns.HISTORY, *columns.CHOSEN, *columns.REJECTED, "prompt", "completion"))
MEND = "Mend or remove the row."
# An element that broke so near the end of what was read so far may only be cut off.
NEAR_END = 16


def is_whole(text: str) -> bool:
    """Whether a text is one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def begins_json(text: str) -> bool:
    """Whether a text begins as a JSON object or array does: what follows the brace can follow it."""
    follows = {"{": '"}', "[": '"[{]'}.get(text[:1], "")
    return text[1:].lstrip()[:1] in tuple(follows)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of a JSON decoder's pairs. Raises ValueError where a key stands twice: one would be lost."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key '{twice}' stands twice in one object")
    return values


# One for all lines: json.loads would make one for each.
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def read_jsonl(path: Path, encoding: Encoding) -> Iterator[Row | Finding]:
    """Yield the object of every line, or what is wrong with the line."""
    name = str(path)
    with open_text(path, encoding) as file:
        # Only "\n" ends a row: str.splitlines would also cut at U+2028 and its kin, which may stand inside an answer.
        number, cut = 1, False
        for line in lines_of(file):
            whole = line.endswith("\n")
            if cut or len(line) >= MAX_ROW_CHARS:
                if not cut:
                    yield too_long(f"{name}:{number}")
                cut = not whole
            elif not line.isspace():
                yield _line_row(line, f"{name}:{number}")
            number += whole


def read_jsonl_span(path: Path, *, start: int, end: int, line: int) -> Iterator[Row | Finding]:
    """Yield the rows in bytes `start` to `end` of a UTF-8 file, which are whole lines; the first has number `line`."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(end - start).decode("utf-8", errors="replace")
    for number, row in enumerate(text.removeprefix("\ufeff").split("\n"), start=line):
        if row and not row.isspace():
            yield _line_row(row, f"{path}:{number}")


def spans(path: Path, *, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, number of the first line) of pieces of about `size` bytes, whole lines each, that cover it."""
    with path.open("rb") as file:
        start, line = 0, 1
        while block := file.read(size):
            block += file.readline()
            yield start, start + len(block), line
            start += len(block)
            line += block.count(b"\n")


def _line_row(line: str, where: str) -> Row | Finding:
    try:
        value = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        return Finding("data.bad_row", where, f"not one JSON object: {reason(error)}.", "Mend or remove the line.")
    return as_row(value, where)


def as_row(value: object, where: str) -> Row | Finding:
    """Return the row that a JSON value is. A list of messages is a conversation."""
    if isinstance(value, dict):
        return Row(value, where)
    if _are_turns(value):
        return Row({"messages": value}, where)
    message = f"found {type(value).__name__}, expected an object such as {{'question': ..., 'answer': ...}}."
    return Finding("data.bad_row", where, message, "Mend or remove it.")


def _are_turns(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and ("role" in item or "from" in item) and len(item) > 1 for item in value)
    )


def too_long(where: str) -> Finding:
    message = f"longer than {MAX_ROW_CHARS:,} characters, which no row is."
    return Finding("data.bad_row", where, message, "Check that the file is what its name says.")


def reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def read_json(path: Path, encoding: Encoding) -> Iterator[Row | Finding]:
    """Yield the rows of a JSON document: an array's elements one by one, or what an object wraps."""
    with open_text(path, encoding) as file:
        buffer = Buffer(file)
        first = buffer.peek()
        if first == "":
            return
        if first == "[":
            yield from _array(buffer, path)
        else:
            yield from _objects(buffer, path)


class Buffer:
    """Text read piece by piece, with a place in it and the line of that place."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self.text, self.at, self.line, self.ended = file, "", 0, 1, False

    def more(self) -> bool:
        """Read on, as much again as is held: trying anew costs no more than reading. Return whether there was more."""
        piece = "" if self.ended else self._file.read(max(CHUNK_CHARS, len(self.text) - self.at))
        self.ended = not piece
        self.text, self.at = self.text[self.at :] + piece, 0
        return bool(piece)

    def to(self, place: int) -> None:
        """Go on to `place`, counting lines."""
        self.line += self.text.count("\n", self.at, place)
        self.at = place

    def peek(self) -> str:
        """Return the next character that is no blank, and stand on it; "" at the end."""
        while True:
            text = self.text
            place = self.at
            while place < len(text) and text[place] in " \t\r\n\ufeff":
                place += 1
            self.to(place)
            if place < len(text):
                return text[place]
            if not self.more():
                return ""


def _array(buffer: Buffer, path: Path) -> Iterator[Row | Finding]:
    buffer.to(buffer.at + 1)
    if buffer.peek() == "]":
        return
    number = 1
    while True:
        where = f"{path}: row {number}"
        value = _element(buffer, path)
        if isinstance(value, Finding):
            yield value
            return
        yield as_row(value, where)
        number += 1
        separator = buffer.peek()
        if separator == "]":
            return
        if separator != ",":
            found = f"found {separator!r}" if separator else "the file ends"
            yield Finding(
                "data.bad_row", f"{path}:{buffer.line}", f"not valid JSON: {found} where ',' or ']' was expected.", MEND
            )
            return
        buffer.to(buffer.at + 1)
        if buffer.peek() == "]":
            # A comma after the last row is what people write by hand.
            return


def _element(buffer: Buffer, path: Path, longest: int = MAX_ROW_CHARS) -> Any:
    """Return the next value, or the Finding of what is wrong with it."""
    buffer.peek()
    while True:
        try:
            value, end = _DECODER.raw_decode(buffer.text, buffer.at)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos > len(buffer.text) - NEAR_END
            if cut and len(buffer.text) - buffer.at <= longest and buffer.more():
                continue
            line = buffer.line + buffer.text.count("\n", buffer.at, error.pos)
            if cut and not buffer.ended:
                return too_long(f"{path}:{line}")
            return Finding("data.bad_row", f"{path}:{line}", f"not valid JSON: {error.msg}.", "Mend that place.")
        except (ValueError, RecursionError) as error:
            return Finding(
                "data.bad_row", f"{path}:{buffer.line}", f"not valid JSON: {reason(error)}.", "Mend that place."
            )
        buffer.to(end)
        return value


def _objects(buffer: Buffer, path: Path) -> Iterator[Row | Finding]:
    """Yield what the one object of the document wraps, or each of several objects that follow one another."""
    first = _element(buffer, path, MAX_DOCUMENT_CHARS)
    if isinstance(first, Finding):
        yield first
    elif not buffer.peek():
        yield from unwrap(first, path)
    else:
        yield as_row(first, f"{path}:1")
        while buffer.peek():
            where = f"{path}:{buffer.line}"
            value = _element(buffer, path)
            if isinstance(value, Finding):
                yield value
                return
            yield as_row(value, where)


def unwrap(value: object, path: Path) -> Iterator[Row | Finding]:
    """Yield the rows of a whole document: a list's items, what an object wraps, questions as keys, or the one object.

    Rows that stand under a key of their own (an intent, a topic) carry it as `label`.
    """
    if isinstance(value, dict) and isinstance(inner := value.get("chats"), dict):
        # Telegram's export of all chats.
        value = inner.get("list", inner)
    if isinstance(value, list):
        for number, item in enumerate(value, start=1):
            yield as_row(item, f"{path}: row {number}")
    elif isinstance(value, dict) and (wrapped := _wrapped(value)):
        number = 0
        for label, items in wrapped.items():
            for item in items:
                number += 1
                found = as_row(item, f"{path}: row {number}")
                if label not in WRAPPERS and isinstance(found, Row):
                    found = Row({"label": label, **found.values}, found.origin)
                yield found
    elif isinstance(value, dict) and _are_questions(value):
        for number, (question, answer) in enumerate(value.items(), start=1):
            yield Row({"question": question, "answer": answer}, f"{path}: row {number}")
    else:
        yield as_row(value, str(path))


WRAPPERS = frozenset(
    ("data", "rows", "examples", "items", "records", "train", "training", "dataset", "samples", "questions", "entries",
     "features", "results", "list", "seed_examples", "test", "validation", "eval")
)  # fmt: skip


def _wrapped(value: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of objects that `value` does nothing but hold, by their keys."""
    if not TURN_KEYS.isdisjoint(value):
        return {}
    lists = {
        key: items
        for key, items in value.items()
        if isinstance(items, list) and items and all(isinstance(item, dict) for item in items)
    }
    known = {key: items for key, items in lists.items() if key in WRAPPERS}
    if known:
        return known
    return lists if len(lists) == len(value) else {}


def _are_questions(value: Mapping[str, Any]) -> bool:
    texts = all(isinstance(key, str) and isinstance(answer, str) for key, answer in value.items())
    return texts and len(value) > 1 and sum(" " in key.strip() for key in value) > len(value) / 2
