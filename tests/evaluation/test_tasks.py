"""evaluate(): order, totals, the interval of the accuracy with and without groups, and the rows file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fledge.errors import DataError
from fledge.evaluation.proportion import effective_rows, number_groups, wilson
from fledge.evaluation.scorers import Template
from fledge.evaluation.tasks import evaluate, write_rows
from fledge.records import Conversation, FinishReason, Message, Reply


def rows(num: int, *, per_group: int = 0) -> list[Conversation]:
    return [
        Conversation(
            (Message("system", "Be brief."), Message("user", f"Say {i}"), Message("assistant", f"{i}")),
            f"eval.jsonl:{i + 1}",
            group=f"topic {i // per_group}" if per_group else None,
        )
        for i in range(num)
    ]


def saying(word: Callable[[str], str], *, finish: FinishReason = FinishReason.STOP) -> Callable[..., list[Reply]]:
    """An `Ask` that answers each conversation with `word` of its last message, three tokens each."""

    def ask(conversations: Sequence[Sequence[Message]]) -> list[Reply]:
        return [Reply(word(c[-1].content), finish, 9, 3, 1.0, 0.1) for c in conversations]

    return ask


def test_totals_and_rows_keep_the_order() -> None:
    def word(user: str) -> str:
        number = user.removeprefix("Say ")
        return number if int(number) % 4 else "no idea"

    got = evaluate(rows(40), saying(word), scorer="exact", template=Template(r"\d+"))
    assert (got.accuracy, got.template_adherence, got.stopped, got.scorer) == (0.75, 0.75, 1.0, "exact")
    assert got.tokens_per_s > 0
    assert [result.origin for result in got.rows] == [f"eval.jsonl:{i}" for i in range(1, 41)]
    assert [result.correct for result in got.rows] == [bool(i % 4) for i in range(40)]
    first = got.rows[1]
    assert first.prompt == (Message("system", "Be brief."), Message("user", "Say 1"))
    assert (first.expected, first.reply, first.adheres, first.stopped, first.tokens) == ("1", "1", True, True, 3)


def test_without_a_template_there_is_no_adherence_and_a_cut_reply_did_not_stop() -> None:
    got = evaluate(rows(5), saying(lambda user: "", finish=FinishReason.LENGTH), scorer="contains")
    assert got.template_adherence is None
    assert {result.adheres for result in got.rows} == {None}
    assert (got.accuracy, got.stopped) == (0.0, 0.0)


def test_no_rows_is_an_error_and_a_lost_reply_is_a_fault() -> None:
    with pytest.raises(DataError) as caught:
        evaluate([], saying(str), scorer="exact")
    assert caught.value.code == "data.empty"
    with pytest.raises(ValueError, match="shorter"):
        evaluate(rows(3), lambda conversations: saying(str)(conversations)[:2], scorer="exact")


def test_rows_file_gives_back_every_character(tmp_path: Path) -> None:
    nasty = '\ud83d "quoted" \\ \n \u2028 \U0001f525 gr\u00fc\u00df'
    got = evaluate(rows(3), saying(lambda user: nasty), scorer="exact")
    path = tmp_path / "rows.jsonl"
    write_rows(got, path)
    with path.open(encoding="utf-8", newline="\n") as file:
        read = [json.loads(line) for line in file]
    assert [line["reply"] for line in read] == [nasty] * 3
    assert read[0]["prompt"][1] == {"role": "user", "content": "Say 0"}
    assert "gr\u00fc\u00df" in path.read_text(encoding="utf-8"), "readable where it can be"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(counts: tuple[int, int]) -> None:
    correct, num = counts
    oracle = stats.binomtest(correct, num).proportion_ci(0.95, method="wilson")
    assert wilson(correct / num, num) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([None, "a", "b", "c", "d"])), min_size=1, max_size=60))
def test_effective_rows_lie_between_whole_groups_and_rows(drawn: list[tuple[bool, str | None]]) -> None:
    values, groups = np.array([value for value, _ in drawn], dtype=float), number_groups([group for _, group in drawn])
    sizes = np.bincount(groups)
    assert len(values) ** 2 / (sizes**2).sum() - 1e-9 <= effective_rows(values, groups) <= len(values) + 1e-9
    alone = number_groups([None] * len(values))
    assert effective_rows(values, alone) == pytest.approx(len(values)), "rows without groups count in full"


@given(st.lists(st.booleans(), min_size=2, max_size=30), st.integers(2, 6))
def test_copies_of_a_row_are_no_new_evidence(values: list[bool], copies: int) -> None:
    copied = np.repeat(np.array(values, dtype=float), copies)
    groups = number_groups([str(i // copies) for i in range(copied.size)])
    assert effective_rows(copied, groups) == pytest.approx(len(values))


def test_grouped_rows_widen_the_interval() -> None:
    def half_the_groups(user: str) -> str:
        number = int(user.removeprefix("Say "))
        return str(number) if number // 5 % 2 else "wrong"

    alone = evaluate(rows(100), saying(half_the_groups), scorer="exact")
    grouped = evaluate(rows(100, per_group=5), saying(half_the_groups), scorer="exact")
    assert grouped.accuracy == alone.accuracy
    assert grouped.interval == pytest.approx(wilson(0.5, 20))
    assert grouped.interval[0] < alone.interval[0] < alone.interval[1] < grouped.interval[1]


def coverage(share: float, *, num_groups: int, size: int, alike: float, grouped: bool, seed: int = 5) -> float:
    """How often 1,000 intervals hold the truth, when rows of a group correlate with `alike` (beta-binomial)."""
    rng, held = np.random.default_rng(seed), 0
    concentration = (1 - alike) / alike
    group_R = np.repeat(np.arange(num_groups), size)
    for _ in range(1_000):
        chance_G = rng.beta(share * concentration, (1 - share) * concentration, num_groups)
        values_R = (rng.random(group_R.size) < chance_G[group_R]).astype(float)
        num = effective_rows(values_R, group_R) if grouped else values_R.size
        low, high = wilson(values_R.mean(), num)
        held += low <= share <= high
    return held / 1_000


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(("num_groups", "size", "alike"), [(100, 1, 0.5), (30, 4, 0.3), (50, 3, 0.8), (60, 8, 0.1)])
def test_the_interval_holds_the_truth_in_95_of_100(share: float, num_groups: int, size: int, alike: float) -> None:
    assert 0.92 <= coverage(share, num_groups=num_groups, size=size, alike=alike, grouped=True) <= 0.98


def test_negative_control_an_interval_that_ignores_groups_does_not() -> None:
    assert coverage(0.5, num_groups=50, size=3, alike=0.8, grouped=False) < 0.85
