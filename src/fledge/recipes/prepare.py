"""From a project's files to what is taught: the straight part that training, evaluation and `data show` share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fledge.config import Config
from fledge.data import mix, token_cache
from fledge.data.formats import conversations_of, read_records
from fledge.data.packed import PackedExamples
from fledge.data.sources import files_in, open_source
from fledge.data.template import ChatTemplate
from fledge.errors import DataError
from fledge.model.cache import cache_root
from fledge.records import Conversation, Example
from fledge.runtime.invocation import begins_at

EVAL_SHARE = 0.1


@dataclass(frozen=True)
class Rows:
    """A project's rows. `notes` tell what was found and decided, in words."""

    train: list[Conversation]
    held_out: list[Conversation]
    notes: tuple[str, ...]


# So many rows that are left out are named one by one.
NAMED_ROWS = 10


@dataclass(frozen=True)
class Lesson:
    """What is taught, and the origins of rows that were left out because they are longer than `limit` tokens.

    `notes` warn of what the model's template says nothing of.
    """

    examples: Sequence[Example]
    too_long: list[str]
    limit: int = 0
    whose: str = ""
    notes: tuple[str, ...] = ()

    @property
    def left_out(self) -> str:
        """What was left out and where it stands, in words; "" where nothing was."""
        if not self.too_long:
            return ""
        named = ", ".join(self.too_long[:NAMED_ROWS]) + (", ..." if len(self.too_long) > NAMED_ROWS else "")
        rows = "row is" if len(self.too_long) == 1 else "rows are"
        return f"{len(self.too_long)} {rows} left out, longer than {self.whose} of {self.limit} tokens: {named}"

    @property
    def num_taught(self) -> int:
        return sum(example.num_taught for example in self.examples)

    @property
    def digest(self) -> str:
        """A hash of every id, weight and prompt length, in order."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(repr((example.ids, example.weights, example.prompt_tokens)).encode())
        return digest.hexdigest()


def inside(project: Path, path: Path) -> Path:
    """Return `path` as it is meant: in the project where it stands there, else from the current folder."""
    return path if path.exists() and not (project / path).exists() else project / path


def read_conversations(paths: Sequence[Path], config: Config) -> tuple[list[Conversation], list[str]]:
    """Return the conversations of some files and folders, and how each file was read."""
    rows: list[Conversation] = []
    notes = []
    for path in (file for given in paths for file in files_in(given)):
        source = open_source(path, encoding=config.data.encoding)
        reading = read_records(source.rows, form=config.data.format, columns=config.data.columns, me=config.data.me)
        found = conversations_of(reading, path)
        how = f" ({source.why})" if source.why else ""
        notes.append(f"{path.name}{how}: {len(found)} rows, read as {reading.form}: {reading.why}")
        rows += found
    return mix.with_system(rows, config.data.system), notes


def read_project(project: Path, config: Config) -> Rows:
    """Return the rows to learn from and the rows held out, as data.train and data.eval say."""
    train = [config.data.train] if isinstance(config.data.train, str) else config.data.train
    rows, notes = read_conversations([project / path for path in train], config)
    if config.data.eval == "none":
        return Rows(rows, [], (*notes, "nothing is held out (data.eval: none)"))
    if config.data.eval != "auto":
        held_out, more = read_conversations([project / config.data.eval], config)
        return Rows(rows, held_out, (*notes, *more, *_leak(rows, held_out)))
    if len(rows) < mix.MIN_ROWS_TO_SPLIT:
        notes.append(f"nothing is held out: fewer than {mix.MIN_ROWS_TO_SPLIT} rows would tell nothing")
        return Rows(rows, [], tuple(notes))
    kept, held_out = mix.split(rows, share=EVAL_SHARE, seed=config.train.seed)
    notes.append(f"{len(held_out)} of {len(rows)} rows are held out to measure with; rows of one group stay together")
    return Rows(kept, held_out, tuple(notes))


def _leak(train: Sequence[Conversation], held_out: Sequence[Conversation]) -> list[str]:
    """Return a warning where held-out questions are learnt too: right answers to them would prove nothing."""
    learnt = {row.prompt for row in train}
    count = sum(row.prompt in learnt for row in held_out)
    return (
        [f"WARNING: {count} of {len(held_out)} held-out questions are learnt too; they measure nothing"]
        if count
        else []
    )


def after_prompt(example: Example, invocation: Sequence[int]) -> Example:
    """Return the example with its prompt marked: all before the last turn opens with `invocation`.

    What earlier turns teach is dropped: they are read without the adapter. Raises DataError where no turn opens so.
    """
    start = begins_at(example.ids, invocation)
    if start is None:
        raise DataError("data.template", "no answer begins as the template opens one.", where=example.origin)
    weights = [w if i >= start + len(invocation) else 0.0 for i, w in enumerate(example.weights)]
    return replace(example, weights=weights, prompt_tokens=start)


def _examples(
    rows: Sequence[Conversation], template: ChatTemplate, taught: Literal["all", "last"]
) -> Iterator[list[Example]]:
    """Yield the examples of each row; those of many rows are kept for the next time."""
    fresh = (template.examples(row, taught=taught) for row in rows)
    if not token_cache.worth(rows):
        yield from fresh
        return
    folder, key = cache_root() / "tokens", token_cache.key_of(rows, template, taught)
    if (kept := token_cache.load(folder, key, rows)) is not None:
        yield from kept
        return
    packed, counts = PackedExamples(), []
    for own in fresh:
        yield own
        packed += own
        counts.append(len(own))
    token_cache.save(folder, key, packed, counts)


def teach(
    rows: Sequence[Conversation],
    template: ChatTemplate,
    config: Config,
    *,
    context_tokens: int | None = None,
    held_out: bool = False,
) -> Lesson:
    """Return the examples of `rows`; rows over train.max_tokens or the model's context are left out whole and named.

    Raises DataError where a row teaches nothing, or nothing remains of rows that are not `held_out`.
    """
    examples = PackedExamples()
    too_long: list[str] = []
    limit = min(config.train.max_tokens, context_tokens or config.train.max_tokens)
    whose = "train.max_tokens" if limit == config.train.max_tokens else "the model's context"
    invocation = template.invocation_ids() if config.train.after_prompt else None
    for row, own in zip(rows, _examples(rows, template, config.train.taught), strict=True):
        if invocation is not None:
            own = [after_prompt(example, invocation) for example in own]
        if not sum(example.num_taught for example in own):
            raise DataError("data.nothing_taught", "no token of it is taught.", where=row.origin)
        if max(len(example.ids) for example in own) > limit:
            too_long.append(row.origin)
        else:
            examples += own
    notes = _left_unsaid(rows, template)
    if rows and not examples and not held_out:
        raise DataError(
            "data.too_long",
            f"all {len(rows)} rows are longer than {whose} of {limit} tokens.",
            where=too_long[0],
            remedy="Raise it or shorten the rows." if whose == "train.max_tokens" else "Shorten the rows.",
        )
    return Lesson(examples, too_long, limit, whose, notes)


def _left_unsaid(rows: Sequence[Conversation], template: ChatTemplate) -> tuple[str, ...]:
    """Return a warning for each thing in the rows that the model's template says nothing of."""
    held = {
        "reasoning": sum(any(message.thinking for message in row.messages) for row in rows),
        "tools": sum(bool(row.tools) for row in rows),
    }
    return tuple(
        f"WARNING: the model's chat template leaves {what} out (rows that have some: {count})"
        for what, count in held.items()
        if count and what in template.leaves_out
    )
