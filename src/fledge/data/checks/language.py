"""Which language a text is in: by its script, and for scripts that several share by small words and letters.

Only texts that say enough are judged: "" is no language, and better than a wrong one.
"""

from __future__ import annotations

import re

from fledge.data.languages import SMALL_WORDS

# So much of a text is looked at.
LOOKED_AT_CHARS = 400
# So many small words a text must hold, and so many times as many as of the next language.
MIN_WORDS = 3
MIN_SHARE = 0.06
AHEAD = 1.5
MIN_LETTERS = 6

_LANGUAGES = tuple(SMALL_WORDS)
# One byte counts for each language; all of a word's languages are counted by one addition.
_OF_WORD: dict[str, int] = {}
for _place, _words in enumerate(SMALL_WORDS.values()):
    for _word in set(_words.split()):
        _OF_WORD[_word] = _OF_WORD.get(_word, 0) + (1 << 8 * _place)
_SMALL = frozenset(_OF_WORD)

# Scripts by their ranges; the language is that which most people write in it.
SCRIPTS = {
    "ja": re.compile(r"[\u3040-\u30ff]"),
    "zh": re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]"),
    "ko": re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
    "el": re.compile(r"[\u0370-\u03ff]"),
    "ar": re.compile(r"[\u0600-\u06ff]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
    "hi": re.compile(r"[\u0900-\u097f]"),
    "bn": re.compile(r"[\u0980-\u09ff]"),
    "ta": re.compile(r"[\u0b80-\u0bff]"),
    "th": re.compile(r"[\u0e00-\u0e7f]"),
    "ka": re.compile(r"[\u10a0-\u10ff]"),
    "hy": re.compile(r"[\u0530-\u058f]"),
}
# Letters that only one of the languages of a script has.
_UKRAINIAN, _BULGARIAN_NOT = re.compile(r"[іїєґІЇЄҐ]"), re.compile(r"[ыэёЫЭЁ]")
_PERSIAN = re.compile(r"[پچژگک]")
_SPLIT = re.compile(r"[\W\d_]+")
# A Chinese character says as much as a few letters.
_DENSE = {"zh": 4, "ja": 3, "ko": 3}
NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese", "nl":
    "Dutch", "sv": "Swedish", "da": "Danish", "pl": "Polish", "cs": "Czech", "tr": "Turkish", "ro": "Romanian",
    "fi": "Finnish", "hu": "Hungarian", "id": "Indonesian", "vi": "Vietnamese", "ja": "Japanese", "zh": "Chinese",
    "ko": "Korean", "ru": "Russian", "uk": "Ukrainian", "bg": "Bulgarian", "el": "Greek", "ar": "Arabic", "fa":
    "Persian", "he": "Hebrew", "hi": "Hindi", "bn": "Bengali", "ta": "Tamil", "th": "Thai", "ka": "Georgian",
    "hy": "Armenian",
}  # fmt: skip


def language_of(text: str) -> str:
    """Return the ISO 639-1 code of the language that most of a text is in, or "" where that cannot be told."""
    text = text[:LOOKED_AT_CHARS]
    if not text.isascii() and (found := _by_script(text)):
        return found
    return _by_words(text)


def _by_script(text: str) -> str:
    counts = {
        name: count * _DENSE.get(name, 1) for name, regex in SCRIPTS.items() if (count := len(regex.findall(text)))
    }
    if not counts:
        return ""
    if "ja" in counts and counts["ja"] * 8 > counts.get("zh", 0):
        # Japanese writes Chinese characters too, but never without kana for long.
        counts["ja"] += counts.pop("zh", 0)
    best = max(counts, key=lambda name: counts[name])
    latin = sum("a" <= c <= "z" or "A" <= c <= "Z" or "\u00c0" <= c <= "\u024f" for c in text)
    if counts[best] < MIN_LETTERS or counts[best] < latin:
        return ""
    if best == "ru":
        return "uk" if _UKRAINIAN.search(text) else "ru" if _BULGARIAN_NOT.search(text) or "ъ" not in text else "bg"
    return "fa" if best == "ar" and _PERSIAN.search(text) else best


def _by_words(text: str) -> str:
    words = _SPLIT.split(text.lower()) if not text.isascii() else text.lower().replace("'", " ").split()
    # What is looked at has room for 200 words, so that no byte runs over.
    hits = sum(map(_OF_WORD.__getitem__, _SMALL.intersection(words))).to_bytes(len(_LANGUAGES), "little")
    first, second = sorted(hits, reverse=True)[:2]
    if first < max(MIN_WORDS, MIN_SHARE * len(words)) or first < AHEAD * second:
        return ""
    return _LANGUAGES[hits.index(first)]
