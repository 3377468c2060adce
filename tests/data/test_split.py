"""Which rows are held out: never one that is tied to a learnt one; the share is met, the seed decides."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fledge.data.checks import repeats
from fledge.data.split import record, split, split_records
from fledge.records import Conversation, Message, Record, Text


def row(number: int, *, question: str | None = None, group: str | None = None) -> Conversation:
    messages = (Message("user", question or f"question {number}"), Message("assistant", f"answer {number}"))
    return Conversation(messages, f"rows:{number}", group=group)


ROWS = st.lists(
    st.tuples(st.integers(0, 12), st.one_of(st.none(), st.sampled_from("ABCDEFGH"))), min_size=2, max_size=60
).map(lambda drawn: [row(n, question=f" Question {q}", group=g) for n, (q, g) in enumerate(drawn)])


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 3), share=st.floats(0, 0.9))
def test_split_parts_the_rows_but_never_a_group_or_a_question(
    rows: list[Conversation], seed: int, share: float
) -> None:
    train, held_out, how = split_records(rows, share=share, seed=seed)
    assert sorted(r.origin for r in (*train, *held_out)) == sorted(r.origin for r in rows)
    assert train, "something is left to learn from"
    assert how.leaks == 0
    for side in (train, held_out):
        assert [r.origin for r in side] == [r.origin for r in rows if r in side], "order is kept"
    for key in (lambda r: r.group, lambda r: r.messages[0].content):
        parted = {key(r) for r in train} & {key(r) for r in held_out}
        assert parted <= {None}
    assert len(held_out) <= 2 * round(share * len(rows))


def test_questions_are_equal_whatever_their_case_and_outer_spaces() -> None:
    rows = [row(n, question=["What?", " what? ", "WHAT?"][n % 3]) for n in range(30)] + [row(n) for n in range(30, 60)]
    for seed in range(10):
        train, held_out, how = split_records(rows, share=0.9, seed=seed)
        for side in (train, held_out):
            assert sum(r.messages[0].content.strip().lower() == "what?" for r in side) in (0, 30)
        assert how.largest == 30
    assert how.words == "rows that 30 ask what another asks stay together"


WORDS = (
    "which", "module", "standard", "library", "would", "you", "take", "to", "read", "file", "numbers", "from",
    "another",
    "program", "quickly", "without", "asking", "every", "person", "twice",
)  # fmt: skip


def paraphrases(rng: random.Random, count: int) -> list[Conversation]:
    """Return `count` questions, each asked four times: as it is, misspelt, with small words changed, in capitals."""
    rows = []
    for number in range(count):
        topic = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=9))
        asked = [*rng.sample(WORDS, 12), topic]
        misspelt = list(asked)
        place = rng.choice([at for at, word in enumerate(asked) if len(word) > 5 and word not in (topic, "without")])
        cut = rng.randrange(1, len(misspelt[place]) - 1)
        misspelt[place] = misspelt[place][:cut] + misspelt[place][cut + 1 :]
        ways = [" ".join(asked), " ".join(misspelt), " ".join(asked) + "?", " ".join(asked).upper()]
        rows += [row(4 * number + way, question=text, group=None) for way, text in enumerate(ways)]
    rng.shuffle(rows)
    return rows


def test_what_asks_nearly_the_same_stays_on_one_side() -> None:
    rows = paraphrases(random.Random(0), 100)
    for seed in range(5):
        train, held_out, how = split_records(rows, share=0.2, seed=seed)
        assert len(held_out) == 80
        numbers = [{int(r.origin.partition(":")[2]) // 4 for r in side} for side in (train, held_out)]
        assert not numbers[0] & numbers[1]
    assert how.tied["ask or say nearly what another does"] > 0


def test_ties_reach_through_others() -> None:
    rows = [row(n, question=f"question {n // 2}", group=f"{(n + 1) // 2}") for n in range(10)]
    rows += [row(n) for n in range(10, 60)]
    for seed in range(10):
        train, held_out, _ = split_records(rows, share=0.5, seed=seed)
        assert sum(r.group is not None for r in held_out) in (0, 10)


def test_the_search_of_data_check_finds_no_leak_afterwards(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows: list[Record] = [*paraphrases(rng, 60), *(row(n, group=f"{n % 50}") for n in range(1000, 1200))]
    figures = record(rows, tmp_path)
    found = split(figures, share=0.2, seed=0)
    assert repeats.leaks(figures, ~found.held_out, found.held_out, step=lambda done, total: None) == []
    # The same search sees what parting the rows blindly would leak.
    blind = np.arange(len(rows)) % 5 == 0
    assert len(repeats.leaks(figures, ~blind, blind, step=lambda done, total: None)) > 40


def test_texts_that_are_nearly_the_same_stay_together() -> None:
    rng = random.Random(2)
    texts = []
    for number in range(40):
        words = ["".join(rng.choices("abcdefghijklmnop", k=7)) for _ in range(60)]
        texts += [Text(" ".join(words), f"a:{number}"), Text(" ".join([*words[:-1], "changed"]), f"b:{number}")]
    train, held_out, how = split_records(texts, share=0.25, seed=0)
    sides = [{text.origin.partition(":")[2] for text in side} for side in (train, held_out)]
    assert not sides[0] & sides[1] and len(held_out) == 20
    assert how.words == "rows that 80 ask or say nearly what another does stay together"


def test_a_group_larger_than_what_is_wanted_stays_with_the_training_rows() -> None:
    rows = [row(n, group="most of it") for n in range(90)] + [row(n) for n in range(90, 100)]
    for seed in range(10):
        train, held_out, _ = split_records(rows, share=0.05, seed=seed)
        assert (len(train), len(held_out)) == (95, 5)


def test_the_share_is_met_and_the_seed_decides() -> None:
    rows = [row(n) for n in range(200)]
    sides = [frozenset(r.origin for r in split_records(rows, share=0.1, seed=seed)[1]) for seed in range(5)]
    assert {len(side) for side in sides} == {20}
    assert len(set(sides)) == 5
    assert split_records(rows, share=0.1, seed=3)[:2] == split_records(rows, share=0.1, seed=3)[:2]
    assert split_records(rows, share=0.0, seed=0)[:2] == (rows, [])


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(20, 300), added=st.integers(1, 50), seed=st.integers(0, 5))
def test_adding_rows_moves_few_others(num_rows: int, added: int, seed: int) -> None:
    assume(added <= num_rows)
    before = {r.origin for r in split_records([row(n) for n in range(num_rows)], share=0.1, seed=seed)[1]}
    after = {r.origin for r in split_records([row(n) for n in range(num_rows + added)], share=0.1, seed=seed)[1]}
    moved = {origin for origin in before ^ after if int(origin.split(":")[1]) < num_rows}
    # The held-out rows are the first of a ranking: a new row can only push in between and lengthen or shorten the list.
    assert len(moved) <= added


def test_the_sides_are_the_same_on_every_machine() -> None:
    held_out = split_records([row(n) for n in range(30)], share=0.2, seed=0)[1]
    assert [r.origin for r in held_out] == ["rows:0", "rows:3", "rows:8", "rows:15", "rows:19", "rows:23"]


def test_each_task_gives_its_share() -> None:
    rows = [row(n) for n in range(240)]
    tasks = ["large" if n < 200 else "small" for n in range(240)]
    for seed in range(5):
        _, held_out, _ = split_records(rows, share=0.1, seed=seed, tasks=tasks)
        numbers = [int(r.origin.partition(":")[2]) for r in held_out]
        assert (sum(n < 200 for n in numbers), sum(n >= 200 for n in numbers)) == (20, 4)
