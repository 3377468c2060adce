"""Which rows ask (nearly) the same, found by what they have in common instead of by comparing all with all.

The words that carry a question's meaning are kept as hashes, in order. Rows with the same ones ask the same. Rows that
have the same but for the word in one place may differ by a slip of the hand there: of each such group only words are
tried of which the data knows one much better than the other. So thousands of rows of one template cost what they weigh.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fledge.data.checks import near
from fledge.data.checks.look import Rows, crc
from fledge.data.checks.slips import KNOWN, RARER

# In a group of more words than this only these oftenest are tried against the rare ones.
ALL_PAIRS, OFTENEST = 8, 4
MAX_PAIRS_A_GROUP = 2000

Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_ODD, _MORE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def one_word_apart(rows: Rows, places: Places, *, sides: Mask | None = None) -> Iterator[tuple[int, int]]:
    """Yield pairs of `places` that ask the same but for what may be a slip in one place, each once.

    sides: of each pair the rows are on both sides, those of True second.
    """
    starts, flat = rows.contents()
    lengths = rows.figures["content"][places].astype(np.int64)
    begins = starts[places]
    totals = lengths.astype(np.uint64) * _MORE
    longest = int(lengths.max(initial=0))
    for place in range(longest):
        has = np.flatnonzero(lengths > place)
        totals[has] += _mixed(flat[begins[has] + place], place)
    held = np.zeros(len(rows.figures), dtype=np.bool_) if sides is None else sides
    known = rows.known()
    # In the first place stands the system message.
    for place in range(1, longest):
        has = np.flatnonzero(lengths > place)
        words = flat[begins[has] + place]
        open_keys = totals[has] - _mixed(words, place)
        yield from _pairs(open_keys, words, places[has], held[places[has]], known, across=sides is not None)


def _mixed(words: npt.NDArray[np.uint32], place: int) -> npt.NDArray[np.uint64]:
    mixed = (words.astype(np.uint64) + np.uint64((place + 1) * int(_MORE) & 0xFFFFFFFFFFFFFFFF)) * _ODD
    mixed ^= mixed >> np.uint64(29)
    mixed *= _MORE
    return mixed ^ (mixed >> np.uint64(32))


def _pairs(
    keys: npt.NDArray[np.uint64],
    words: npt.NDArray[np.uint32],
    rows: Places,
    held: Mask,
    known: npt.NDArray[np.uint16],
    *,
    across: bool,
) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows with one key whose words differ, of which one may be a slip of the other."""
    kept = _shared(keys)
    kept = kept[np.lexsort((rows[kept], held[kept], words[kept], keys[kept]))]
    keys, words, rows, held = keys[kept], words[kept], rows[kept], held[kept]
    new_key = np.ones(len(keys), dtype=np.bool_)
    new_key[1:] = keys[1:] != keys[:-1]
    first = new_key.copy()
    first[1:] |= (words[1:] != words[:-1]) | (held[1:] != held[:-1])
    keys, words, rows, held, new_key = keys[first], words[first], rows[first], held[first], new_key[first]
    counts = known[words & np.uint32(len(known) - 1)].astype(np.int64)
    begins = np.flatnonzero(new_key)
    ends = np.append(begins[1:], len(keys))
    several = ends - begins > 1
    for begin, end in zip(begins[several].tolist(), ends[several].tolist(), strict=True):
        yield from _of_group(slice(begin, end), words, rows, held, counts, across=across)


def _shared(keys: npt.NDArray[np.uint64]) -> Places:
    """Return the places of keys that stand more than once: few, and only they need be put in order by all else."""
    order = np.argsort(keys)
    same = np.zeros(len(keys) + 1, dtype=np.bool_)
    same[1:-1] = keys[order[1:]] == keys[order[:-1]]
    return order[same[1:] | same[:-1]]


def _of_group(
    group: slice, words: npt.NDArray[np.uint32], rows: Places, held: Mask, counts: Places, *, across: bool
) -> Iterator[tuple[int, int]]:
    members = list(
        zip(words[group].tolist(), rows[group].tolist(), held[group].tolist(), counts[group].tolist(), strict=True)
    )
    known = sorted(members, key=lambda member: (-member[3], member[1]))
    few = len(members) <= ALL_PAIRS
    done = 0
    for place, (word, row, side, often) in enumerate(known if few else known[: 2 * OFTENEST]):
        if not few and often < KNOWN:
            return
        for other, its_row, its_side, rare in known[place + 1 :]:
            if word == other or (across and side == its_side) or not (rare <= 1 or often >= RARER * rare):
                continue
            yield (its_row, row) if side else (row, its_row)
            done += 1
            if done >= MAX_PAIRS_A_GROUP:
                return


def same_content(rows: Rows, places: Places, *, most: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of `places` that ask the same: all pairs of a group of at most `most`, of larger ones none."""
    keys = rows.figures["asked"][places]
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1])) if len(order) else order
    for begin, end in zip(begins, np.append(begins[1:], len(order)), strict=False):
        if 1 < end - begin <= most and keys[order[begin]]:
            group = places[order[begin:end]].tolist()
            yield from ((one, other) for n, one in enumerate(group) for other in group[n + 1 :])


def turn_ties(rows: Rows) -> Places:
    """Return pairs (row, row) of which one asks a single question that the other, a chat, asks among others."""
    at, keys = rows.turns()
    single = np.flatnonzero((rows.figures["turns"] == 1) & (rows.figures["asked"] != 0))
    if not len(at) or not len(single):
        return np.zeros((0, 2), dtype=np.int64)
    asked = rows.figures["asked"][single]
    order = np.argsort(asked, kind="stable")
    first = np.searchsorted(asked[order], keys, "left")
    last = np.searchsorted(asked[order], keys, "right")
    met = np.flatnonzero(first < last)
    # All that ask one thing are tied by that; a chat is tied to the first of them, and to the last for the other side.
    pairs = [np.stack([single[order[place[met]]], at[met]], axis=1) for place in (first, last - 1)]
    return np.unique(np.concatenate(pairs), axis=0)


def counter(rows: Rows) -> near.Count:
    """Return how often a word of `content` stands in the rows, at least."""
    known = rows.known()
    return lambda word: int(known[crc(word) & (len(known) - 1)])
