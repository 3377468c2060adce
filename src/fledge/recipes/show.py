"""`fledge data show`: rows exactly as the model will see them, read no further than is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fledge.config import Config
from fledge.data.formats import as_conversation, open_records
from fledge.data.lines import with_lines
from fledge.data.mix import with_system
from fledge.data.prose import rendered_passages
from fledge.data.sources import files_in, no_rows
from fledge.data.template import ChatTemplate, Rendered, Span
from fledge.errors import DataError, Finding
from fledge.records import Taught, Text


@dataclass(frozen=True)
class Shown:
    """One text for the model: where it is from, its `tokens` and how many of them are taught.

    like_control: what looks like a control token in it and is none.
    """

    origin: str
    rendered: Rendered
    tokens: int
    taught_tokens: int
    like_control: tuple[Span, ...]


def show(path: Path, config: Config, template: ChatTemplate, *, count: int) -> list[Shown]:
    """Return the first `count` texts of a file or folder. Raises DataError for a row among them that cannot be read."""
    found = list(islice(_shown(path, config, template), count))
    if not found:
        raise DataError(
            "data.nothing_taught",
            "nothing in it answers a question, and it holds no text.",
            where=str(path),
            remedy="Give rows with questions and answers, or name the form in data.format.",
        )
    return found


def _shown(path: Path, config: Config, template: ChatTemplate) -> Iterator[Shown]:
    pattern = template.tokenizer.control_pattern
    for row in _rows(path, config):
        if isinstance(row, Text):
            placed = with_lines(row, encoding=config.data.encoding)
            texts = list(rendered_passages(placed, template.tokenizer, limit=config.train.max_tokens))
        else:
            texts = [(rendered, row.origin) for rendered in template.rendered(row, taught=config.train.taught)]
        for rendered, origin in texts:
            example = template.example(rendered, origin)
            alike = (match.span() for match in pattern.finditer(rendered.text))
            like_control = tuple(span for span in alike if span not in rendered.control)
            yield Shown(origin, rendered, len(example.ids), example.num_taught, like_control)


def _rows(path: Path, config: Config) -> Iterator[Taught]:
    for file in files_in(path):
        _, reading = open_records(file, config.data)
        any_row = False
        for record in reading.records:
            any_row = True
            if isinstance(record, Finding):
                raise DataError.from_findings([record])
            taught = record if isinstance(record, Text) else as_conversation(record)
            yield from with_system([taught], config.data.system) if taught is not None else []
        if not any_row:
            raise no_rows(file)
