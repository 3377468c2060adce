"""From a project's files to what is taught: the straight part that training, evaluation and `data show` share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fledge.config import Config
from fledge.data import mix, token_cache
from fledge.data.formats import Reading, open_records
from fledge.data.lines import with_lines
from fledge.data.mismatched import mismatched
from fledge.data.packed import PackedExamples
from fledge.data.prose import text_examples
from fledge.data.sources import DOCUMENTS, files_in, suffix_kind
from fledge.data.split import split_records
from fledge.data.template import ChatTemplate
from fledge.data.wanted import LEARNS_FROM, UNITS, for_answers, rows_for, sides
from fledge.errors import ConfigError, DataError
from fledge.model.cache import cache_root
from fledge.recipes.texts import conversations_in, in_parts, refuse_texts, texts_of
from fledge.records import Conversation, Example, Judged, Learnt, RowKind, Taught, Text
from fledge.runtime.invocation import begins_at

EVAL_SHARE = 0.1
# Of fewer rows none is held out: the share of them would tell nothing.
MIN_ROWS_TO_SPLIT = 20


@dataclass(frozen=True)
class Rows:
    """A project's rows. `notes` tell what was found and decided, in words.

    weights: how many times an epoch sees each row of a task, by its name; 1 where it says nothing.
    """

    train: list[Learnt]
    held_out: list[Learnt]
    notes: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)


# The column that says whether an answer was judged good.
LABEL = "label"
# So many rows that are left out are named one by one.
NAMED_ROWS = 10


@dataclass(frozen=True)
class Lesson:
    """What is taught, and the origins of rows that were left out because they are longer than `limit` tokens.

    `notes` warn of what the model's template says nothing of. ends: the last taught token of each conversation.
    unit: so many examples in sequence are one row. aside: for each row one that is scored beside it, where the
    objective asks for it. asked: the rows themselves, where their prompts alone are taken.
    """

    examples: Sequence[Example]
    too_long: list[str]
    limit: int = 0
    whose: str = ""
    notes: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    unit: int = 1
    aside: Sequence[Example] = ()
    asked: Sequence[Conversation] = ()

    @property
    def num_rows(self) -> int:
        return len(self.examples) // self.unit

    @property
    def rows(self) -> Sequence[Example]:
        """The first example of each row."""
        return self.examples if self.unit == 1 else self.examples[:: self.unit]

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
        """A hash of every id, weight, prompt length and label, in order."""
        digest = hashlib.sha256()
        for example in self.examples:
            told = (example.ids, example.weights, example.prompt_tokens)
            labelled = (*told, example.columns[LABEL]) if LABEL in example.columns else told
            digest.update(repr(labelled).encode())
        for row in self.asked:
            digest.update(repr((row.answer, row.reply)).encode())
        return digest.hexdigest()


def inside(project: Path, path: Path) -> Path:
    """Return `path` as it is meant: in the project where it stands there, else from the current folder."""
    return path if path.exists() and not (project / path).exists() else project / path


def task_name(project: Path, given: Path, file: Path) -> str:
    """Return what a file's rows are called as a task: its path in the project; a folder of documents is one task."""
    path = given if suffix_kind(file) in DOCUMENTS else file
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def read_taught(paths: Sequence[Path], config: Config, *, project: Path = Path()) -> tuple[list[Taught], list[str]]:
    """Return the rows and texts of some files and folders, and how each file was read. Each names its task."""
    rows, notes = _read(paths, config, project, lambda reading, path: rows_for(reading, path, "answers"))
    return [row for row in rows if isinstance(row, Taught)], notes


def _read_learnt(paths: Sequence[Path], config: Config, *, project: Path) -> tuple[list[Learnt], list[str]]:
    """Return what the objective learns from, of some files and folders, and how each file was read."""
    kind = LEARNS_FROM[config.objective]

    def take(reading: Reading, path: Path) -> list[Learnt]:
        if kind == "answers" and config.data.format == "auto":
            reading = for_answers(reading, path)
        return rows_for(reading, path, kind)

    return _read(paths, config, project, take)


def _read(
    paths: Sequence[Path], config: Config, project: Path, take: Callable[[Reading, Path], list[Learnt]]
) -> tuple[list[Learnt], list[str]]:
    rows: list[Learnt] = []
    notes = []
    for given, path in ((source, file) for source in paths for file in files_in(source)):
        source, reading = open_records(path, config.data)
        found = take(reading, path)
        how = f" ({source.why})" if source.why else ""
        notes.append(f"{path.name}{how}: {len(found)} rows, read as {reading.form}: {reading.why}")
        name = task_name(project, given, path)
        rows += (replace(_placed(row, config), task=name) for row in found)
    return mix.with_system(rows, config.data.system), notes


def _placed(row: Learnt, config: Config) -> Learnt:
    return with_lines(row, encoding=config.data.encoding) if isinstance(row, Text) else row


def read_project(project: Path, config: Config) -> Rows:
    """Return the rows to learn from and the rows held out, as data.train and data.eval say.

    Raises DataError where there is nothing but text to learn answers from.
    """
    paths = [project / path for path in config.data.train_paths]
    rows, notes = _read_learnt(paths, config, project=project)
    refuse_texts(rows, config.objective)
    weights = _weights(project, config)
    if config.data.eval == "none":
        return Rows(rows, [], (*notes, "nothing is held out (data.eval: none)"), weights)
    if config.data.eval != "auto":
        measured = [project / path for path in config.data.eval_paths]
        held_out, more = _read_learnt(measured, config, project=project)
        return Rows(rows, held_out, (*notes, *more, *_leak(rows, held_out)), weights)
    kept, held_out, more = _hold_out(rows, seed=config.train.seed)
    return Rows(kept, held_out, (*notes, *more), weights)


def _hold_out(rows: Sequence[Learnt], *, seed: int) -> tuple[list[Learnt], list[Learnt], list[str]]:
    """Return (train, held out, both in words). Rows and texts are each held out where there are enough of them."""
    rows, told = in_parts(rows, enough=MIN_ROWS_TO_SPLIT)
    notes = [told] if told else []
    num_texts = len(texts_of(rows))
    counts = {"rows": len(rows) - num_texts, "texts": num_texts}
    few = [what for what, count in counts.items() if 0 < count < MIN_ROWS_TO_SPLIT]
    notes += [f"nothing is held out: fewer than {MIN_ROWS_TO_SPLIT} {what} would tell nothing" for what in few]
    enough = [row for row in rows if ("texts" if isinstance(row, Text) else "rows") not in few]
    if not enough:
        return list(rows), [], notes
    tasks = [row.task for row in enough]
    _, held_out, how = split_records(enough, share=EVAL_SHARE, seed=seed, tasks=tasks)
    held = {id(row) for row in held_out}
    what = " and ".join(what for what, count in counts.items() if count and what not in few)
    notes.append(f"{len(held_out)} of {len(enough)} {what} are held out to measure with; {how.words}")
    return [row for row in rows if id(row) not in held], held_out, notes


def _weights(project: Path, config: Config) -> dict[str, float]:
    """Return the weight of each task; a folder's holds for every file in it. Raises ConfigError where files overlap."""
    weights: dict[str, float] = {}
    seen: dict[Path, str] = {}
    for path in config.data.train_paths:
        for file in files_in(project / path):
            if (before := seen.setdefault(file.resolve(), path)) != path:
                raise ConfigError(
                    "config.bad_value",
                    f"'{before}' and '{path}' both hold {file.name}; its rows would be taken twice.",
                    where="data.train",
                    remedy="Name it once; {path: 2} sees its rows twice an epoch.",
                )
            if path in config.data.weights:
                weights[task_name(project, project / path, file)] = config.data.weights[path]
    return weights


def _leak(train: Sequence[Learnt], held_out: Sequence[Learnt]) -> list[str]:
    """Return a warning where what is held out is learnt too: right answers to it would prove nothing."""
    learnt = {_asked(row) for row in train}
    count = sum(_asked(row) in learnt for row in held_out)
    return (
        [f"WARNING: {count} of {len(held_out)} held-out questions are learnt too; they measure nothing"]
        if count
        else []
    )


def _asked(row: Learnt) -> object:
    """Return what tells whether a row is learnt already."""
    match row:
        case Text():
            return row.text
        case Judged():
            return row.messages[:-1]
        case _:
            return row.prompt


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
    rows: Sequence[Taught], template: ChatTemplate, taught: Literal["all", "last"], limit: int
) -> Iterator[list[Example]]:
    """Yield the examples of each row, and of each text its passages; those of many rows are kept for the next time."""
    fresh = (
        text_examples(row, template, limit=limit) if isinstance(row, Text) else template.examples(row, taught=taught)
        for row in rows
    )
    if not token_cache.worth(rows):
        yield from fresh
        return
    folder, key = cache_root() / "tokens", token_cache.key_of(rows, template, taught, limit)
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
    rows: Sequence[Learnt],
    template: ChatTemplate,
    config: Config,
    *,
    context_tokens: int | None = None,
    held_out: bool = False,
) -> Lesson:
    """Return the examples of `rows`; rows over train.max_tokens or the model's context are left out whole and named.

    Texts are cut into passages that fit.

    Raises DataError where a row teaches nothing, or nothing remains of rows that are not `held_out`.
    """
    examples = PackedExamples()
    too_long: list[str] = []
    ends: set[int] = set()
    limit = min(config.train.max_tokens, context_tokens or config.train.max_tokens)
    whose = "train.max_tokens" if limit == config.train.max_tokens else "the model's context"
    kind = LEARNS_FROM[config.objective]
    invocation = template.invocation_ids() if config.train.after_prompt else None
    if invocation is not None and texts_of(rows):
        raise ConfigError("config.bad_value", "a text has no prompt to act after.", where="train.after_prompt")
    said = [sides(row) for row in rows]
    of_sides = _examples([side for each in said for side in each], template, config.train.taught, limit)
    for row, each in zip(rows, said, strict=True):
        own = [example for _ in each for example in _of_side(next(of_sides), kind)]
        if invocation is not None:
            own = [after_prompt(example, invocation) for example in own]
        if not sum(example.num_taught for example in own):
            raise DataError("data.nothing_taught", "no token of it is taught.", where=row.origin)
        if max(len(example.ids) for example in own) > limit:
            too_long.append(row.origin)
            continue
        columns = {LABEL: float(row.good)} if isinstance(row, Judged) else {}
        examples += (replace(example, task=row.task, columns=columns) for example in own)
        if not isinstance(row, Text):
            ends |= {example.last_taught for example in own}
    if rows and not examples and not held_out:
        raise DataError(
            "data.too_long",
            f"all {len(rows)} rows are longer than {whose} of {limit} tokens.",
            where=too_long[0],
            remedy="Raise it or shorten the rows." if whose == "train.max_tokens" else "Shorten the rows.",
        )
    notes = _left_unsaid(conversations_in([side for each in said for side in each]), template)
    # How far a model that learns from single answers has moved as a whole, answers to other questions tell.
    aside = PackedExamples(mismatched(examples, limit=limit)) if kind == "judged" and examples else ()
    return Lesson(examples, too_long, limit, whose, notes, frozenset(ends), unit=UNITS[kind], aside=aside)


def _of_side(examples: list[Example], kind: RowKind) -> list[Example]:
    """Return the examples of a row's side; of an answer that is compared, the last turn stands for it."""
    return examples if kind == "answers" else examples[-1:]


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
