"""Files -> chunks: passages of documents, cut where it tears least, and rows of tables as they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.config import DataConfig
from fledge.data.checks.view import view
from fledge.data.formats import open_records
from fledge.data.passages import passages
from fledge.data.sources import suffix_kind
from fledge.errors import Finding
from fledge.records import Record, Text

# Some paragraphs: enough to answer from, little enough that four of them leave room for the question and its answer.
CHUNK_CHARS = 1200


@dataclass(frozen=True)
class Chunk:
    """A piece of a file. `place` is file:line as a reader finds it; `headings` are those above it, outermost first."""

    place: str
    headings: tuple[str, ...]
    text: str

    @property
    def whole(self) -> str:
        """The text below its headings: what a reader needs who has only this chunk."""
        return " > ".join(self.headings) + "\n\n" + self.text if self.headings else self.text


def files_of(folder: Path) -> list[Path]:
    """Return every file in a folder that can be read, in the order of names; hidden ones are nobody's documents."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and suffix_kind(path) is not None
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def chunks_of(path: Path, root: Path, *, limit: int = CHUNK_CHARS) -> Iterator[Chunk]:
    """Yield the chunks of a file in order, each of at most `limit` characters with its headings.

    Places are relative to `root`. What cannot be read of a file that is half broken is left out. Raises DataError for a
    file that is nothing that can be read.
    """
    _, reading = open_records(path, DataConfig())
    for record in reading.records:
        if isinstance(record, Finding):
            continue
        for passage in passages(_as_text(record), limit):
            yield Chunk(_relative(passage.where, root), passage.headings, passage.text)


def _as_text(record: Record) -> Text:
    """Return a row as a text: what was asked, and below it what was answered."""
    if isinstance(record, Text):
        return record
    seen = view(record)
    return Text("\n\n".join(part for part in (seen.question, seen.answer) if part), record.origin)


def _relative(place: str, root: Path) -> str:
    return place.removeprefix(f"{root}/")
