"""What the frames know of English: verbs and their forms, words of one meaning, small words, slips of the hand."""

from __future__ import annotations

import random
import re

_VERBS = """
lift weigh pour rinse dry cook bake grind brew descale climb ride drive park pump charge wear polish oil
label tally duplicate memoize enumerate substitute transmit purchase retrieve compose mail e-mail invent discover
accept access achieve add adjust allow answer append apply arrange ask assign attach avoid back be become begin book
boot break bring browse build bundle buy calculate call cancel capture carry change charge check choose clean clear
clone close collect combine come compare compile complete compress compute configure confirm connect contact contain
convert cook copy cost count cover create customise customize cut debug decode decompress decrease define delete
deliver deploy describe detect determine develop disable display divide do download draw drop edit employ empty enable
encode encrypt end enter escape estimate evaluate exchange execute exit expand explain export express extend extract
fetch fill filter find fit fix flatten flip follow forget format forward found generate get give go group grow guess
handle hang hash have heat help hide hold identify implement import improve include increase indent insert inspect
install invert invite invoke iterate join keep kill know last launch lay learn leave let limit link list listen live
load locate lock log look loop lower maintain make manage map mark match measure memorise merge mix modify monitor
mount move multiply name need negate obtain offer open operate order organise organize own pack pad parse pass paste
pause pay peek perform pick place plan play plot point poll pop post prepare press pretty-print prevent print process
produce program profile protect prove provide publish pull push put query quit quote raise randomise randomize read
receive recharge recognise recognize record recover redirect reduce refer refill refund register remember remove
rename render repair repeat replace reply report request require reset resize resolve restart restore retry return
reverse review rotate round run sample save say scale scan schedule scrape search see select sell send separate
serialise serialize serve set share shift ship shorten show shrink shuffle shut sign simulate sit skip sleep slice
solve sort speak specify spell spin split squeeze stand start state stay stop store stream strip study submit subtract
suggest sum support suspend swap switch sync take talk tell test think throw time toggle touch track train transform
translate transpose travel trim truncate turn type uncompress understand undo uninstall unpack unzip update upgrade
upload use validate verify view visit wait wake walk want warm wash watch wear weigh win work wrap write zip
"""
VERBS = frozenset(_VERBS.split())
# Verbs of one meaning where somebody wants to do something, exchanged only where a verb stands.
DOING: tuple[tuple[str, ...], ...] = (
    ("turn", "convert", "change", "transform"),
    ("make", "create", "build", "produce"),
    ("get", "obtain", "fetch", "retrieve"),
    ("find", "look up", "locate"),
    ("find out", "determine", "figure out"),
    ("show", "display", "print"),
    ("check", "test", "verify"),
    ("remove", "delete", "get rid of"),
    ("combine", "join", "merge", "put together"),
    ("split", "break up", "cut"),
    ("calculate", "compute", "work out"),
    ("read", "load"),
    ("write", "save", "store"),
    ("sort", "order", "arrange"),
    ("start", "launch", "run"),
    ("compress", "shrink", "pack"),
    ("replace", "substitute", "swap out"),
    ("copy", "duplicate", "clone"),
    ("list", "enumerate", "go through"),
    ("parse", "read in", "interpret"),
    ("encode", "serialize", "write out"),
    ("extract", "pull out", "take out"),
    ("measure", "time", "clock"),
    ("pick", "choose", "select"),
    ("send", "submit", "transmit"),
    ("repair", "fix", "mend"),
    ("clean", "wash", "clear"),
    ("buy", "purchase", "order"),
    ("contact", "reach", "get in touch with"),
    ("use", "work with", "operate"),
    ("need", "require"),
)
# Other words of one meaning, exchanged anywhere.
MEANING: tuple[tuple[str, ...], ...] = (
    ("big", "large"),
    ("biggest", "largest", "greatest"),
    ("smallest", "lowest", "least"),
    ("quick", "fast"),
    ("often", "frequently"),
    ("folder", "directory"),
    ("dict", "dictionary"),
    ("picture", "image", "photo"),
    ("text", "string"),
    ("random", "arbitrary"),
    ("number", "figure"),
    ("words", "terms"),
    ("guarantee", "warranty"),
    ("job", "occupation", "profession"),
    ("hobby", "pastime"),
    ("colour", "color"),
)
_SMALL = """
a about all also am an and any are as at be been but by can could did do does doing for from get give had has have
hello hey hi how i if in into is it its just kindly know like many may me might much my need now of off on one or our
out please quick quickly question show so some tell than thank thanks that the their them then there these they thing
this those to too up us very want was way we were what what's whats when where which who whom whose why will with
would you your line code simple simplest easiest best possible help explain wondering wonder trying moment
"""
SMALL = frozenset(_SMALL.split())
# Verbs that double their last letter before -ing.
_TWICE = """
get put set run cut stop swap split pop plan plot trim strip zip unzip map wrap sum pad log flip drop skip
spin sit win begin shut ship hug quit let chop step tap
"""
_DOUBLED = frozenset(_TWICE.split())
_DETERMINERS = frozenset(
    ("a", "an", "the", "my", "your", "his", "her", "its", "our", "their", "all", "every", "each", "some", "any", "this",
     "that", "these", "those", "two", "three", "several", "many")
)  # fmt: skip
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = re.compile(r"[A-Za-z][\w'-]*|\d+(?:[.,:]\d+)*")
SHORTEST_SLIP = 5


def content_words(text: str) -> set[str]:
    """Return the words of a text that carry meaning, by their first five letters: forms of a word count as one."""
    words = (word.casefold().strip("'-") for word in _WORD.findall(text))
    return {word[:5] for word in words if word and word not in SMALL}


def begins_as_verb(phrase: str) -> bool:
    """Whether a phrase begins with a verb: one that is known, or a word before an article, which no noun is."""
    first, _, rest = phrase.partition(" ")
    second = rest.partition(" ")[0].casefold()
    return is_verb(first) or (first.isalpha() and first.casefold() not in _DETERMINERS and second in _DETERMINERS)


def exchanged(phrase: str, draw: random.Random, *, verb_first: bool) -> str:
    """Return the phrase with one word of it exchanged for another of about the same meaning, where it holds such.

    verb_first: it begins with a verb, which may be exchanged too, as may one after "and".
    """
    found: list[tuple[int, int, tuple[str, ...], str]] = []
    for groups, pattern in ((DOING, r"(?:^|(?<=\band )|(?<=\bor )){}\b"), (MEANING, r"\b{}\b")):
        for group in groups if verb_first or groups is MEANING else ():
            for word in group:
                for match in re.finditer(pattern.format(re.escape(word)), phrase, re.IGNORECASE):
                    found.append((*match.span(), group, word))
    if not found:
        return phrase
    # "find out" is not "find" with a word behind it.
    longest = {start: max(end for begin, end, *_ in found if begin == start) for start, *_ in found}
    start, end, group, word = draw.choice([one for one in found if one[1] == longest[one[0]]])
    return phrase[:start] + draw.choice([other for other in group if other != word]) + phrase[end:]


def is_verb(word: str) -> bool:
    return word.casefold() in VERBS


def gerund(phrase: str) -> str:
    """Return "turning a dict into text" for "turn a dict into text"; a second verb after and/or follows."""
    words = phrase.split(" ")
    after = [False, *(word in ("and", "or", "then") for word in words[:-1])]
    return " ".join(
        _ing(word) if place == 0 or (after[place] and is_verb(word)) else word for place, word in enumerate(words)
    )


def _ing(verb: str) -> str:
    if verb in _DOUBLED:
        return f"{verb}{verb[-1]}ing"
    if verb.endswith("ie"):
        return f"{verb[:-2]}ying"
    return f"{verb[:-1]}ing" if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) else f"{verb}ing"


def third_person(verb: str) -> str:
    """Return "costs" for "cost"."""
    if verb in ("have", "do", "go"):
        return {"have": "has", "do": "does", "go": "goes"}[verb]
    if verb.endswith(("s", "x", "z", "ch", "sh")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if verb.endswith("y") and verb[-2] not in "aeiou" else f"{verb}s"


def base_form(word: str) -> str:
    """Return the verb that `word` is the third person of, or "" where it is none: "costs" is of "cost"."""
    if word == "has":
        return "have"
    return next((v for v in (word[:-1], word[:-2], f"{word[:-3]}y") if word.endswith("s") and v in VERBS), "")


def with_slip(text: str, draw: random.Random, *, keep: frozenset[str]) -> str:
    """Return the text with one slip of the hand in a longer word: letters swapped, lost, doubled, or a key beside.

    Words in `keep` (folded), names and whatever holds a digit stay as they are.
    """
    places = [
        match
        for match in re.finditer(r"[A-Za-z]+", text)
        if len(match[0]) >= SHORTEST_SLIP and match[0].islower() and match[0] not in keep
    ]
    if not places:
        return text
    match = draw.choice(places)
    word = match[0]
    at = draw.randrange(1, len(word) - 1)
    kind = draw.choice(("swap", "lose", "double", "beside"))
    if kind == "swap" and word[at] != word[at + 1]:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif kind == "double":
        word = word[:at] + word[at] + word[at:]
    elif kind == "beside":
        word = word[:at] + _beside(word[at], draw) + word[at + 1 :]
    else:
        word = word[:at] + word[at + 1 :]
    return text[: match.start()] + word + text[match.end() :]


def _beside(letter: str, draw: random.Random) -> str:
    row = next(row for row in _KEYBOARD if letter in row)
    at = row.index(letter)
    return draw.choice(row[max(0, at - 1) : at] + row[at + 1 : at + 2])
