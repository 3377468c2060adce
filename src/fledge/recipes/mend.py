"""`fledge data check --fix`: what can be repaired safely, into a new file in canonical form; the originals stay."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fledge.config import Config
from fledge.data.canonical import as_values
from fledge.data.checks.look import whole_of
from fledge.data.checks.mask import Masker
from fledge.data.checks.text import unmangled
from fledge.data.checks.turns import mended
from fledge.data.checks.view import view
from fledge.data.columns import KNOWN, spelled
from fledge.data.formats import open_records
from fledge.data.forms.turns import RowFault
from fledge.errors import ConfigError, DataError, Finding
from fledge.project import staged_file
from fledge.recipes.convert import SUFFIXES
from fledge.records import Conversation, Judged, Message, Preference, Problem, Record, Row, Text

Edit = Callable[[str], str]


@dataclass
class Mended:
    """What was written: `changes` counts rows by what was done to them, `left_out` rows that no form can read."""

    path: Path
    rows: int = 0
    masked: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)


def mend(
    paths: Sequence[Path],
    out: Path,
    config: Config,
    *,
    mask: bool = False,
    step: Callable[[int], None] = lambda done: None,
) -> Mended:
    """Write the rows of `paths` to `out`, repaired, and return what was done to them.

    Turns are put in order, letters read in the wrong encoding put right, rows that repeat another, as the check sees
    it, dropped, and with `mask` personal data replaced. Columns that no form has stay. Raises ConfigError where `out`
    is no name for rows or exists: nothing is overwritten.
    """
    refuse_out(out)
    done = Mended(out)
    masker = Masker() if mask else None
    seen: set[int] = set()
    with staged_file(out) as file:
        for path in paths:
            for record, beside in _records(path, config, done):
                if isinstance(record, Finding):
                    done.left_out.append(record.where)
                    continue
                better = _edited(record, unmangled)
                done.changes["letters put right"] += better != record
                if masker is not None:
                    masked = _edited(better, masker)
                    done.changes["personal data masked"] += masked != better
                    better = masked
                if (key := whole_of(view(better))) in seen:
                    done.changes["repeated row dropped"] += 1
                    continue
                seen.add(key)
                values = as_values(better)
                others = {name: value for name, value in beside.items() if name not in values}
                mended_beside = _through(others, masker or (lambda text: text))
                file.write(json.dumps(values | mended_beside, ensure_ascii=False, default=str) + "\n")
                done.rows += 1
                step(done.rows)
    done.masked = masker.masked if masker is not None else 0
    done.changes = Counter({what: count for what, count in done.changes.items() if count})
    return done


def refuse_out(out: Path) -> None:
    """Raise ConfigError where `out` cannot be written: rows are written as JSONL, and over nothing."""
    if out.suffix not in SUFFIXES:
        message = f"rows are written as JSONL; the name ends with '{out.suffix}'."
        raise ConfigError("config.bad_value", message, where=str(out), remedy=f"Call it {out.stem or 'rows'}.jsonl.")
    if out.exists():
        raise ConfigError("config.exists", "is there already.", where=str(out), remedy="Choose another name for --fix.")


def _records(path: Path, config: Config, done: Mended) -> Iterator[tuple[Record | Finding, Mapping[str, Any]]]:
    """Yield each record with the columns of its row that no form has."""
    read = KNOWN | {spelled(name) for name in config.data.columns.values()}
    beside: dict[str, Mapping[str, Any]] = {}

    def noted(rows: Iterable[Row | Finding]) -> Iterator[Row | Finding]:
        for row in rows:
            if isinstance(row, Row):
                others = {str(name): value for name, value in row.values.items() if spelled(name) not in read}
                if others:
                    beside[row.origin] = others
            yield row

    def repair(row: Row, fault: RowFault) -> Sequence[Record]:
        found = mended(row.values)
        if found is None:
            raise fault
        record, what = found
        done.changes.update(what)
        return [record]

    last = ""
    try:
        _, reading = open_records(path, config.data, through=noted, mend=repair)
        for record in reading.records:
            if isinstance(record, Finding):
                yield record, {}
                continue
            if record.origin != last:
                # Several records may come of one row; what was noted of the rows before is not asked for again.
                beside.pop(last, None)
                last = record.origin
            yield record, beside.get(record.origin, {})
    except DataError as error:
        yield Finding(error.code, error.where or str(path), error.message, error.remedy), {}


def _through(value: Any, edit: Edit) -> Any:
    """Return what stands in a column, with every text in it edited."""
    if isinstance(value, str):
        return edit(value)
    if isinstance(value, Mapping):
        return {name: _through(inner, edit) for name, inner in value.items()}
    return [_through(inner, edit) for inner in value] if isinstance(value, list) else value


def _edited(record: Record, edit: Edit) -> Record:
    """Return the record with every text of it edited."""
    match record:
        case Conversation():
            answer = None if record.answer is None else edit(record.answer)
            return replace(record, messages=_all(record.messages, edit), answer=answer)
        case Judged():
            return replace(record, messages=_all(record.messages, edit))
        case Preference():
            prompt, chosen, rejected = (_all(t, edit) for t in (record.prompt, record.chosen, record.rejected))
            return replace(record, prompt=prompt, chosen=chosen, rejected=rejected)
        case Problem():
            return replace(record, prompt=_all(record.prompt, edit), answer=edit(record.answer))
        case Text():
            return replace(record, text=edit(record.text), title=edit(record.title))


def _all(messages: Sequence[Message], edit: Edit) -> tuple[Message, ...]:
    return tuple(
        replace(
            message,
            content=edit(message.content),
            thinking=edit(message.thinking),
            tool_calls=tuple(replace(call, arguments=edit(call.arguments)) for call in message.tool_calls),
        )
        for message in messages
    )
