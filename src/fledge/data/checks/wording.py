"""A text -> the words that carry its meaning, in order and as they are compared.

Two questions are nearly the same where these are the same. What is dropped is in `idle`; which language's words it is
follows from the small words of the text itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import repeat

from fledge.data.checks.idle import (
    ASKED_ABOUT,
    IDLE,
    IDLE_ANYWHERE,
    LEADING,
    POLITE,
    SAME,
    unspaced,
    without_phrases,
)
from fledge.data.checks.view import AROUND
from fledge.data.languages import SMALL_WORDS

# What a text says beyond this is not compared.
COMPARED_CHARS = 4000
_NEGATIONS = (
    "not no never none nothing without neither nor nicht kein nie niemals ohne nichts pas jamais sans rien aucun "
    "nunca jamas sin ninguno non mai senza nao sem nem niet geen nooit zonder inte aldrig utan ikke aldri uden "
    "nie bez ne не нет нельзя никогда без ні 不 没 沒 无 別 勿 لا لم ليس لن"
)
NEGATIONS = frozenset(_NEGATIONS.split())
_INNER = re.compile(r"[-‐‑'_]")
_DASHES = frozenset(("-", "‐", "‑", "–", "—", "--", "---"))
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")
_ONE_BY_ONE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]|[^\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]+")
_ACCENT = re.compile(r"[\u0300-\u036f\u0591-\u05c7\u064b-\u065f]")
_SPELLED = re.compile(r"[^\W\d_]+")
# Alef, ya and ta marbuta are written with or without their marks.
_LETTERS = str.maketrans({"ё": "е", "ى": "ي", "ة": "ه", "’": "'", "ʼ": "'", "`": "'", "ø": "o", "ł": "l", "đ": "d"})


def unaccented(word: str) -> str:
    """Return a folded word without accents, in scripts where leaving them out is a matter of haste."""
    if word.isascii():
        return word
    kept = []
    for letter in word.translate(_LETTERS):
        # A Cyrillic letter with a breve is another letter, a kana with marks another sound.
        parts = unicodedata.normalize("NFD", letter) if not "\u0400" <= letter <= "\u04ff" else letter
        if "\u3040" <= letter <= "\u30ff" or "\uac00" <= letter <= "\ud7af":
            parts = letter
        kept += [c for c in parts if not _ACCENT.match(c)]
    return "".join(kept)


_IDLE = {language: frozenset(words.split()) for language, words in IDLE.items()}
# Two bytes count for each of these languages; all of a word's languages are counted by one addition.
_COUNT_BYTES = 2
_OF_WORD: dict[str, int] = {}
# Each as it is dropped from a text that is in it alone: of some languages no words are idle.
_ONE = tuple((language,) if language in _IDLE else () for language in SMALL_WORDS)
for _place, (_language, _words) in enumerate(SMALL_WORDS.items()):
    for _word in sorted({unaccented(w) for w in f"{_words} {IDLE.get(_language, '')}".split()}):
        _OF_WORD[_word] = _OF_WORD.get(_word, 0) + (1 << 8 * _COUNT_BYTES * _place)


@lru_cache(maxsize=1 << 16)
def _pieces(word: str) -> tuple[str, ...]:
    """Return what a folded word consists of: `n't` is a not, `l'` an article; a number keeps its signs."""
    bare = word.strip(AROUND)
    if not bare or bare in _DASHES:
        return (bare,) if bare else ()
    if any(c.isdigit() for c in bare):
        return (bare,)
    if bare.endswith(("n't", "n’t")):
        return ("not",)
    if not bare.isascii() and _UNSPACED.search(bare):
        return tuple(_ONE_BY_ONE.findall(bare))
    bare = unaccented(bare)
    if bare.startswith("ال") and len(bare) > 4:
        bare = bare[2:]
    return tuple(piece for piece in _INNER.split(bare) if piece) or (bare,)


def both_ends(text: str) -> str:
    """Return what is compared of a text: of a long one its beginning and its end, where the question stands."""
    half = COMPARED_CHARS // 2
    return text if len(text) <= COMPARED_CHARS else f"{text[:half]} {text[-half + 1 :]}"


def content(text: str) -> list[str]:
    """Return the words of a text that carry its meaning; all of its words where none would be left."""
    folded = both_ends(text).casefold()
    # Of our own letters one only is written in two ways.
    folded = folded.replace("`", "'") if folded.isascii() else folded.translate(_LETTERS)
    folded = without_phrases(folded)
    if not folded.isascii():
        folded = unspaced(folded)
    words: list[str] = []
    for word in folded.split():
        # Most words are letters of ours and nothing else.
        if word.isascii() and word.isalpha():
            words.append(word)
        else:
            words += _pieces(word)
    while len(words) > 1 and words[0] in LEADING:
        del words[0]
    while len(words) > 2 and words[-1] in POLITE and words[-2] not in ASKED_ABOUT:
        del words[-1]
    kept = list(_telling(words))
    return kept or words


def _telling(words: list[str]) -> list[str]:
    idle, same, german = _dropped(_spoken(words))
    kept: list[str] = []
    last = len(words) - 1
    for place, word in enumerate(words):
        # "What does it do?" is not "What is it?".
        if word in idle and not (place == last and word in ("do", "does")):
            continue
        if word in _DASHES and not (kept and kept[-1][-1].isdigit()):
            continue  # a dash, unless something may be taken from something
        word = same.get(word, word)
        # Where there is no key for them, ä, ö and ü are written so.
        kept.append(word.replace("ae", "a").replace("oe", "o").replace("ue", "u") if german else word)
    return kept


def _spoken(words: Sequence[str]) -> tuple[str, ...]:
    """Return the languages of which most of the words are small ones; none where no word is, or nothing is idle."""
    counts = sum(map(_OF_WORD.get, words, repeat(0)))
    if not counts:
        return ()
    told = counts.to_bytes(_COUNT_BYTES * len(_ONE), "little")
    low, high = told[::_COUNT_BYTES], told[1::_COUNT_BYTES]
    each = low if not any(high) else [a + 256 * b for a, b in zip(low, high, strict=True)]
    most = max(each)
    if each.count(most) == 1:
        return _ONE[each.index(most)]
    return tuple([language for one, count in zip(_ONE, each, strict=True) if count == most for language in one])


@lru_cache(maxsize=256)
def _dropped(spoken: tuple[str, ...]) -> tuple[frozenset[str], Mapping[str, str], bool]:
    """Return the idle words of some languages, the forms that stand for another word, and whether it may be German."""
    same = {form: word for language in spoken for form, word in SAME.get(language, {}).items()}
    return IDLE_ANYWHERE.union(*(_IDLE[language] for language in spoken)), same, "de" in spoken


def names_in(text: str) -> frozenset[str]:
    """Return the words that are written with a capital inside the text, as they are compared; {} where all are."""
    words = both_ends(text).split()
    if text.isupper():
        return frozenset()
    capital = [word.strip(AROUND) for word in words[1:]]
    return frozenset(
        piece for word in capital if word[:1].isupper() for piece in _pieces(word.casefold().translate(_LETTERS))
    )


def is_spelled(word: str) -> bool:
    """Whether a slip of the hand can be told in a word: letters, of a script that spells."""
    return _SPELLED.fullmatch(word) is not None and not _UNSPACED.search(word) and not "\uac00" <= word[0] <= "\ud7af"
