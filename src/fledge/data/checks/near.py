"""Texts that are nearly the same: MinHash sketches in numpy, candidates by bands, and a comparison of the words.

A sketch is one-permutation MinHash (Li, Owen, Zhang 2012) over windows of five bytes, empty bins filled by rotation
(Shrivastava, Li 2014), cut into bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4): two texts that
share a part s of their windows agree in one of 16 bands of 4 with probability 1 - (1 - s^4)^16: 0.9998 at s = 0.8,
0.34 at 0.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fledge.data.checks.slips import is_slip
from fledge.data.checks.wording import NEGATIONS, both_ends, content, names_in

BINS = 64
BANDS = 16
WINDOW_BYTES = 5
# A long text may hold such a share of other words and still say the same; similar from this on, of 100 (rapidfuzz).
LONG_WORDS = 40
STRANGE_WORDS = 0.05
ALIKE = 90.0
# Of so many words one more may be misspelt.
WORDS_A_SLIP = 12
# What is computed at once stays in the processor's cache.
BATCH_BYTES = 1 << 16
_PAD = b"\0" * 8

Bands = npt.NDArray[np.uint32]
Count = Callable[[str], int]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MASK = np.uint64((1 << (8 * WINDOW_BYTES)) - 1)
_EMPTY = np.uint32(0xFFFFFFFF)


def sketch(texts: Sequence[str]) -> Bands:
    """Return one row of BANDS hashes per text. Texts are compared as they are given: fold case and blanks before."""
    parts: list[Bands] = []
    batch: list[bytes] = []
    size = 0
    for text in texts:
        piece = both_ends(text).encode("utf-8", errors="replace")
        batch.append(piece)
        size += len(piece)
        if size > BATCH_BYTES:
            parts.append(_bands(_bins(batch)))
            batch, size = [], 0
    if batch or not parts:
        parts.append(_bands(_bins(batch)))
    return np.concatenate(parts)


def _bins(pieces: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """Return the least hash of every bin of every text; windows reach into zero bytes behind it, not into the next."""
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    stream = np.frombuffer(_PAD.join(pieces) + _PAD + _PAD, dtype=np.uint8)
    spans = lengths + len(_PAD)
    total = int(spans.sum())
    words = np.lib.stride_tricks.as_strided(stream[:8].view("<u8"), (total,), (1,))
    hashed = words & _MASK
    hashed *= _ODD
    # The high bits of the product are the mixed ones: six name the bin, those below are the value.
    least = np.full(len(pieces) * BINS, _EMPTY, dtype=np.uint32)
    values = (hashed >> np.uint64(26)).astype(np.uint32)
    # Windows that begin behind a text are nobody's; an empty text keeps one, of zeros.
    ends = np.cumsum(spans)
    behind = np.minimum(ends[:, None] - np.arange(1, len(_PAD)), total - 1)
    values[behind] = _EMPTY
    hashed >>= np.uint64(58)
    slots = hashed.view(np.int64)
    slots += np.repeat(np.arange(len(pieces), dtype=np.int64) * BINS, spans)
    np.minimum.at(least, slots, values)
    return least.reshape(-1, BINS)


def _bands(bins: npt.NDArray[np.uint32]) -> Bands:
    """Fill empty bins from the next full one, so that short texts have a whole sketch, and hash each band."""
    twice = np.concatenate([bins, bins], axis=1)
    place = np.where(twice != _EMPTY, np.arange(2 * BINS), 4 * BINS)
    following = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1][:, :BINS]
    found = np.minimum(following, 2 * BINS - 1)
    distance = (found - np.arange(BINS)).astype(np.uint64)
    filled = np.take_along_axis(twice, found, axis=1).astype(np.uint64) + distance * np.uint64(0x1000001)
    hashed = np.zeros((len(bins), BANDS), dtype=np.uint64)
    for part in filled.reshape(-1, BANDS, BINS // BANDS).transpose(2, 0, 1):
        hashed = (hashed ^ part) * _ODD
        hashed ^= hashed >> np.uint64(31)
    return (hashed >> np.uint64(32)).astype(np.uint32)


def neighbours(
    column: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.int64],
    *,
    most: int,
    then: npt.NDArray[np.uint32] | None = None,
) -> npt.NDArray[np.int64]:
    """Return pairs (n, 2) of `rows` that agree in one band: each with the next one that does, at most `most` pairs.

    A group of k that agree gives k - 1 pairs and not k (k - 1) / 2: all that are alike are still connected. `then`
    orders those that agree: where thousands do, those that are alike in more had better stand side by side.
    """
    order = np.argsort(column, kind="stable") if then is None else np.lexsort((then, column))
    same = np.flatnonzero(column[order[1:]] == column[order[:-1]])[:most]
    return np.stack([rows[order[same]], rows[order[same + 1]]], axis=1)


def matches(column: npt.NDArray[Any], of: npt.NDArray[Any], *, each: int) -> npt.NDArray[np.int64]:
    """Return pairs (place in `of`, place in `column`) that agree in one band, at most `each` for one of `of`."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    first, last = np.searchsorted(ordered, of, "left"), np.searchsorted(ordered, of, "right")
    pairs = []
    for step in range(each):
        held = np.flatnonzero(first + step < last)
        pairs.append(np.stack([held, order[first[held] + step]], axis=1))
    return np.concatenate(pairs)


def alike(one: str, other: str, *, count: Count = lambda word: 0) -> bool:
    """Whether two questions ask the same: the words that carry their meaning are the same, but for a slip of the hand.

    count: how often a word of `content` stands in the data; of two that both stand there often, none is misspelt.
    """
    if one == other:
        return True
    first, second = content(one), content(other)
    if first == second or len(first) != len(second):
        return first == second
    different = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    if len(different) > 1 + len(first) // WORDS_A_SLIP:
        return False
    names = (names_in(one), names_in(other))
    return all(is_slip(a, b, counts=(count(a), count(b)), named=a in names[0] and b in names[1]) for a, b in different)


def says_alike(one: str, other: str, *, count: Count = lambda word: 0) -> bool:
    """Whether two texts say the same: as `alike`, and of long ones some few words may differ.

    A number that differs, or stands in another's place, says something else, and so does a negation, however long the
    text around it.
    """
    if alike(one, other, count=count):
        return True
    first, second = content(one), content(other)
    longest = max(len(first), len(second))
    if min(len(first), len(second)) < LONG_WORDS or abs(len(first) - len(second)) > STRANGE_WORDS * longest:
        return False
    if _fixed(first) != _fixed(second):
        return False
    ours, theirs = Counter(first), Counter(second)
    if (ours - theirs).total() + (theirs - ours).total() > STRANGE_WORDS * (len(first) + len(second)) / 2:
        return False
    from rapidfuzz import fuzz

    return fuzz.ratio(" ".join(first), " ".join(second), score_cutoff=ALIKE) > 0


def _fixed(words: Sequence[str]) -> list[str]:
    """Return the numbers and negations, in order."""
    return [word for word in words if word in NEGATIONS or any(c.isdigit() for c in word)]
