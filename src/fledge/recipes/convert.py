"""`fledge data convert`: rows of any form -> one JSONL file in fledge's own columns, which reads back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fledge.config import Config
from fledge.data.canonical import KINDS, as_line, as_values
from fledge.data.formats import SAMPLE_ROWS, open_records, unread_columns
from fledge.data.lines import with_lines
from fledge.data.questions import questions_of
from fledge.data.sources import files_in, no_rows
from fledge.errors import ConfigError, DataError, Finding
from fledge.project import making, staged_file
from fledge.records import Conversation, Message, Record, Row, Text

SUFFIXES = (".jsonl", ".ndjson")
SHOWN_COLUMNS = 8


@dataclass
class Converted:
    """What was written: `format` is the form of its rows, a value of KINDS; `notes` tell how each file was read."""

    path: Path
    rows: int = 0
    format: str = ""
    notes: list[str] = field(default_factory=list)


def convert(
    paths: Sequence[Path],
    out: Path,
    config: Config,
    *,
    force: bool = False,
    origin: bool = False,
    step: Callable[[int], None] = lambda done: None,
) -> Converted:
    """Write all rows of `paths` to `out` and return what was written. `origin`: each row tells where it came from.

    Raises DataError with every row that cannot be read, and where the files hold rows of different kinds; ConfigError
    where `out` exists (unless `force`) or is one of the inputs. In each case nothing is written.
    """
    files = [file for path in paths for file in files_in(path)]
    refuse(out, files, force=force)
    done = Converted(out)
    write(_records(files, config, done), done, origin=origin, step=step)
    return done


def convert_questions(
    paths: Sequence[Path],
    out: Path,
    config: Config,
    *,
    force: bool = False,
    step: Callable[[int], None] = lambda done: None,
) -> Converted:
    """Write the questions that documents ask and answer to `out`, each with its `source` and the `passage` it is from.

    Raises what `convert` raises, and DataError where rows stand in place of documents or nothing is asked.
    """
    files = [file for path in paths for file in files_in(path)]
    refuse(out, files, force=force)
    done = Converted(out, format=KINDS[Conversation])
    with staged_file(out) as file:
        for document in _documents(files, config):
            found = questions_of(document)
            done.notes.append(f"{document.origin}: {len(found)} questions with their answers")
            for asked in found:
                turns = (Message("user", asked.question), Message("assistant", asked.answer))
                values = as_values(Conversation(turns, asked.where))
                row = values | {"source": asked.where, "passage": asked.passage}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                done.rows += 1
                step(done.rows)
        if not done.rows:
            raise DataError(
                "data.empty",
                f"nothing is asked and answered in {len(files)} document{'s' if len(files) > 1 else ''}.",
                where=str(paths[0]),
                remedy="Learn the text itself with objective: text, or have questions made of it: `fledge data synth`.",
            )
    return done


def _documents(files: Sequence[Path], config: Config) -> Iterator[Text]:
    for record in _records(files, config, Converted(Path())):
        if isinstance(record, Finding):
            raise DataError.from_findings([record])
        if not isinstance(record, Text):
            raise DataError(
                "data.unknown_format",
                f"holds {KINDS[type(record)]}; questions are found in documents.",
                where=record.origin,
                remedy="Leave --questions out: these rows have theirs.",
            )
        yield with_lines(record, encoding=config.data.encoding)


def refuse(out: Path, files: Iterable[Path], *, force: bool) -> None:
    """Raise ConfigError where `out` is no name for rows, one of the `files` to read, below a file, or there already."""
    if out.suffix not in SUFFIXES:
        message = f"rows are written as JSONL; the name ends with '{out.suffix}'."
        raise ConfigError("config.bad_value", message, where=str(out), remedy=f"Call it {out.stem or 'rows'}.jsonl.")
    with making(out):
        _refuse_place(out, files, force=force)


def _refuse_place(out: Path, files: Iterable[Path], *, force: bool) -> None:
    if out.is_dir():
        raise ConfigError("config.exists", "is a folder.", where=str(out), remedy="Choose another name.")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ConfigError(
            "config.exists", "is a file; a folder was expected.", where=str(above), remedy="Name another."
        )
    if out.exists() and any(out.samefile(file) for file in files):
        raise ConfigError(
            "config.exists", "is one of the files to read.", where=str(out), remedy="Choose another name."
        )
    if out.exists() and not force:
        raise ConfigError(
            "config.exists", "is there already.", where=str(out), remedy="Choose another name, or replace it: --force."
        )


def write(
    records: Iterable[Record | Finding], done: Converted, *, origin: bool = False, step: Callable[[int], None]
) -> None:
    """Write the records to `done.path`, whole or not at all, and count them in `done`."""
    findings: list[Finding] = []
    first: Record | None = None
    with staged_file(done.path) as file:
        for record in records:
            if isinstance(record, Finding):
                findings.append(record)
                continue
            first = first or record
            if type(record) is not type(first):
                raise mixed(first, record)
            file.write(as_line(record, origin=origin))
            done.rows += 1
            step(done.rows)
        if findings:
            raise DataError.from_findings(findings)
        assert first is not None, "a file without rows is an error of its own"
    done.format = KINDS[type(first)]


def mixed(first: Record, other: Record) -> DataError:
    """Return the error of rows of two kinds that were to stand in one file."""
    one, two = KINDS[type(first)], KINDS[type(other)]
    return DataError(
        "data.unknown_format",
        f"holds {two}, and {first.origin} holds {one}; one file of rows holds one of them.",
        where=other.origin,
        remedy="Convert them into two files; data.train takes a list.",
    )


def _seen(head: list[Row], rows: Iterable[Row | Finding]) -> Iterator[Row | Finding]:
    """Pass rows on and keep the first."""
    for row in rows:
        if isinstance(row, Row) and len(head) < SAMPLE_ROWS:
            head.append(row)
        yield row


def _records(files: Sequence[Path], config: Config, done: Converted) -> Iterator[Record | Finding]:
    for path in files:
        head: list[Row] = []
        source, reading = open_records(path, config.data, through=partial(_seen, head))
        how = f" ({source.why})" if source.why else ""
        done.notes.append(f"{path}{how}: read as {reading.form}: {reading.why}")
        # By now the rows that a form was recognised by have been seen.
        if left := unread_columns(reading, head):
            told = ", ".join(left[:SHOWN_COLUMNS]) + (", ..." if len(left) > SHOWN_COLUMNS else "")
            done.notes.append(f"{path}: not part of that form, and left out: {told}; split by them before converting")
        any_row = False
        for record in reading.records:
            any_row = True
            yield record
        if not any_row:
            raise no_rows(path)
