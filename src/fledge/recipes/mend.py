"""`fledge data check --fix`: what can be repaired safely, into a new file in canonical form; the originals stay."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fledge.config import Config
from fledge.data.canonical import as_line
from fledge.data.checks.mask import Masker
from fledge.data.checks.text import unmangled
from fledge.data.checks.turns import mended
from fledge.data.formats import open_records
from fledge.data.forms.turns import RowFault
from fledge.errors import ConfigError, DataError, Finding
from fledge.project import staged_file
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

    Turns are put in order, letters read in the wrong encoding put right, rows that repeat another word for word
    dropped, and with `mask` personal data replaced. Raises ConfigError where `out` exists: nothing is overwritten.
    """
    if out.exists():
        raise ConfigError("config.exists", "is there already.", where=str(out), remedy="Choose another name for --fix.")
    done = Mended(out)
    masker = Masker() if mask else None
    seen: set[bytes] = set()
    with staged_file(out) as file:
        for path in paths:
            for record in _records(path, config, done):
                if isinstance(record, Finding):
                    done.left_out.append(record.where)
                    continue
                better = _edited(record, unmangled)
                done.changes["letters put right"] += better != record
                if masker is not None:
                    masked = _edited(better, masker)
                    done.changes["personal data masked"] += masked != better
                    better = masked
                line = as_line(better)
                key = hashlib.blake2b(line.encode("utf-8", errors="surrogatepass"), digest_size=12).digest()
                if key in seen:
                    done.changes["repeated row dropped"] += 1
                    continue
                seen.add(key)
                file.write(line)
                done.rows += 1
                step(done.rows)
    done.masked = masker.masked if masker is not None else 0
    done.changes = Counter({what: count for what, count in done.changes.items() if count})
    return done


def _records(path: Path, config: Config, done: Mended) -> Iterator[Record | Finding]:
    def repair(row: Row, fault: RowFault) -> Sequence[Record]:
        found = mended(row.values)
        if found is None:
            raise fault
        record, what = found
        done.changes.update(what)
        return [record]

    try:
        _, reading = open_records(path, config.data, mend=repair)
        yield from reading.records
    except DataError as error:
        yield Finding(error.code, error.where or str(path), error.message, error.remedy)


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
