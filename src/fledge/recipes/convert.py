"""`fledge data convert`: rows of any form -> one JSONL file in fledge's own columns, which reads back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fledge.config import Config
from fledge.data.canonical import KINDS, as_line
from fledge.data.formats import read_records
from fledge.data.sources import files_in, no_rows, open_source
from fledge.errors import ConfigError, DataError, Finding
from fledge.project import staged_file
from fledge.records import Record

SUFFIXES = (".jsonl", ".ndjson")


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


def refuse(out: Path, files: Iterable[Path], *, force: bool) -> None:
    """Raise ConfigError where `out` is no name for rows, is one of the `files` that are read, or exists already."""
    if out.suffix not in SUFFIXES:
        message = f"rows are written as JSONL; the name ends with '{out.suffix}'."
        raise ConfigError("config.bad_value", message, where=str(out), remedy=f"Call it {out.stem or 'rows'}.jsonl.")
    if out.is_dir():
        raise ConfigError("config.exists", "is a folder.", where=str(out), remedy="Choose another name.")
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
                raise _mixed(first, record)
            file.write(as_line(record, origin=origin))
            done.rows += 1
            step(done.rows)
        if findings:
            raise DataError.from_findings(findings)
        assert first is not None, "a file without rows is an error of its own"
    done.format = KINDS[type(first)]


def _mixed(first: Record, other: Record) -> DataError:
    one, two = KINDS[type(first)], KINDS[type(other)]
    return DataError(
        "data.unknown_format",
        f"holds {two}, and {first.origin} holds {one}; one file of rows holds one of them.",
        where=other.origin,
        remedy="Convert them into two files; data.train takes a list.",
    )


def _records(files: Sequence[Path], config: Config, done: Converted) -> Iterator[Record | Finding]:
    data = config.data
    for path in files:
        source = open_source(path, encoding=data.encoding)
        reading = read_records(source.rows, form=data.format, columns=data.columns, me=data.me)
        how = f" ({source.why})" if source.why else ""
        done.notes.append(f"{path}{how}: read as {reading.form}: {reading.why}")
        any_row = False
        for record in reading.records:
            any_row = True
            yield record
        if not any_row:
            raise no_rows(path)
