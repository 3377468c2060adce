"""`fledge data split`: one file of rows -> one to learn from and one to measure with, no question in both."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from fledge.config import Config
from fledge.data.canonical import KINDS, as_line
from fledge.data.formats import open_records
from fledge.data.sources import files_in, no_rows
from fledge.data.split import Split, record, split
from fledge.errors import ConfigError, DataError, Finding, nearest, writing
from fledge.project import staged_file
from fledge.recipes.convert import mixed, refuse
from fledge.records import Record, Row

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Parted:
    """The two files, how many rows each has, and how they were parted."""

    train: Path
    held_out: Path
    rows_train: int
    rows_held_out: int
    how: Split


def part(
    path: Path,
    config: Config,
    *,
    share: float,
    by: str | None = None,
    folder: Path | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Parted:
    """Write the rows of `path` as NAME.train.jsonl and NAME.eval.jsonl into `folder`, or beside it.

    by: a column; rows with the same value in it stay together, and it becomes their group. Raises DataError with every
    row that cannot be read, and where ties leave nothing to hold out; ConfigError where a file exists (unless `force`).
    Nothing is written then.
    """
    if not 0 < share < 1:
        raise ConfigError("config.bad_value", f"--eval is {share:g}, expected a share between 0 and 1, such as 0.1.")
    files = files_in(path)
    name = path.name.split(".")[0] or "rows"
    train, held_out = ((folder or path.parent) / f"{name}.{side}.jsonl" for side in ("train", "eval"))
    for out in (train, held_out):
        refuse(out, files, force=force)
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="fledge-split-") as figures, writing(Path(figures)):
        good = _good(_records(files, config, by), findings, progress)
        first = next(good, None)
        if first is None and len({one.message for one in findings}) == 1:
            # No row has the column of --by: one thing is wrong, not one with each.
            raise DataError(findings[0].code, findings[0].message, where=str(path), remedy=findings[0].remedy)
        rows = record(chain([first] if first is not None else [], good), Path(figures))
        if findings:
            raise DataError.from_findings(findings)
        found = split(rows, share=share, seed=seed, step=progress)
    held = found.held_out.tolist()
    if not any(held):
        raise _nothing_held_out(path, found, share, by)
    with staged_file(train) as learnt, staged_file(held_out) as asked:
        for number, (one, is_held) in enumerate(zip(_records(files, config, by), held, strict=True), start=1):
            assert not isinstance(one, Finding), "the file was changed while it was read"
            (asked if is_held else learnt).write(as_line(one))
            progress("writing", number, len(held))
    return Parted(train, held_out, len(held) - sum(held), sum(held), found)


def _nothing_held_out(path: Path, found: Split, share: float, by: str | None) -> DataError:
    count = len(found.held_out)
    if not round(share * count):
        message = f"{share:g} of {count} rows is none."
        return DataError("data.empty", message, where=str(path), remedy="Ask for a larger share with --eval.")
    tied = f"by '{by}' and their questions" if by else "by their questions and groups"
    message = f"the {count} rows are tied {tied}, {found.largest} of them together; {share:g} cannot be held out."
    return DataError("data.empty", message, where=str(path), remedy="Ask for a larger share, or add other rows.")


def _good(records: Iterator[Record | Finding], findings: list[Finding], progress: Progress) -> Iterator[Record]:
    """Yield the records that can be read; the others are added to `findings`."""
    first: Record | None = None
    for number, one in enumerate(records, start=1):
        if isinstance(one, Finding):
            findings.append(one)
            continue
        first = first or one
        if KINDS[type(one)] != KINDS[type(first)]:
            raise mixed(first, one)
        yield one
        progress("reading", number, 0)


def _records(files: Sequence[Path], config: Config, by: str | None) -> Iterator[Record | Finding]:
    for path in files:
        _, reading = open_records(
            path, config.data, through=iter if by is None else partial(map, partial(_grouped, by))
        )
        any_row = False
        for one in reading.records:
            any_row = True
            yield one
        if not any_row:
            raise no_rows(path)


def _grouped(by: str, row: Row | Finding) -> Row | Finding:
    """Return the row with what stands in column `by` as its group; an empty cell ties it to nothing."""
    if isinstance(row, Finding):
        return row
    if by not in row.values:
        message = f"no column '{by}'{nearest(by, [str(key) for key in row.values]) or '.'}"
        return Finding("data.bad_row", row.origin, message, "Name a column that every row has with --by.")
    value = row.values[by]
    if value is None or value == "":
        return row
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return Row({**row.values, "group": told}, row.origin)
