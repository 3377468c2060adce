"""A wording, as a person writes it down -> what it asks for, so that it can be asked in other frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from fledge.data.synth.english import base_form, begins_as_verb, is_verb, third_person


class Kind(StrEnum):
    """What a phrase is: something to DO ("write a dict as JSON"), a THING ("the price"), or a whole question to ASK."""

    DO = "do"
    THING = "thing"
    ASK = "ask"


@dataclass(frozen=True)
class Phrase:
    """`text` has no opening and no mark at its end; of an ASK it is the whole question without its mark."""

    kind: Kind
    text: str

    @property
    def indirect(self) -> str:
        """The question as it stands behind "tell me": "what it costs". "" where its subject cannot be told."""
        return _indirect(self.text) if self.kind is Kind.ASK else ""


# What people put before the thing itself. What follows is something to do, or a thing.
_TO_DO = re.compile(
    r"(?:(?:so|hi|hey|hello|ok|please|well|and)[,!]? +)?"
    r"(?:how (?:do|can|could|would|should|might|must) (?:i|you|we|one)(?: best)?|(?:tell|show|teach) me how to|how to"
    r"|i(?:'d| would) (?:like|love) to|i (?:need|want|have|wish) to|i(?:'m| am) (?:trying|looking) to|help me(?: to)?"
    r"|what(?:'s| is) (?:the|a) (?:\w+ )?way to|what(?:'s| is) the (?:\w+ )?method to|is there (?:a|any) way to"
    r"|is it possible to|what (?:do|should|can|must) i (?:do|use|call|type) to|(?:show|give) me (?:the )?code to"
    r"|(?:please )?(?:show|write|give)(?: me)? (?:code|a line|one line)(?: of \w+)? (?:to|that)"
    r"|(?:can|could|may) (?:i|we|one)) +(?P<rest>.+)",
    re.IGNORECASE,
)
_TO_KNOW = re.compile(
    r"(?:please )?(?:tell me(?: more)? about|what do you know about|i(?:'d| would) like to know(?: more)? about"
    r"|describe|explain|what about|any news (?:on|of)|information (?:on|about)) +(?P<rest>.+)",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"(?:what|who|whom|whose|which|where|when|why|how|is|are|was|were|do|does|did|can|could|will|would|should|has|have|may"
    r"|am|what's|who's|where's|when's|how's|whats)\b",
    re.IGNORECASE,
)
_STATES = re.compile(r"(?:i|my|we|our|there|it|this|that)(?:'\w+)? ", re.IGNORECASE)
_BE = re.compile(
    r"(?P<wh>(?:what|which|whose|how)(?: [\w-]+){0,3}?|who|where|when|why) (?P<be>is|are|was|were) (?P<rest>.+)", re.I
)
_DOES = re.compile(r"(?P<wh>(?:what|which|how|where|when|why|who)(?: [\w-]+){0,3}?) (?:does|do) (?P<rest>.+)", re.I)
# Ends of "is S <end>": what is said of the subject, and no part of its name.
_SAID_OF_IT = re.compile(
    r"^(?P<subject>.+?) (?P<end>(?:\w+ed|made|built|sold|kept|born|based|found|written|called|known|available|located"
    r"|open|closed|done|meant|paid|about|for|from|in|at|like|near|able to .+|good for)(?: .+)?)$",
    re.IGNORECASE,
)


def parse(wording: str) -> Phrase:
    """Return what a wording asks for."""
    text = " ".join(wording.split()).rstrip(" ?!.")
    bare = re.sub(r",? please$", "", text, flags=re.IGNORECASE)
    if (opened := _TO_DO.fullmatch(bare)) and begins_as_verb(opened["rest"]):
        return Phrase(Kind.DO, opened["rest"])
    if opened := _TO_KNOW.fullmatch(bare):
        return Phrase(Kind.THING, opened["rest"])
    if wording.rstrip().endswith("?") or _ASKS.match(text) or _STATES.match(text):
        return Phrase(Kind.ASK, bare)
    if begins_as_verb(bare) and (bare[0].islower() or " " in bare):
        return Phrase(Kind.DO, bare[0].lower() + bare[1:])
    return Phrase(Kind.THING, bare)


def _indirect(question: str) -> str:
    """Return "what it costs" for "What does it cost", "where it is made" for "Where is it made"; "" if unsure."""
    if found := _DOES.fullmatch(question):
        words = found["rest"].split()
        for place, word in enumerate(words[1:], start=1):
            if is_verb(word):
                one = words[0].casefold() not in ("i", "you", "we", "they", "people")
                verb = third_person(word) if one and " does " in question else word
                return " ".join([lowered(found["wh"]), *words[:place], verb, *words[place + 1 :]])
        return ""
    if found := _BE.fullmatch(question):
        wh, be, rest = lowered(found["wh"]), found["be"].lower(), found["rest"]
        if re.match(r"(?:behind|about|for|from|in|at|on|near|with|to)\b", rest):
            return f"{wh} {be} {rest}"
        if said := _SAID_OF_IT.match(rest):
            return f"{wh} {said['subject']} {be} {said['end']}"
        return f"{wh} {rest} {be}"
    return ""


def lowered(text: str) -> str:
    """Return the text with a small first letter, unless it begins with a name or "I"."""
    first = text.split(" ", 1)[0]
    known = _ASKS.fullmatch(first) or first in ("The", "A", "An", "My", "Your", "It", "Its") or is_verb(first)
    return text[0].lower() + text[1:] if text and known else text


_AUX = r"is|are|was|were|can|will|has|must|should"
_FACT_BE = re.compile(rf"(?P<subject>.{{2,80}}?) (?P<aux>{_AUX}) (?P<mid>.*?)$", re.IGNORECASE)
_TO_YOU = (
    ("I am", "you are"), ("I'm", "you are"), ("I was", "you were"), ("I've", "you have"), ("I", "you"),
    ("[Mm]y", "your"), ("me", "you"), ("mine", "yours"), ("[Oo]ur", "your"), ("[Ww]e", "you"),
)  # fmt: skip
_PLACE = re.compile(r"(?:in|at|from|near|to) (?:the )?$")
_MONEY = re.compile(r"[$€£]|\b(?:euros?|dollars?|pounds?|cents?|francs?|kroner|EUR|USD|CHF)\b")
_WHEN = re.compile(r"\b(?:1[5-9]\d\d|20\d\d|january|february|march|april|may|june|july|august|september|october"
                   r"|november|december|(?:mon|tues|wednes|thurs|fri|satur|sun)days?|dawn|dusk|noon|midnight)\b|\d:\d\d",
                   re.IGNORECASE)  # fmt: skip


def question_from(text: str, keys: tuple[str, ...]) -> str:
    """Return a question that the fact answers with its first key: "The lamp costs 5 euros." asks what the lamp costs.

    "" where the sentence is built in a way that is not known. It stays with the fact's own words.
    """
    sentence = _to_you(re.split(r"(?<=[.!?])\s", text.strip())[0].rstrip(".!"))
    key = next((key for key in keys if key and key in sentence), "")
    before, _, after = sentence.partition(key) if key else ("", "", "")
    if not before.strip():
        return ""
    wh, mid = _asked(key, before)
    after = re.split(r"[,;:]| and | but ", after)[0].rstrip()
    if aux := _FACT_BE.match(before if mid is None else mid):
        rest = f"{aux['mid'].strip()}{after}".strip()
        return f"{wh} {aux['aux']} {lowered(aux['subject'])}{' ' + rest if rest else ''}?"
    words = (before if mid is None else mid).split()
    you = words[:1] == ["you"]
    for place, word in enumerate(words[1:], start=1):
        if verb := word if you and is_verb(word) else base_form(word):
            rest = " ".join([*words[place + 1 :], after.strip()]).strip()
            subject = lowered(" ".join(words[:place]))
            return f"{wh} {'do' if you else 'does'} {subject} {verb}{' ' + rest if rest else ''}?"
    return ""


def _to_you(sentence: str) -> str:
    """Return what somebody says of themselves as others say it to them: "I was born" -> "you were born"."""
    for theirs, ours in _TO_YOU:
        sentence = re.sub(rf"\b{theirs}\b", ours, sentence)
    return sentence


def _asked(key: str, before: str) -> tuple[str, str | None]:
    """Return the question word for a key, and what stands before it without a preposition that the word replaces."""
    place = _PLACE.search(before)
    if _MONEY.search(key):
        return "How much", None
    if _WHEN.search(key):
        return "When", re.sub(r"(?:in|on|at|since|from) (?:the )?$", "", before)
    if place and key[:1].isupper():
        return "Where", before[: place.start()]
    return "What", None
