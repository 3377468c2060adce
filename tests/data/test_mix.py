"""In which order rows are learnt, and what stands before them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fledge.data.mix import shuffled, with_system
from fledge.records import Conversation, Message


def row(number: int, *, question: str | None = None, group: str | None = None) -> Conversation:
    messages = (Message("user", question or f"question {number}"), Message("assistant", f"answer {number}"))
    return Conversation(messages, f"rows:{number}", group=group)


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
