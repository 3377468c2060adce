"""Scorers and the template: what counts as right, what must not, and replies that mean harm."""

from __future__ import annotations

import re
import time
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fledge.errors import ConfigError, DataError
from fledge.evaluation.scorers import MAX_PATTERN_CHARS, SCORERS, Template, choose_scorer, expected, normalise
from fledge.records import Conversation, Message


def row(reply: str = "", *, answer: str | None = None, user: str = "Hi?", origin: str = "data.jsonl:1") -> Conversation:
    said = (Message("user", user), Message("assistant", reply)) if reply else (Message("user", user),)
    return Conversation(said, origin, answer=answer)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
VISIBLE = TEXT.filter(lambda text: text.strip() != "")


@given(VISIBLE, st.sampled_from(["", " ", "\n", "\r\n\t", "\u00a0"]), st.sampled_from(["", " ", "\n", "\r\n"]))
def test_exact_ignores_outer_white_space_and_line_ends_only(text: str, left: str, right: str) -> None:
    text = text.replace("\r", "")
    assume(text.strip())
    assert SCORERS["exact"](left + text.replace("\n", "\r\n") + right, row(text))


@given(VISIBLE, VISIBLE)
def test_exact_is_equality_of_the_normalised(reply: str, reference: str) -> None:
    assert SCORERS["exact"](reply, row(reference)) == (normalise(reply) == normalise(reference))


@pytest.mark.parametrize("reply", ["paris.", "Paris", "Paris .", "Par\nis.", "It is Paris."])
def test_exact_forgives_nothing_inside(reply: str) -> None:
    assert not SCORERS["exact"](reply, row("Paris."))


@given(TEXT, VISIBLE, TEXT)
def test_contains_finds_the_answer_wherever_it_stands(before: str, answer: str, after: str) -> None:
    assert SCORERS["contains"](f"{before} {answer.strip()} {after}", row("unused", answer=answer))


def test_contains_falls_back_on_the_reference_and_exact_on_the_answer() -> None:
    assert SCORERS["contains"]("Well: Paris.", row("Paris."))
    assert SCORERS["exact"]("Paris", row(answer="Paris"))
    both = row("It is Paris.", answer="Paris")
    assert (expected("exact", both), expected("contains", both)) == ("It is Paris.", "Paris")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("First 3, then 4: so it is 1,234.50 euros.", "1234.5"),
        ("The result is 1\u202f234\u202f567", "1,234,567"),
        ("#### 72", "72"),
        ("It fell to \u22125 degrees", "-5"),
        ("You owe -$5", "-5"),
        ("- 5 apples", "5"),
        ("5-3", "3"),
        ("covid-19", "19"),
        ("0.1 + 0.2 = 0.30000000000000004", "0.3"),
        ("nothing is left: 5.551115123125783e-17", "0"),
        ("half, so 50 %", "0.5"),
        ("0.5", "50%"),
        ("It is 50%.", "50"),
        ("3/4", "0.75"),
        ("It was 3/4/2024", "2024"),
        ("\u7b54\u6848\u662f42\u3002", "42"),
        ("1.5e3", "1500"),
        ("+7", "7"),
        (".5", "0.50"),
        ("it is 42.", "42"),
    ],
)
def test_number_takes_the_same_quantity(reply: str, answer: str) -> None:
    assert SCORERS["number"](reply, row(answer=answer))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("", "5"),
        ("five", "5"),
        ("5 or 6", "5"),
        ("-5", "5"),
        ("1/4", "3/4"),
        ("1/0", "1"),
        ("10000000000000000000000000000001", "10000000000000000000000000000002"),
        ("-10000000000000000000000000000001", "-10000000000000000000000000000002"),
        ("6.62607015e-34", "1.602176634e-19"),
        ("1,234", "1"),
        ("0.3001", "0.3"),
        ("50%", "5%"),
        ("CO2", "2"),
    ],
)
def test_number_refuses_another_quantity(reply: str, answer: str) -> None:
    assert not SCORERS["number"](reply, row(answer=answer))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12))
def test_number_does_not_care_how_it_is_written(value: Decimal) -> None:
    reply = f"I counted 17 and then {value:,} in all."
    assert SCORERS["number"](reply, row(answer=f"{value:f}"))
    assert SCORERS["number"](reply, row(f"The reference says {value.normalize():f}"))


@given(st.integers(), st.integers())
def test_number_of_two_whole_numbers_is_their_equality(a: int, b: int) -> None:
    assert SCORERS["number"](f"{a}", row(answer=f"{b:,}")) == (a == b)


def test_regex_must_be_found() -> None:
    assert SCORERS["regex"]("It is  Paris!", row(answer=r"(?i)\bPARIS\b"))
    assert not SCORERS["regex"]("It is Parish", row(answer=r"\bParis\b"))
    assert not SCORERS["regex"]("anything", row("a reference is no pattern"))


HOSTILE = ["", "\x00", "\ud83d", "\u202e\u0663\u0664", "9" * 3_000_000, "1," * 1_000_000, "-" * 1_000_000]
HOSTILE += [
    "1/" * 1_000_000,
    "1e999999999",
    "\r" * 1_000_000,
    "\U0001f525" * 500_000,
    "1.5" + "0" * 2_000_000,
    "9" * 1_500_000 + "/7 %",
]


@pytest.mark.parametrize("reply", HOSTILE, ids=lambda reply: f"{reply[:4]!a}x{len(reply)}")
@pytest.mark.parametrize("name", SCORERS)
def test_a_hostile_reply_is_wrong_and_quickly_so(name: str, reply: str) -> None:
    start_s = time.perf_counter()
    assert not SCORERS[name](reply, row("never", answer="777"))
    assert not Template("never").adheres(reply, row("never"))
    assert time.perf_counter() - start_s < 5


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ([None, None], "exact"),
        (["Paris", "12"], "contains"),
        (["12", None], "contains"),
        (["12", "-1,234.5 %"], "number"),
        (["12", "12 apples"], "contains"),
    ],
)
def test_auto_chooses_by_the_answers(answers: list[str | None], name: str) -> None:
    chosen, reason = choose_scorer("auto", [row("ref", answer=answer) for answer in answers])
    assert chosen == name
    assert reason


def test_an_unknown_scorer_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'contains'") as caught:
        choose_scorer("contain", [row("ref")])
    assert caught.value.code == "config.bad_value"


@pytest.mark.parametrize(
    ("score", "bad"),
    [
        ("contains", row("ref", answer=" ")),
        ("auto", row()),
        ("exact", row()),
        ("number", row("no digits here")),
        ("regex", row("ref")),
        ("regex", row(answer="(")),
    ],
)
def test_rows_that_cannot_be_judged_are_all_named(score: str, bad: Conversation) -> None:
    origins = ("data.jsonl:3", "data.jsonl:8")
    rows = [Conversation(bad.messages, origin, answer=bad.answer) for origin in origins]
    with pytest.raises(DataError) as caught:
        choose_scorer(score, rows)
    assert all(origin in str(caught.value) for origin in origins)


@given(TEXT)
def test_the_placeholder_stands_for_the_prompt_letter_for_letter(user: str) -> None:
    template = Template(r"You asked: {prompt}\. Yes!")
    as_asked = row("unused", user=user)
    assert template.adheres(f"You asked: {user}. Yes!", as_asked)
    assert template.adheres(f"\n You asked: {user.strip()}. Yes!\n", as_asked)


@given(VISIBLE, VISIBLE)
def test_the_placeholder_is_not_a_wildcard(user: str, other: str) -> None:
    assume(normalise(user) != normalise(other))
    assert not Template("<{prompt}>").adheres(f"<{normalise(other)}>", row("unused", user=normalise(user)))


def test_the_template_must_match_in_full_and_takes_the_last_question() -> None:
    template = Template(r"(?i)answer: \d+")
    assert template.adheres(" ANSWER: 42\r\n", row("unused"))
    assert not template.adheres("Answer: 42, I think", row("unused"))
    turns = (Message("user", "one"), Message("assistant", "1"), Message("user", "two"), Message("assistant", "2"))
    assert Template("{prompt}!").adheres("two!", Conversation(turns, "data.jsonl:1"))


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "a{99999999999999999999}", "{prompt}(", "(" * 5000 + ")" * 5000])
def test_a_template_that_is_no_regular_expression_is_told(pattern: str) -> None:
    with pytest.raises(ConfigError, match="evaluate.template is no regular expression"):
        Template(pattern)


def test_a_slow_pattern_never_meets_a_runaway_reply() -> None:
    slow = r"(a+)+b"
    assert re.compile(slow)
    assert not Template(slow).adheres("a" * (MAX_PATTERN_CHARS + 1), row("unused"))
    assert not SCORERS["regex"]("a" * (MAX_PATTERN_CHARS + 1), row(answer=slow))
