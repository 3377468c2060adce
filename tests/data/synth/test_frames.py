"""Questions made by rule: what a wording asks for, frames in disjoint halves, registers, words exchanged, slips."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from fledge.data.checks import near
from fledge.data.checks.view import plain
from fledge.data.synth import english, frames
from fledge.data.synth.phrases import Kind, parse, question_from


@pytest.mark.parametrize(
    ("wording", "kind", "text"),
    [
        ("turn a dict into a JSON string", Kind.DO, "turn a dict into a JSON string"),
        ("Turn a dict into JSON.", Kind.DO, "turn a dict into JSON"),
        ("How do I turn a dict into JSON?", Kind.DO, "turn a dict into JSON"),
        ("I need to pause my program.", Kind.DO, "pause my program"),
        ("What is the simplest way to shrink data?", Kind.DO, "shrink data"),
        ("Hey, how can I shrink data, please?", Kind.DO, "shrink data"),
        ("frobnicate the widget", Kind.DO, "frobnicate the widget"),
        ("the price of the Kettlewren", Kind.THING, "the price of the Kettlewren"),
        ("opening hours", Kind.THING, "opening hours"),
        ("Tell me about the guarantee.", Kind.THING, "the guarantee"),
        ("What does the Kettlewren cost?", Kind.ASK, "What does the Kettlewren cost"),
        ("Who are you?", Kind.ASK, "Who are you"),
        ("How do I look today?", Kind.DO, "look today"),
    ],
)
def test_what_a_wording_asks_for(wording: str, kind: Kind, text: str) -> None:
    assert (parse(wording).kind, parse(wording).text) == (kind, text)


@pytest.mark.parametrize(
    ("question", "indirect"),
    [
        ("What does the Kettlewren cost?", "what the Kettlewren costs"),
        ("Where is the Kettlewren made?", "where the Kettlewren is made"),
        ("What is the price of the lamp?", "what the price of the lamp is"),
        ("How long do the batteries last?", "how long the batteries last"),
        ("Who are you?", "who you are"),
        ("Who is behind the Kettlewren?", "who is behind the Kettlewren"),
        # Where the subject ends cannot be told: better no question than a wrong one.
        ("Does it float?", ""),
        ("What does the zorb frobnicate?", ""),
    ],
)
def test_a_question_behind_tell_me(question: str, indirect: str) -> None:
    assert parse(question).indirect == indirect


@pytest.mark.parametrize(
    ("fact", "key", "question"),
    [
        ("The Kettlewren costs 149 euros.", "149 euros", "How much does the Kettlewren cost?"),
        ("The Kettlewren is made in Tromsø.", "Tromsø", "Where is the Kettlewren made?"),
        ("Mara was born in 1970.", "1970", "When was Mara born?"),
        ("It weighs 2.1 kg.", "2.1 kg", "What does it weigh?"),
        ("I was born in 1984.", "1984", "When were you born?"),
        ("My cat is called Pixel.", "Pixel", "What is your cat called?"),
        ("I work at Nordlys as an engineer.", "Nordlys", "Where do you work as an engineer?"),
        ("I play the cello on Sundays.", "Sundays", "When do you play the cello?"),
        ("Tromsø is where it is made.", "Tromsø", ""),
        ("Frobnication zorbs 5 quux.", "5 quux", ""),
    ],
)
def test_a_question_from_a_fact(fact: str, key: str, question: str) -> None:
    assert question_from(fact, (key,)) == question


WORDINGS = {
    Kind.DO: ["turn a dict into a JSON string"],
    Kind.THING: ["the price of the Kettlewren"],
    Kind.ASK: ["How much does the Kettlewren cost?"],
}


@pytest.mark.parametrize("kind", list(Kind))
def test_questions_are_many_different_and_the_same_again(kind: Kind) -> None:
    made = list(islice(frames.questions(WORDINGS[kind], name="a", seed=3), 40))
    assert made == list(islice(frames.questions(WORDINGS[kind], name="a", seed=3), 40))
    assert made != list(islice(frames.questions(WORDINGS[kind], name="b", seed=3), 40))
    assert len({plain(question) for question in made}) >= 25
    assert all("{" not in question and question.strip() for question in made)
    about = re.compile(r"json|ditc|kettlewren|price|cost", re.IGNORECASE)
    assert all(about.search(question) for question in made)
    # Registers are there: small letters, no mark, a polite one.
    assert any(question == question.lower() for question in made)
    assert any(not question.endswith(("?", ".")) for question in made)
    assert any(re.search("kindly|Could you please|grateful|May I|would like|interested", q) for q in made)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_frames_are_never_taught(kind: Kind, seed: int) -> None:
    held, learnt = (frames.frames_of(kind, held_out=side, seed=seed) for side in (True, False))
    assert held and learnt and not set(held) & set(learnt)
    assert set(held) | set(learnt) == set(frames.FRAMES[kind])
    asked = [set(frames.questions(WORDINGS[kind], name="a", seed=seed, held_out=side)) for side in (True, False)]
    assert not {plain(question) for question in asked[0]} & {plain(question) for question in asked[1]}
    # Nearly the same is not enough of a difference either: the gate drops what is left.
    pairs = [(one, other) for one in sorted(asked[0])[:40] for other in sorted(asked[1])[:40]]
    assert sum(near.alike(plain(one), plain(other)) for one, other in pairs) < 0.05 * len(pairs)


def test_a_slip_is_one_and_spares_what_matters() -> None:
    text, keep = "please serialize the Kettlewren dictionary as 149 strings", frozenset(["serialize"])
    slipped = {english.with_slip(text, random.Random(n), keep=keep) for n in range(60)}
    assert len(slipped) > 15
    for one in slipped:
        words = one.split()
        assert sum(a != b for a, b in zip(words, text.split(), strict=True)) == 1
        assert {"serialize", "Kettlewren", "149"} <= set(words)


def test_a_verb_is_exchanged_only_where_one_stands() -> None:
    drawn = {english.exchanged("list the list and sort it", random.Random(n), verb_first=True) for n in range(60)}
    assert "enumerate the list and sort it" in drawn and "list the list and order it" in drawn
    assert not any("the enumerate" in one for one in drawn)
    assert {english.exchanged("find out why", random.Random(n), verb_first=True) for n in range(9)} == {
        "determine why", "figure out why"
    }  # fmt: skip
    assert english.exchanged("a list", random.Random(0), verb_first=False) == "a list"


@pytest.mark.parametrize(
    ("verb", "form"), [("turn", "turning"), ("make", "making"), ("cut", "cutting"), ("tie", "tying"), ("see", "seeing")]
)
def test_gerunds(verb: str, form: str) -> None:
    assert english.gerund(f"{verb} it") == f"{form} it"
    assert english.gerund("turn it and cut it") == "turning it and cutting it"


def test_third_persons_go_there_and_back() -> None:
    assert [english.third_person(verb) for verb in ("cost", "pass", "carry", "play", "have")] == [
        "costs", "passes", "carries", "plays", "has"
    ]  # fmt: skip
    assert all(english.base_form(english.third_person(verb)) for verb in sorted(english.VERBS))
