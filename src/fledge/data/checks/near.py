"""Texts that are nearly the same: MinHash sketches in numpy, candidates by bands, and a comparison of the words.

A sketch is one-permutation MinHash (Li, Owen, Zhang 2012) over windows of five bytes, empty bins filled by rotation
(Shrivastava, Li 2014), cut into bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4): two texts that
share a part s of their windows agree in one of 16 bands of 4 with probability 1 - (1 - s^4)^16: 0.9998 at s = 0.8,
0.34 at 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BINS = 64
BANDS = 16
WINDOW_BYTES = 5
# What a text says beyond this is not compared.
_MARKS = ".,;:!?\"'()"
COMPARED_CHARS = 4000
# Similar from this on, of 100 (rapidfuzz); words that have no likeness in the other may be at most such a share.
ALIKE = 90.0
STRANGE_WORDS = 0.05
SPELLED_ALIKE = 75.0
SMALL_WORD_CHARS = 3
# What is computed at once stays in the processor's cache.
BATCH_BYTES = 1 << 16
_PAD = b"\0" * 8

Bands = npt.NDArray[np.uint32]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MASK = np.uint64((1 << (8 * WINDOW_BYTES)) - 1)
_EMPTY = np.uint32(0xFFFFFFFF)


def sketch(texts: Sequence[str]) -> Bands:
    """Return one row of BANDS hashes per text. Texts are compared as they are given: fold case and blanks before."""
    parts: list[Bands] = []
    batch: list[bytes] = []
    size = 0
    for text in texts:
        piece = text[:COMPARED_CHARS].encode("utf-8", errors="replace")
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


def neighbours(column: npt.NDArray[np.uint32], rows: npt.NDArray[np.int64], *, most: int) -> npt.NDArray[np.int64]:
    """Return pairs (n, 2) of `rows` that agree in one band: each with the next one that does, at most `most` pairs.

    A group of k that agree gives k - 1 pairs and not k (k - 1) / 2: all that are alike are still connected.
    """
    order = np.argsort(column, kind="stable")
    same = np.flatnonzero(column[order[1:]] == column[order[:-1]])[:most]
    return np.stack([rows[order[same]], rows[order[same + 1]]], axis=1)


def matches(column: npt.NDArray[np.uint32], of: npt.NDArray[np.uint32], *, each: int) -> npt.NDArray[np.int64]:
    """Return pairs (place in `of`, place in `column`) that agree in one band, at most `each` for one of `of`."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    first, last = np.searchsorted(ordered, of, "left"), np.searchsorted(ordered, of, "right")
    pairs = []
    for step in range(each):
        held = np.flatnonzero(first + step < last)
        pairs.append(np.stack([held, order[first[held] + step]], axis=1))
    return np.concatenate(pairs)


def alike(one: str, other: str) -> bool:
    """Whether two folded texts say the same but for spelling, small words and, in long ones, some few words.

    A number that differs, or stands in another's place, makes another question, however long the text around it.
    """
    if one == other:
        return True
    if not one or not other:
        return False
    from rapidfuzz import fuzz

    one, other = one[:COMPARED_CHARS], other[:COMPARED_CHARS]
    if fuzz.ratio(one, other, score_cutoff=ALIKE) == 0:
        return False
    first, second = one.split(), other.split()
    if _numbers(first) != _numbers(second):
        return False
    own, theirs = set(first) - set(second), set(second) - set(first)
    strange = sum(_is_strange(word, theirs) for word in own) + sum(_is_strange(word, own) for word in theirs)
    return strange <= STRANGE_WORDS * (len(first) + len(second)) / 2


def _numbers(words: Sequence[str]) -> list[str]:
    """Return the words that hold a digit, in order, without the marks around them."""
    return [word.strip(_MARKS) for word in words if any(c.isdigit() for c in word)]


def _is_strange(word: str, others: set[str]) -> bool:
    from rapidfuzz import fuzz

    bare = word.strip(_MARKS)
    if len(bare) <= SMALL_WORD_CHARS and bare.isalpha() and bare.isascii() and bare not in ("not", "no"):
        return False
    return all(fuzz.ratio(bare, other, score_cutoff=SPELLED_ALIKE) == 0 for other in others)
