"""Tokens of rows that were seen before: a file named by the hash of all that they depend on, in the user's cache.

What cannot be read is made again, so a damaged or vanished file costs time and nothing else.
"""

from __future__ import annotations

import datetime
import hashlib
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fledge.data.template import ChatTemplate
from fledge.kept import keep, read_kept
from fledge.records import Example, Taught, Text

# Fewer characters are tokenised faster than a file is looked for, read and kept tidy.
WORTH_CHARS = 200_000
MAX_BYTES = 1 << 30


def worth(rows: Sequence[Taught]) -> bool:
    """Whether these rows are so many that keeping their tokens pays."""
    texts = (row.text if isinstance(row, Text) else "".join(m.content for m in row.messages) for row in rows)
    return sum(map(len, texts)) >= WORTH_CHARS


def key_of(rows: Sequence[Taught], template: ChatTemplate, taught: str, limit: int = 0) -> str:
    """Return the hash of the rows, the template, the vocabulary, what is taught and how long passages may be."""
    digest = hashlib.sha256(f"1\0{taught}\0{template.source}\0{template.tokenizer.digest}".encode())
    if "strftime_now" in template.source:
        # The template writes today's date into every prompt.
        digest.update((template.today or datetime.date.today()).isoformat().encode())
    for row in rows:
        held = (row.text, row.headings, limit) if isinstance(row, Text) else (row.messages, row.tools)
        digest.update(repr(held).encode("utf-8", errors="surrogatepass"))
    return digest.hexdigest()[:40]


def load(folder: Path, key: str, rows: Sequence[Taught]) -> Iterator[list[Example]] | None:
    """Return an iterator over the examples of each row, or None where they are not kept or no longer whole."""
    if (held := read_kept(folder / f"{key}.tokens")) is None:
        return None
    with np.load(io.BytesIO(held)) as kept:
        ids, taught, ends, counts = kept["ids"], kept["taught"], kept["ends"], kept["counts"].tolist()
    if len(counts) != len(rows) or sum(counts) != len(ends) or (ends[-1] if len(ends) else 0) != len(ids):
        return None
    return (
        _rows(rows, counts, np.split(ids, ends[:-1]), np.split(taught, ends[:-1])) if len(taught) == len(ids) else None
    )


def _rows(
    rows: Sequence[Taught],
    counts: Sequence[int],
    ids: Sequence[NDArray[np.int32]],
    taught: Sequence[NDArray[np.bool_]],
) -> Iterator[list[Example]]:
    spans = iter(zip(ids, taught, strict=True))
    for row, count in zip(rows, counts, strict=True):
        yield [
            Example(own.tolist(), which.astype(np.float64).tolist(), row.origin) for own, which in islice(spans, count)
        ]


def save(folder: Path, key: str, examples: Sequence[Example], counts: Sequence[int]) -> None:
    """Keep the examples of rows that have so many each, and of older ones what fits beside.

    A full disk keeps nothing and is no error.
    """
    np.savez(
        held := io.BytesIO(),
        ids=np.fromiter((token for example in examples for token in example.ids), dtype=np.int32),
        taught=np.fromiter((weight > 0 for example in examples for weight in example.weights), dtype=np.bool_),
        ends=np.cumsum(np.fromiter((len(example.ids) for example in examples), dtype=np.int64)),
        counts=np.array(counts, dtype=np.int64),
    )
    keep(folder / f"{key}.tokens", held.getvalue(), most_bytes=MAX_BYTES)
