"""Which language a text is in: by its script, and for scripts that several share by small words and letters.

Only texts that say enough are judged: "" is no language, and better than a wrong one.
"""

from __future__ import annotations

import re

# So much of a text is looked at.
LOOKED_AT_CHARS = 400
# So many small words a text must hold, and so many times as many as of the next language.
MIN_WORDS = 3
MIN_SHARE = 0.06
AHEAD = 1.5
MIN_LETTERS = 6

# Small words by language; what several share counts for each. A single letter is an abbreviation in all of them.
SMALL_WORDS = {
    "en": "the of and to in is that it for was with as his on be at by this had not are but from or have an they "
    "which you were her all she there would their we him been has when who will more if out so what up its "
    "about into than them can only other your how my does do",
    "de": "der die und das ist nicht ein eine zu den mit von sich auf für dem des im es auch als an werden aus er "
    "hat dass sie nach bei um wie ich wird oder war sind haben einen einer kann über nur noch wenn wir ihr "
    "mein was aber man so zum zur sein durch gibt",
    "fr": "le la les de des du et est un une dans que qui pour pas sur au avec par il elle ne se ce son sont plus ou "
    "mais nous vous leur été cette aux je en comme être fait tout sa ses ont même très où d'un d'une c'est",
    "es": "el la los las de en que es un una por con no para se del al como más su pero sus le lo ha este entre "
    "cuando muy sin sobre también me hasta hay donde quien desde todo nos qué son está esta puede porque yo",
    "it": "il la di che un una per non sono del della in con le si da come più al ma gli anche dei nel alla lo "
    "questo delle ha su se nella essere dal cui ho tra degli perché quando cosa era",
    "pt": "eles elas há porque esta este foi tem seus suas você vocês numa pelos ninguém muitos nem bem "
    "os as de em que um uma para com não por se do da na no mais dos como mas ao ele das seu sua ou quando "
    "muito nos já eu também só pelo pela até isso ela entre depois sem mesmo aos são você está ser",
    "nl": "de het een van en in is dat op te voor met zijn die niet aan er om ook als maar door bij uit nog naar dan "
    "over wordt of hij heeft ze worden kan hun deze wat je ik we geen meer tot waar hoe",
    "sv": "och att det som en på är av för med den till inte har de om ett men var jag sig från vi så kan han hade "
    "nu ska när där vid eller mot efter mycket också över detta hur vad",
    "da": "og at det som en på er af for med den til ikke har de om et men var jeg sig fra vi så kan han havde nu "
    "skal når der ved eller mod efter meget også over dette hvordan hvad hun blev",
    "pl": "na do się nie to że jest jak po od za co przez dla ale jego był tym być tak ze oraz może czy już tylko "
    "gdy które który lub są pod ma jej",
    "cs": "se na je že to do jako pro by za od po ale jsem jeho co tak si byl při jak nebo až ve které který jsou "
    "není také může",
    "tr": "ve bir bu da de için ile çok olarak daha gibi olan ne var ama en kadar sonra mi ben değil her olduğu "
    "tarafından ya nasıl ise",
    "ro": "și de la în cu pe nu este că un din care pentru mai sa se ce au fost sunt sau dar ca prin fi această al "
    "ale lui",
    "fi": "ja on ei se että oli hän mutta kun niin olla ovat tai joka myös kuin mitä sen vain jos ole minä miten",
    "hu": "az és hogy nem is egy ez van de meg volt csak már ha vagy mint el ki kell lehet azt még",
    "id": "yang dan di untuk dengan dari ini pada tidak itu adalah dalam akan ke bisa atau juga oleh karena ada "
    "sebagai saya anda",
    "vi": "là của và có không một được cho các với trong người những này để khi đã tôi bạn",
}  # fmt: skip
_LANGUAGES = tuple(SMALL_WORDS)
_OF_WORD: dict[str, tuple[int, ...]] = {}
for _place, _words in enumerate(SMALL_WORDS.values()):
    for _word in set(_words.split()):
        _OF_WORD[_word] = (*_OF_WORD.get(_word, ()), _place)

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
    hits = [0] * len(_LANGUAGES)
    words = _SPLIT.split(text.lower()) if not text.isascii() else text.lower().replace("'", " ").split()
    seen: set[str] = set()
    for word in words:
        if word in _OF_WORD and word not in seen:
            seen.add(word)
            for place in _OF_WORD[word]:
                hits[place] += 1
    first, second = sorted(hits, reverse=True)[:2]
    if first < max(MIN_WORDS, MIN_SHARE * len(words)) or first < AHEAD * second:
        return ""
    return _LANGUAGES[hits.index(first)]
