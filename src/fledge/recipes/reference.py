"""What the model as it was makes of the rows: computed once before the first step, and kept for the next run."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fledge.data.packed import PackedExamples
from fledge.model.cache import cache_root
from fledge.model.causal import CausalModel
from fledge.recipes.prepare import Lesson
from fledge.records import Example
from fledge.training.score import sequence_logps

REFERENCE = "reference"
DIGEST_BYTES = 32
# Files of the cache that are kept: each holds eight bytes for every example of a project.
MOST_KEPT = 64


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
    logps = _kept(path, len(every))
    if logps is None:
        say(f"scores {len(every):,} answers with the model as it is, once")
        with model.disabled():
            logps = sequence_logps(model, every, tokens_per_piece=tokens_per_piece)
        _keep(path, logps)
    return with_columns(lesson, logps)


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


def _kept(path: Path, count: int) -> list[float] | None:
    """Return what was kept, or None where there is nothing, or nothing whole."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(raw[DIGEST_BYTES:]).digest() != raw[:DIGEST_BYTES] or len(raw) % 8:
        return None
    values = array("d", raw[DIGEST_BYTES:])
    return values.tolist() if len(values) == count else None


def _keep(path: Path, logps: Sequence[float]) -> None:
    """Keep them for the next time. A full disk keeps nothing and is no error."""
    raw = array("d", logps).tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as staging:
            staged = Path(staging) / path.name
            staged.write_bytes(hashlib.sha256(raw).digest() + raw)
            staged.replace(path)
        kept = sorted(path.parent.glob("*.logps"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in kept[MOST_KEPT:]:
            old.unlink(missing_ok=True)
    except OSError:
        return
