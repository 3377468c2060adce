"""The teacher without a model: frames in which people ask, three registers, words of one meaning, slips of the hand.

A candidate is one frame with one wording, at most one exchanged word, and what its register allows: a greeting, small
letters, a missing question mark, a slip. Every choice comes from a seed and the fact's name alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fledge.data.synth import english
from fledge.data.synth.phrases import Kind, Phrase, lowered, parse


class Register(StrEnum):
    FORMAL = "formal"
    PLAIN = "plain"
    CASUAL = "casual"
    TERSE = "terse"


F, P, C, T = Register.FORMAL, Register.PLAIN, Register.CASUAL, Register.TERSE


@dataclass(frozen=True)
class Frame:
    """`text` holds one of {do} {doing} {thing} {ask} {Ask} {that}: the phrase in the form that fits it."""

    register: Register
    text: str


FRAMES: dict[Kind, tuple[Frame, ...]] = {
    Kind.DO: (
        Frame(P, "How do I {do}?"),
        Frame(P, "How can I {do}?"),
        Frame(P, "How would I {do}?"),
        Frame(P, "What should I use to {do}?"),
        Frame(P, "What is the simplest way to {do}?"),
        Frame(P, "What's a good way to {do}?"),
        Frame(P, "I need to {do}."),
        Frame(P, "I want to {do}."),
        Frame(P, "I'm trying to {do}."),
        Frame(P, "Show me how to {do}."),
        Frame(P, "Is there a way to {do}?"),
        Frame(P, "Can you help me {do}?"),
        Frame(P, "I have to {do}; what do I use?"),
        Frame(P, "My task is to {do}. What helps?"),
        Frame(F, "Could you please explain how to {do}?"),
        Frame(F, "I would like to {do}. How is that done?"),
        Frame(F, "Would you kindly show me how to {do}?"),
        Frame(F, "What would you recommend for {doing}?"),
        Frame(F, "Is there a recommended way of {doing}?"),
        Frame(F, "I would be grateful for advice on {doing}."),
        Frame(C, "Hey, how do I {do}?"),
        Frame(C, "Quick question: how do you {do}?"),
        Frame(C, "What do I need if I wanna {do}?"),
        Frame(C, "I'm stuck, I have to {do}. Any idea?"),
        Frame(C, "So, I'd like to {do}. What now?"),
        Frame(C, "Any tips for {doing}?"),
        Frame(T, "How to {do}?"),
        Frame(T, "{doing}, how?"),
        Frame(T, "Best way to {do}?"),
        Frame(T, "{do}"),
        Frame(T, "Need to {do}."),
        Frame(T, "Help with {doing}, please."),
    ),
    Kind.THING: (
        Frame(P, "What is {thing}?"),
        Frame(P, "What's {thing}?"),
        Frame(P, "Tell me {thing}."),
        Frame(P, "Do you know {thing}?"),
        Frame(P, "I want to know {thing}."),
        Frame(P, "What can you tell me about {thing}?"),
        Frame(P, "Give me {thing}."),
        Frame(P, "I'm looking for {thing}."),
        Frame(P, "I have a question about {thing}."),
        Frame(P, "How about {thing}?"),
        Frame(F, "Could you please tell me {thing}?"),
        Frame(F, "I would like to know {thing}."),
        Frame(F, "Would you kindly inform me about {thing}?"),
        Frame(F, "May I ask about {thing}?"),
        Frame(F, "I would be grateful to learn {thing}."),
        Frame(C, "Hey, what's {thing}?"),
        Frame(C, "Quick question about {thing}?"),
        Frame(C, "Any idea what {thing} is?"),
        Frame(C, "So, {thing}?"),
        Frame(C, "And what about {thing}?"),
        Frame(T, "{thing}?"),
        Frame(T, "{thing}"),
        Frame(T, "Need {thing}."),
        Frame(T, "{thing}, please."),
    ),
    Kind.ASK: (
        Frame(P, "{Ask}?"),
        Frame(P, "I have a question: {ask}?"),
        Frame(P, "Do you know {that}?"),
        Frame(P, "Can you tell me {that}?"),
        Frame(P, "I'd like to know {that}."),
        Frame(P, "I wonder {that}."),
        Frame(P, "Tell me {that}."),
        Frame(P, "Please answer this: {ask}?"),
        Frame(P, "What I want to know is this: {ask}?"),
        Frame(P, "One question. {Ask}?"),
        Frame(P, "{Ask}? Please tell me."),
        Frame(F, "Could you please tell me {that}?"),
        Frame(F, "I would be interested to know {that}."),
        Frame(F, "May I ask {that}?"),
        Frame(F, "Would you kindly tell me {that}?"),
        Frame(F, "If you do not mind, {ask}?"),
        Frame(C, "Hey, {ask}?"),
        Frame(C, "Hi! {Ask}?"),
        Frame(C, "Quick question: {ask}?"),
        Frame(C, "Just wondering, {ask}?"),
        Frame(C, "By the way, {ask}?"),
        Frame(C, "Any idea {that}?"),
        Frame(C, "So {ask}?"),
        Frame(C, "Sorry to bother you, but {ask}?"),
        Frame(C, "{Ask}? I forgot."),
        Frame(T, "{Ask}, please?"),
        Frame(T, "Question: {ask}?"),
        Frame(T, "{Ask} exactly?"),
    ),
}
# Whole questions in other words; S is whatever stands there.
_REWORDED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"how much (?:does|do) (.+) cost", ("what does {0} cost", "what is the price of {0}", "how expensive is {0}")),
    (r"what does (.+) cost", ("how much does {0} cost", "what is the price of {0}", "how much is {0}")),
    (r"what(?:'s| is) the (?:price|cost) of (.+)", ("how much does {0} cost", "what does {0} cost", "how much is {0}")),
    (r"how heavy is (.+)", ("what does {0} weigh", "what is the weight of {0}", "how much does {0} weigh")),
    (r"(?:what|how much) does (.+) weigh", ("how heavy is {0}", "what is the weight of {0}")),
    (r"how (?:big|large) is (.+)", ("what size is {0}", "what is the size of {0}", "what are the dimensions of {0}")),
    (r"how old (?:is|are) (.+)", ("what is the age of {0}", "since when does {0} exist")),
    (r"where (is|are) (.+) (made|built|produced|sold)", ("in which place {0} {1} {2}", "what place {0} {1} {2} in")),
    (r"where does (.+) come from", ("what is the origin of {0}", "where is {0} from")),
    (r"where do you (live|work)", ("in which place do you {0}", "what town do you {0} in")),
    (r"who (made|built|designed|invented|founded|wrote|created) (.+)", ("by whom was {1} {0}", "who is behind {1}")),
    (
        r"how long does (.+) last",
        ("for how long does {0} last", "what time does {0} last for", "how much time lasts {0}"),
    ),
    (r"how long is (.+)", ("what is the length of {0}", "for how long is {0}")),
    (r"how many (.+?) (does|do|did) (.+)", ("what number of {0} {1} {2}",)),
    (r"how many (.+?) (are|is) (.+)", ("what number of {0} {1} {2}",)),
    (r"what colou?r is (.+)", ("which color is {0}", "what is the color of {0}")),
    (r"which (.+)", ("what {0}",)),
    (r"when (is|was|are|were) (.+)", ("at what time {0} {1}", "on what date {0} {1}")),
    (r"can i (.+)", ("is it possible to {0}", "am i able to {0}", "may I {0}")),
    (r"how do i (.+)", ("how can I {0}", "how would I {0}", "what do I do to {0}")),
    (r"what is (.+)", ("what's {0}", "what exactly is {0}")),
    (r"who is (.+)", ("who's {0}", "who exactly is {0}")),
    (r"where is (.+)", ("where's {0}", "in which place is {0}")),
    (r"what do you do", ("what is your job", "what kind of work do you do", "what's your profession")),
    (r"who are you", ("what is your name", "what should I call you")),
)
REWORDINGS = tuple((re.compile(pattern, re.IGNORECASE), others) for pattern, others in _REWORDED)
_CONTRACTED = {
    "I'm": "im",
    "what's": "whats",
    "I'd": "id",
    "don't": "dont",
    "can't": "cant",
    "you": "u",
    "please": "pls",
}
# How often a wording is kept as it is, and how often a casual or terse question is written carelessly.
AS_IT_IS, CARELESS, SLIPS = 0.4, 0.5, 0.25


def frames_of(kind: Kind, *, held_out: bool | None, seed: int) -> list[Frame]:
    """Return the frames of a kind: all, or those that only held-out questions use (a fifth), or only the others.

    Which are which depends on the seed alone, so no frame is ever on both sides.
    """
    draw = random.Random(f"{seed} {kind}")
    shuffled = draw.sample(FRAMES[kind], len(FRAMES[kind]))
    count = max(4, len(shuffled) // 5)
    return shuffled if held_out is None else shuffled[:count] if held_out else shuffled[count:]


def questions(
    wordings: Sequence[str], *, name: str, seed: int, held_out: bool | None = None, keep: Sequence[str] = ()
) -> Iterator[str]:
    """Yield questions that ask what the wordings ask, most different first, until nothing new can be made.

    `name` tells facts apart for the draw. Words of `keep` are never misspelt. The same question may come twice.
    """
    draw = random.Random(f"{seed} {name} {held_out}")
    kept = frozenset(word for text in keep for word in text.casefold().split())
    phrases = [parse(wording) for wording in wordings]
    for lap in range(6):
        own = [(frame, phrase) for phrase in phrases for frame in _drawn(phrase, seed, held_out, draw)]
        # Wordings take turns, so that a few questions already hold them all.
        own.sort(key=lambda pair: draw.random())
        for frame, phrase in own:
            varied = phrase if lap == 0 and draw.random() < AS_IT_IS else _varied(phrase, draw)
            text = _filled(frame, varied)
            if text:
                yield _written(text, frame.register, draw, kept)


def _drawn(phrase: Phrase, seed: int, held_out: bool | None, draw: random.Random) -> list[Frame]:
    frames = frames_of(phrase.kind, held_out=held_out, seed=seed)
    return draw.sample(frames, len(frames))


def _filled(frame: Frame, phrase: Phrase) -> str:
    text = phrase.text
    that = phrase.indirect
    if not text or ("{that}" in frame.text and not that):
        return ""
    if phrase.kind is Kind.ASK and not _is_question(text) and frame.text not in ("{Ask}?", "Hi! {Ask}?"):
        return ""
    ask = lowered(text)
    filled = frame.text.format(
        do=text, doing=english.gerund(text), thing=lowered(text), ask=ask, Ask=text[:1].upper() + text[1:], that=that
    )
    if phrase.kind is Kind.ASK and not _is_question(text):
        filled = filled.replace("?", ".")
    return filled[:1].upper() + filled[1:]


def _is_question(text: str) -> bool:
    return lowered(text) != text or text[:1].islower()


def _varied(phrase: Phrase, draw: random.Random) -> Phrase:
    """Return the phrase in other words: a whole question turned, or a word exchanged."""
    if phrase.kind is Kind.ASK:
        for pattern, others in REWORDINGS:
            if (found := pattern.fullmatch(phrase.text)) and draw.random() < 0.7:
                return Phrase(Kind.ASK, draw.choice(others).format(*found.groups()))
    return Phrase(phrase.kind, english.exchanged(phrase.text, draw, verb_first=phrase.kind is Kind.DO))


def _written(text: str, register: Register, draw: random.Random, keep: frozenset[str]) -> str:
    """Return the question as people of that register type it."""
    if register is Register.FORMAL:
        return text
    if register in (Register.CASUAL, Register.TERSE) and draw.random() < CARELESS:
        text = text.lower() if draw.random() < 0.6 else text
        text = text.rstrip("?.") if draw.random() < 0.6 else text
        for proper, careless in _CONTRACTED.items():
            if draw.random() < 0.5:
                text = re.sub(rf"\b{re.escape(proper)}\b", careless, text, flags=re.IGNORECASE)
    if draw.random() < (SLIPS if register in (Register.CASUAL, Register.TERSE) else SLIPS / 4):
        text = english.with_slip(text, draw, keep=keep)
    return text
