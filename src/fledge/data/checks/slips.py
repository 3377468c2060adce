"""Whether of two words one is the other, misspelt.

One edit apart (Damerau 1964: a letter left out, put in, exchanged, or two in each other's place) are also price and
prize, Iran and Iraq. So the slip has to be one that hands make, and the data has to know the one word better than the
other: what stands there often on both sides is two words.
"""

from __future__ import annotations

import re

from fledge.data.checks.wording import NEGATIONS, is_spelled

# A slip is told in words of so many letters, letters in each other's place in shorter ones too; vowels are mixed up in
# longer ones.
SLIP_CHARS, SWAPPED_CHARS, VOWEL_CHARS = 5, 4, 7
# So often at least a word stands in the data, and so many times as often as its slip, unless that stands there once.
KNOWN, RARER = 2, 20
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_VOWELS = frozenset("aeiou")


def _neighbours() -> frozenset[str]:
    """Return the pairs of letters that lie side by side on a keyboard, or one above the other."""
    pairs = {row[n : n + 2] for row in _ROWS for n in range(len(row) - 1)}
    for upper, lower in zip(_ROWS, _ROWS[1:], strict=False):
        # Each row is shifted by half a key: a letter lies under two.
        pairs |= {
            upper[n + step] + letter for n, letter in enumerate(lower) for step in (0, 1) if n + step < len(upper)
        }
    return frozenset(pairs | {pair[::-1] for pair in pairs})


_NEIGHBOURS = _neighbours()
_DOUBLED = re.compile(r"(.)\1+")


def is_slip(one: str, other: str, *, counts: tuple[int, int], named: bool) -> bool:
    """Whether one of two words is the other, misspelt.

    counts: how often each stands in the data. named: both are written as names, of which there are very many that
    differ in a letter: only letters in each other's place, or doubled, are taken for slips then.
    """
    shorter = min(len(one), len(other))
    if shorter < SWAPPED_CHARS or one[0] != other[0] or not (is_spelled(one) and is_spelled(other)):
        return False
    if one in NEGATIONS or other in NEGATIONS or (shorter < SLIP_CHARS and (named or len(one) != len(other))):
        return False
    rarer, oftener = sorted(counts)
    if _is_careless(one, other):
        return rarer <= 1 or oftener >= RARER * rarer
    if shorter < SLIP_CHARS:
        return False
    known = oftener >= KNOWN and (rarer <= 1 or oftener >= RARER * rarer) and oftener > rarer
    return known and not named and _is_one_slip(one, other)


def _is_careless(one: str, other: str) -> bool:
    """Whether two neighbouring letters are in each other's place, or one is doubled in one word alone."""
    if len(one) == len(other):
        places = [n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        return (
            len(places) == 2
            and places[1] == places[0] + 1
            and one[places[0]] == other[places[1]]
            and one[places[1]] == other[places[0]]
        )
    return abs(len(one) - len(other)) == 1 and _DOUBLED.sub(r"\1", one) == _DOUBLED.sub(r"\1", other)


def _is_one_slip(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    if len(long) - len(short) > 1:
        return False
    place = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        # A letter more at the end is another form of the word.
        return place < len(short) and short[place:] == long[place + 1 :]
    if short[place + 1 :] != long[place + 1 :]:
        return False
    pair = short[place] + long[place]
    inside = place < len(short) - 1
    return pair in _NEIGHBOURS or (inside and len(short) >= VOWEL_CHARS and set(pair) <= _VOWELS)
