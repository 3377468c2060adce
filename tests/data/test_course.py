"""Which rows each epoch sees: weights, temperature, order, and that an epoch is the same whichever one begins with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.config import Config
from fledge.config_file import load_config
from fledge.data.course import Course, Task, plain, plan_course, tempered
from fledge.data.mix import shuffled
from fledge.errors import ConfigError
from fledge.recipes.prepare import read_project
from fledge.records import Example


def examples(**sizes: int) -> list[Example]:
    """Rows of some tasks; row n of a task has n + 2 tokens."""
    return [
        Example([0] * (n + 2), [0.0] + [1.0] * (n + 1), f"{task}:{n}", task=task)
        for task, size in sizes.items()
        for n in range(size)
    ]


def course(
    rows: list[Example], order: str = "shuffle", seed: int = 0, temperature: float | None = None, **weights: float
) -> Course:
    return plan_course(rows, weights=weights, temperature=temperature, order=order, seed=seed)  # type: ignore[arg-type]


@given(num_rows=st.integers(1, 80), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_without_weights_an_epoch_is_the_shuffle_that_it_always_was(num_rows: int, seed: int, epoch: int) -> None:
    assert plain(num_rows, seed=seed).epoch(epoch) == shuffled(num_rows, seed=seed, epoch=epoch)
    half = num_rows // 2
    mixed = course(examples(a=half, b=num_rows - half), seed=seed)
    assert mixed.epoch(epoch) == shuffled(num_rows, seed=seed, epoch=epoch)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    times=st.lists(st.floats(0.05, 3.5), min_size=3, max_size=3),
    epochs=st.integers(1, 12),
    order=st.sampled_from(["shuffle", "curriculum", "given"]),
)
def test_a_weight_says_how_often_a_row_is_seen(sizes: list[int], times: list[float], epochs: int, order: str) -> None:
    names = "abc"[: len(sizes)]
    rows = examples(**dict(zip(names, sizes, strict=True)))
    found = course(rows, order, **dict(zip(names, times, strict=False)))
    seen = [found.epoch(epoch) for epoch in range(epochs)]
    assert {len(epoch) for epoch in seen} == {found.rows_per_epoch}, "every epoch is equally long"
    assert [found.epoch(epoch) for epoch in reversed(range(epochs))] == seen[::-1], "no epoch depends on another"
    for name, size, weight in zip(names, sizes, times, strict=False):
        counts = Counter(row for epoch in seen for row in epoch if rows[row].task == name)
        each = [counts[row] for row in range(len(rows)) if rows[row].task == name]
        assert max(each) - min(each) <= 1, "no row is seen twice more than another"
        assert all(int(weight) * epochs <= count for count in each)
        # A fraction is drawn in whole rows, at least one of them.
        per_epoch = sum(each) / epochs
        assert abs(per_epoch - weight * size) <= max(0.5, 1 - weight * size) + 1e-9


def test_a_fraction_is_dealt_from_a_deck_until_every_row_was_seen() -> None:
    rows = examples(a=20, b=4)
    found = course(rows, a=0.25)
    drawn = [[row for row in found.epoch(epoch) if row < 20] for epoch in range(8)]
    assert all(len(epoch) == 5 for epoch in drawn)
    for four in (drawn[:4], drawn[4:]):
        assert sorted(row for epoch in four for row in epoch) == list(range(20))
    assert [set(e) for e in drawn[:4]] != [set(e) for e in drawn[4:]], "the second deck is shuffled anew"
    assert [course(rows, a=0.25, seed=1).epoch(0)] != [found.epoch(0)]


def test_weight_two_is_each_row_twice_an_epoch() -> None:
    found = course(examples(a=3, b=2), a=2)
    assert Counter(found.epoch(0)) == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1}
    assert found.rows_per_epoch == 8
    assert found.notes[0] == "task a: 3 rows, seen 2 times an epoch: 6 of an epoch's 8 rows (75%)"
    assert course(examples(a=3)).notes == []


def test_the_orders() -> None:
    rows = examples(a=4, b=3)
    assert course(rows, "given", b=2).epoch(5) == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6]
    curriculum = course(rows, "curriculum")
    first = [len(rows[row].ids) for row in curriculum.epoch(0)]
    assert first == sorted(first) == [2, 2, 3, 3, 4, 4, 5]
    assert curriculum.epoch(1) == course(rows).epoch(1), "later epochs are shuffled"
    ties = {tuple(course(rows, "curriculum", seed=seed).epoch(0)) for seed in range(20)}
    assert len(ties) > 1, "rows of one length come in a drawn order"


def test_a_temperature_makes_shares_more_equal() -> None:
    sizes = {"large": 900, "small": 100}
    assert tempered(sizes, 1) == pytest.approx({"large": 1, "small": 1})
    # 900^(1/2) : 100^(1/2) = 30 : 10 of 1000 rows
    assert tempered(sizes, 2) == pytest.approx({"large": 750 / 900, "small": 250 / 100})
    equal = tempered(sizes, 1000)
    assert {name: round(times * sizes[name]) for name, times in equal.items()} == {"large": 501, "small": 499}
    found = course(examples(large=900, small=100), temperature=2)
    assert found.rows_per_epoch == 1000
    assert sum(row >= 900 for row in found.epoch(0)) == 250
    assert course(examples(large=90, small=10), temperature=1).epoch(3) == shuffled(100, seed=0, epoch=3)


def test_the_digest_tells_courses_apart() -> None:
    rows = examples(a=4, b=3)
    kinds = [course(rows), course(rows, "given"), course(rows, a=2), course(rows, seed=1), course(rows[1:])]
    assert len({found.digest for found in kinds}) == len(kinds)
    assert course(rows).digest == course(rows).digest


def test_a_task_never_comes_to_nothing() -> None:
    assert Task("a", (0, 1, 2), 0.01).rows_per_epoch == 1
    assert Task("a", (0, 1, 2), 1.01).rows_per_epoch == 3


# What people may write by mistake, and what they are told.
MISTAKES = [
    ("{train: {a.jsonl: 0}}", "the weight of 'a.jsonl' must be a number above 0"),
    ("{train: {a.jsonl: -1}}", "the weight of 'a.jsonl' must be a number above 0"),
    ("{train: {a.jsonl: much}}", "the weight of 'a.jsonl' must be a number above 0"),
    ("{train: {a.jsonl: true}}", "the weight of 'a.jsonl' must be a number above 0"),
    ("{train: {a.jsonl: .nan}}", "the weight of 'a.jsonl' must be a number above 0"),
    ("{train: []}", "it names no file"),
    ("{train: {}}", "it names no file"),
    ("{train: [a.jsonl, a.jsonl]}", "'a.jsonl' stands twice"),
    ("{train: {a.jsonl: 1}, temperature: 2}", "data.train has weights already"),
    ("{temperature: 0.5}", "data.temperature is 0.5: input should be greater than or equal to 1"),
    ("{order: random}", "data.order is 'random': input should be 'shuffle', 'curriculum' or 'given'"),
]


@pytest.mark.parametrize(("data", "words"), MISTAKES)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, data: str, words: str) -> None:
    (tmp_path / "fledge.yaml").write_text(f"model: x\ndata: {data}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert caught.value.where == f"{tmp_path / 'fledge.yaml'}:2"
    assert words in caught.value.message
    assert "\n" not in str(caught.value)


def write_rows(folder: Path, name: str, count: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(f'{{"question": "{name} {n}?", "answer": "{n}"}}\n' for n in range(count)), encoding="utf-8"
    )


def test_tasks_are_files_and_a_folder_gives_its_weight_to_each(tmp_path: Path) -> None:
    for name, count in {"poems.jsonl": 30, "more/facts.jsonl": 60, "more/code.jsonl": 10}.items():
        write_rows(tmp_path, name, count)
    data = {"train": {"poems.jsonl": 2, "more": 0.5}}
    rows = read_project(tmp_path, Config.model_validate({"data": data}))
    assert rows.weights == {"poems.jsonl": 2, "more/facts.jsonl": 0.5, "more/code.jsonl": 0.5}
    learnt, held_out = Counter(row.task for row in rows.train), Counter(row.task for row in rows.held_out)
    assert held_out == {"poems.jsonl": 3, "more/facts.jsonl": 6, "more/code.jsonl": 1}, "a tenth of each task"
    assert learnt == {"poems.jsonl": 27, "more/facts.jsonl": 54, "more/code.jsonl": 9}


def test_a_file_named_twice_over_a_folder_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, "rows/a.jsonl", 3)
    config = Config.model_validate({"data": {"train": ["rows", "rows/a.jsonl"]}})
    with pytest.raises(ConfigError, match=r"'rows' and 'rows/a.jsonl' both hold a.jsonl"):
        read_project(tmp_path, config)


def test_held_out_rows_may_stand_in_several_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        write_rows(tmp_path, name, 3)
    config = Config.model_validate({"data": {"train": "a.jsonl", "eval": ["b.jsonl", "c.jsonl"]}})
    rows = read_project(tmp_path, config)
    assert Counter(row.task for row in rows.held_out) == {"b.jsonl": 3, "c.jsonl": 3}
