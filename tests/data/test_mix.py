"""Which rows are held out, and in which order the others are learnt."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fledge.data.mix import shuffled, split, with_system
from fledge.records import Conversation, Message


def row(number: int, *, question: str | None = None, group: str | None = None) -> Conversation:
    messages = (Message("user", question or f"question {number}"), Message("assistant", f"answer {number}"))
    return Conversation(messages, f"rows:{number}", group=group)


ROWS = st.lists(
    st.tuples(st.integers(0, 12), st.one_of(st.none(), st.sampled_from("ABCDEFGH"))), min_size=2, max_size=60
).map(lambda drawn: [row(n, question=f" Question {q}", group=g) for n, (q, g) in enumerate(drawn)])


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 3), share=st.floats(0, 0.9))
def test_split_parts_the_rows_but_never_a_group_or_a_question(
    rows: list[Conversation], seed: int, share: float
) -> None:
    train, held_out = split(rows, share=share, seed=seed)
    assert sorted(r.origin for r in (*train, *held_out)) == sorted(r.origin for r in rows)
    assert train, "something is left to learn from"
    for side in (train, held_out):
        assert [r.origin for r in side] == [r.origin for r in rows if r in side], "order is kept"
    for key in (lambda r: r.group, lambda r: r.messages[0].content):
        parted = {key(r) for r in train} & {key(r) for r in held_out}
        assert parted <= {None}
    assert len(held_out) <= 2 * round(share * len(rows))


def test_questions_are_equal_whatever_their_case_and_outer_spaces() -> None:
    rows = [row(n, question=["What?", " what? ", "WHAT?"][n % 3]) for n in range(30)] + [row(n) for n in range(30, 60)]
    for seed in range(20):
        train, held_out = split(rows, share=0.9, seed=seed)
        for side in (train, held_out):
            assert sum(r.messages[0].content.strip().lower() == "what?" for r in side) in (0, 30)


def test_a_group_larger_than_what_is_wanted_stays_with_the_training_rows() -> None:
    rows = [row(n, group="most of it") for n in range(90)] + [row(n) for n in range(90, 100)]
    for seed in range(20):
        train, held_out = split(rows, share=0.05, seed=seed)
        assert (len(train), len(held_out)) == (95, 5)


def test_the_share_is_met_and_the_seed_decides() -> None:
    rows = [row(n) for n in range(200)]
    sides = [frozenset(r.origin for r in split(rows, share=0.1, seed=seed)[1]) for seed in range(5)]
    assert {len(side) for side in sides} == {20}
    assert len(set(sides)) == 5
    assert split(rows, share=0.1, seed=3) == split(rows, share=0.1, seed=3)
    assert split(rows, share=0.0, seed=0) == (rows, [])


@settings(max_examples=50, deadline=None)
@given(num_rows=st.integers(20, 300), added=st.integers(1, 50), seed=st.integers(0, 5))
def test_adding_rows_moves_few_others(num_rows: int, added: int, seed: int) -> None:
    assume(added <= num_rows)
    before = {r.origin for r in split([row(n) for n in range(num_rows)], share=0.1, seed=seed)[1]}
    after = {r.origin for r in split([row(n) for n in range(num_rows + added)], share=0.1, seed=seed)[1]}
    moved = {origin for origin in before ^ after if int(origin.split(":")[1]) < num_rows}
    # The held-out rows are the first of a ranking: a new row can only push in between and lengthen or shorten the list.
    assert len(moved) <= added


@given(num_rows=st.integers(0, 200), seed=st.integers(0, 100), epoch=st.integers(0, 100))
def test_an_epoch_sees_every_row_once_in_an_order_that_seed_and_epoch_decide(
    num_rows: int, seed: int, epoch: int
) -> None:
    order = shuffled(num_rows, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(num_rows))
    assert order == shuffled(num_rows, seed=seed, epoch=epoch)
    if num_rows > 20:
        assert order != shuffled(num_rows, seed=seed, epoch=epoch + 1)
        assert order != shuffled(num_rows, seed=seed + 1, epoch=epoch)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert shuffled(10, seed=0, epoch=0) == [2, 5, 7, 4, 1, 3, 9, 8, 6, 0]


def test_a_system_prompt_goes_before_rows_that_have_none() -> None:
    own = Conversation((Message("system", "mine"), *row(0).messages), "rows:0", "x", "g")
    plain = Conversation(row(1).messages, "rows:1", "x", "g")
    with_own, with_ours = with_system([own, plain], "ours")
    assert with_own == own
    assert with_ours == Conversation((Message("system", "ours"), *plain.messages), "rows:1", "x", "g")
    assert with_system([own, plain], None) == [own, plain]


def test_a_system_message_takes_nothing_away_from_a_row() -> None:
    row = Conversation((Message("user", "Q"), Message("assistant", "A")), "r:1", "A", "g", tools="[]")
    (found,) = with_system([row], "Be brief.")
    assert found == replace(row, messages=(Message("system", "Be brief."), *row.messages))
