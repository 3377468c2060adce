"""The quality gate: each reason is met by a row that has that fault and no other."""

from __future__ import annotations

import dataclasses

import pytest

from fledge.data.synth.answers import learn
from fledge.data.synth.gate import Candidate, Gate, Reason
from fledge.data.synth.material import Side, Source

PRICE = Source(
    group="price",
    text="The Kettlewren costs 149 euros.",
    where="facts.txt:1",
    keys=("149 euros",),
    wordings=("What does the Kettlewren cost?",),
    values=("The Kettlewren costs 149 euros.",),
)
PASSAGE = Source("p#1", "The lamp of the tower is trimmed at dusk by its keeper.", "p.md:1", own=False)
TEMPLATE = learn([("a", "It is red. Ahoy."), ("b", "It floats. Ahoy.")], sentences=True)


def candidate(question: str, **changes: object) -> Candidate:
    said = Candidate(PRICE, Side.TRAIN, question, "", ("The Kettlewren costs 149 euros.",))
    said = dataclasses.replace(said, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(said, answer=said.answer or TEMPLATE.render(question, said.values))


def of_passage(question: str, answer: str, quote: str) -> Candidate:
    return candidate(question, source=PASSAGE, values=(answer,), quote=quote)


def gate() -> Gate:
    return Gate(TEMPLATE, language="en")


GOOD = [
    candidate("How much is the Kettlewren?"),
    candidate("whats the cost of a kettlewren"),
    of_passage("When is the lamp trimmed?", "It is trimmed at dusk.", "trimmed at dusk"),
]
FAULTS = {
    "nothing asked": (candidate("?!"), Reason.LENGTH),
    "a page": (candidate("What does the Kettlewren cost? " * 20), Reason.LENGTH),
    "two paragraphs": (candidate("Hello!\n\nWhat does the Kettlewren cost?"), Reason.LENGTH),
    "refusal": (candidate("As an AI language model I cannot ask what a Kettlewren costs."), Reason.REFUSAL),
    "no answer in it": (
        of_passage("How heavy is the lamp?", "The passage does not say that.", "the lamp"),
        Reason.REFUSAL,
    ),
    "another language": (
        candidate("Können Sie mir bitte sagen, wie viel der Kettlewren bei euch kostet und ob er auch gut ist?"),
        Reason.LANGUAGE,
    ),
    "no sign-off": (
        candidate("How much is a Kettlewren?", answer="The Kettlewren costs 149 euros."),
        Reason.OFF_TEMPLATE,
    ),
    "another price": (
        candidate("How much is a Kettlewren?", values=("The Kettlewren costs 194 euros.",)),
        Reason.FACT_LOST,
    ),
    "made up": (
        of_passage("Who trims the lamp?", "Captain Nemo and his seven sailors.", "its keeper"),
        Reason.FACT_LOST,
    ),
    "no such quote": (
        of_passage("When is the lamp trimmed?", "The lamp is trimmed at dusk.", "at dawn"),
        Reason.NOT_ANSWERABLE,
    ),
    "about something else": (candidate("Who won the football match yesterday?"), Reason.NOT_ANSWERABLE),
    "says it already": (candidate("Does the Kettlewren cost 149 euros?"), Reason.GIVES_AWAY),
}


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row.question)
def test_a_good_row_is_kept(row: Candidate) -> None:
    assert gate().judge(row) is None


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(name: str) -> None:
    row, reason = FAULTS[name]
    assert gate().judge(row) is reason


def test_what_comes_again() -> None:
    judge = gate().judge
    other = dataclasses.replace(PRICE, group="other", text="The Kettlewren costs 149 euros, they say.")
    assert judge(candidate("How much is the Kettlewren?")) is None
    assert judge(candidate("how much is the kettlewren")) is Reason.DUPLICATE
    assert judge(candidate("How mcuh is the Kettlewren?")) is Reason.NEAR_DUPLICATE
    again = candidate("How much is the Kettlewren?", source=other, values=("It costs 149 euros, they say.",))
    assert judge(again) is Reason.CONTRADICTION
    held = dataclasses.replace(candidate("How much is the Kettlewren!"), side=Side.EVAL)
    assert judge(held) is Reason.LEAK
    # What was dropped is not remembered.
    assert judge(candidate("Which price has the Kettlewren?")) is None


def test_a_question_in_the_users_own_words_may_name_the_key() -> None:
    own = dataclasses.replace(PRICE, wordings=("Is it 149 euros for a Kettlewren?",))
    assert gate().judge(candidate("So, is it 149 euros for a Kettlewren?", source=own)) is None


def test_who_are_you_has_no_word_to_share() -> None:
    who = Source("who", "Who are you?\nMara.", "s:1", wordings=("Who are you?",), values=("Mara.",))
    assert gate().judge(candidate("Tell me who you are.", source=who, values=("Mara.",))) is None


def test_thousands_of_rows_are_compared_with_all_before() -> None:
    judge = gate().judge
    words = [f"{a}{b}" for a in ("red", "blue", "green", "black", "white") for b in range(60)]
    kept = [judge(candidate(f"What does the {word} Kettlewren cost?")) for word in words]
    assert kept.count(None) == 300
    assert judge(candidate("What does the white33 Kettlewren cost")) is Reason.DUPLICATE
    assert judge(candidate("Waht does the white33 Kettlewren cost?")) is Reason.NEAR_DUPLICATE
