"""What the model as it was makes of the rows: computed once before the first step, and kept for the next run."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace

from fledge.data.packed import PackedExamples
from fledge.kept import keep, read_kept
from fledge.model.cache import cache_root
from fledge.model.causal import CausalModel
from fledge.objective.scored import Scored
from fledge.recipes.prepare import Lesson
from fledge.records import Example
from fledge.training.score import of_sequences

REFERENCE = "reference"
# A number of the file, and of all files what is kept.
BYTES, MOST_BYTES = 8, 64 << 20
SAID_EVERY_S = 10.0


def with_reference(
    model: CausalModel, lesson: Lesson, *, key: str, tokens_per_piece: int, say: Callable[[str], None]
) -> Lesson:
    """Return the lesson with the column REFERENCE: log p of each example's taught tokens without the adapter.

    They are taken from the user's cache where the same model (`key`) has scored the same examples in the same numbers.
    """
    if not lesson.examples:
        return lesson
    every: list[Example] = [*lesson.examples, *lesson.aside]
    path = cache_root() / "reference" / f"{_digest(every, key)}.logps"
    if (held := read_kept(path)) is not None and len(held) == BYTES * len(every):
        return with_columns(lesson, array("d", held))
    say(f"scores {len(every):,} answers with the model as it is, once")
    with model.disabled():
        logps = of_sequences(
            model, every, Scored.sums_S, tokens_per_piece=tokens_per_piece, done=_progress(len(every), say)
        )
    keep(path, array("d", logps).tobytes(), most_bytes=MOST_BYTES)
    return with_columns(lesson, logps)


def _progress(total: int, say: Callable[[str], None]) -> Callable[[int], None]:
    """Return what says now and then how far the scoring is and how long it will still take."""
    started = said = time.monotonic()

    def tell(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= SAID_EVERY_S and done < total:
            said = now
            say(f"scored {done:,} of {total:,}, some {(now - started) / done * (total - done):.0f} s left")

    return tell


def with_columns(lesson: Lesson, logps: Sequence[float]) -> Lesson:
    """Return the lesson with these references, those of its examples first and then those set aside."""
    count = len(lesson.examples)
    examples = _with_column(lesson.examples, logps[:count])
    return replace(lesson, examples=examples, aside=_with_column(lesson.aside, logps[count:]))


def _with_column(examples: Sequence[Example], values: Sequence[float]) -> PackedExamples:
    return PackedExamples(
        replace(example, columns={**example.columns, REFERENCE: value})
        for example, value in zip(examples, values, strict=True)
    )


def _digest(examples: Sequence[Example], key: str) -> str:
    digest = hashlib.sha256(f"1\0{key}".encode())
    for example in examples:
        digest.update(repr((example.ids, example.weights)).encode())
    return digest.hexdigest()[:40]
