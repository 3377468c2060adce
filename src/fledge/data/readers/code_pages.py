"""Bytes that are no UTF-8 -> the code page of Latin, Cyrillic or Greek in which they make most sense, and how much.

A guess by byte frequencies alone takes French for Hungarian: most code pages hold nearly the same letters. What tells
them apart is the language. Its small words stand mostly in ASCII, which every page reads alike, and its alphabet is
known; a page is good where the words with other letters are words of that language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fledge.data.languages import ALPHABETS, MORE_WORDS, SMALL_WORDS

WESTERN = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "fi", "is", "ca", "id")
CENTRAL = ("pl", "cs", "sk", "hu", "ro", "hr", "sl", "de")
TURKISH = ("tr",)
BALTIC = ("lt", "lv", "et")
CYRILLIC = ("ru", "uk", "bg")
GREEK = ("el",)
# What Windows writes comes first, and of equals the first is taken.
PAGES: Mapping[str, tuple[str, ...]] = {
    "cp1252": WESTERN,
    "cp1250": CENTRAL,
    "iso8859_2": CENTRAL,
    "cp1254": TURKISH,
    "cp1257": BALTIC,
    "mac_roman": WESTERN,
    "cp850": WESTERN,
    "cp852": CENTRAL,
    "mac_latin2": CENTRAL,
    "cp1251": CYRILLIC,
    "koi8_r": CYRILLIC,
    "koi8_u": CYRILLIC,
    "iso8859_5": CYRILLIC,
    "cp866": CYRILLIC,
    "mac_cyrillic": CYRILLIC,
    "cp1253": GREEK,
    "iso8859_7": GREEK,
}
# Another page than the usual one must read the text better by so much, of 1.
AHEAD = 0.15
# Several languages of the West in one text have no alphabet of their own: all their letters, but less telling.
MIXED = 0.8
# English borrows letters from everywhere, in at most this share of its words.
BORROWED = 0.05
# How much of the score is the language's small words, where the text holds any.
WORDS_COUNT = 0.6
MIN_HITS, MIN_HIT_SHARE = 3, 0.05
MAX_PIECES = 4000
LOOKED_AT_BYTES = 1 << 18

_WORDS = {name: frozenset(words.split()) for name, words in (SMALL_WORDS | MORE_WORDS).items()}
_ALL_WESTERN = frozenset("".join(ALPHABETS[name] for name in WESTERN))
_WORD = re.compile(rb"[A-Za-z\x80-\xff]+")
_PIECE = re.compile(rb'[^\s"]*[\x80-\xff][^\s"]*')
# Signs that people type; any other is a letter of another page.
SIGNS = frozenset("£€§°«»“”„‘’‚–—…¿¡²³½¼¾·•™©®±µ×÷ºª´†‰›‹\xa0\xad")
INSIDE = frozenset("’‘·–—…\xa0\xad•“”«»")


@dataclass(frozen=True)
class Page:
    """A code page and how well it reads a text: 1 is every word in place, in the language that the text is in."""

    name: str
    score: float


def best_page(sample: bytes) -> Page:
    """Return the page that reads the sample best: Windows-1252 unless another does so clearly better."""
    sample = sample[:LOOKED_AT_BYTES]
    words = Counter(_WORD.findall(sample))
    # Each once: what stands in every row would outvote all else.
    pieces = list(dict.fromkeys(_PIECE.findall(sample)))[:MAX_PIECES]
    decoded = {page: _lower_words(words, page) for page in PAGES}
    hits = {page: _hits(decoded[page], languages) for page, languages in PAGES.items()}
    most = max(max(counts.values()) for counts in hits.values())
    told = most >= max(MIN_HITS, MIN_HIT_SHARE * words.total())
    foreign = sum(count for word, count in words.items() if not word.isascii())
    borrowing = foreign <= BORROWED * words.total()
    # Hebrew and Arabic letters stand where Cyrillic and Greek ones do: without small words they may be either.
    for page, languages in PAGES.items():
        if languages in (CYRILLIC, GREEK) and max(hits[page].values()) < MIN_HIT_SHARE * foreign:
            del hits[page]
    pages = [
        Page(page, _score(_read(pieces, page), counts, most if told else 0, western=PAGES[page] is WESTERN,
                          borrowing=borrowing))
        for page, counts in hits.items()
    ]  # fmt: skip
    usual = pages[0]
    best = max(pages, key=lambda page: page.score)
    return best if best.score > usual.score + AHEAD else usual


def _lower_words(words: Mapping[bytes, int], page: str) -> Counter[str]:
    found: Counter[str] = Counter()
    text = b"\n".join(words).decode(page, errors="replace")
    for word, count in zip(text.lower().split("\n"), words.values(), strict=True):
        found[word] += count
    return found


def _hits(words: Mapping[str, int], languages: Iterable[str]) -> dict[str, int]:
    """Return how many small words of each language there are."""
    return {name: sum(words.get(word, 0) for word in _WORDS[name]) for name in languages}


def _score(
    pieces: list[frozenset[str] | None], hits: Mapping[str, int], most: int, *, western: bool, borrowing: bool
) -> float:
    """Return how well a page reads the pieces, in the best of its languages."""

    def of(alphabet: frozenset[str], count: int) -> float:
        plausible = sum(letters is not None and letters <= alphabet for letters in pieces) / max(1, len(pieces))
        return plausible * (1 - WORDS_COUNT + WORDS_COUNT * (count / most) if most else 1)

    scores = [
        of(_ALL_WESTERN if name == "en" and borrowing else frozenset(ALPHABETS[name]), count)
        for name, count in hits.items()
    ]
    if western:
        scores.append(MIXED * of(_ALL_WESTERN, max(hits.values())))
    return max(scores)


def _read(pieces: list[bytes], page: str) -> list[frozenset[str] | None]:
    """Return the letters beyond ASCII of each piece, small; None for a piece in which a character is out of place."""
    text = b"\n".join(pieces).decode(page, errors="replace")
    latin = PAGES[page] not in (CYRILLIC, GREEK)
    return [_letters(piece, latin=latin) for piece in text.split("\n")]


def _letters(piece: str, *, latin: bool) -> frozenset[str] | None:
    found = set()
    run, foreign = 0, 0
    for before, character, after in zip(" " + piece, piece, piece[1:] + " ", strict=False):
        letter = character.isalpha() and character not in "ªº"
        run, foreign = (run + 1, foreign + (not character.isascii())) if letter else (0, 0)
        # A word of other letters alone is one of another script, and there no word mixes them.
        if letter and not after.isalpha() and (run > 2 and foreign == run if latin else 0 < foreign < run):
            return None
        if character.isascii():
            continue
        if not letter:
            if character not in SIGNS or (before.isalpha() and after.isalpha() and character not in INSIDE):
                return None
        elif before.isdigit() or after.isdigit() or _odd_case(before, character, after):
            return None
        else:
            found.add(character.lower())
    return frozenset(found)


def _odd_case(before: str, character: str, after: str) -> bool:
    """Whether a letter is large where nobody writes it so."""
    return character.isupper() and (before.islower() or (before.isupper() and after.islower()))
