"""What a reward is told to be good for, on replies whose worth is known."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from fledge.errors import RewardError
from fledge.rewards.record import Known, Sample
from fledge.rewards.trial import MAX_ERRORS, Trial, Verdict, try_rewards

Worth = Callable[[str], float]


def sample(reply: str) -> Sample:
    return Sample("p", reply, "a", "rows.jsonl:1")


GOOD, BAD = [sample("good"), sample("good")], [sample("bad"), sample("")]


def tried(worth: Worth | list[Worth], *groups: str, weights: tuple[float, ...] = (), good: bool = True) -> Trial:
    """Return the trial of rewards on the rows and on samples: each group is words, one a reply."""
    worths = worth if isinstance(worth, list) else [worth]
    rewards = [Known(f"r{n}", lambda p, r, a, w=w: w(r)) for n, w in enumerate(worths)]
    return try_rewards(
        rewards, weights or [1.0] * len(rewards), good=GOOD if good else [], bad=BAD if good else [],
        groups=[[sample(word) for word in group.split()] for group in groups],
    )  # fmt: skip


def is_good(reply: str) -> float:
    return float(reply == "good")


@pytest.mark.parametrize(
    ("worth", "groups", "expected", "why"),
    [
        (is_good, ["good x", "x x"], Verdict.USABLE, "samples of one prompt differ in 50% of the groups"),
        (is_good, [], Verdict.USABLE, "the model was not sampled"),
        (is_good, ["x x", "y z"], Verdict.NEVER_VARIES, "partial credit"),
        (is_good, ["good good", "x x"], Verdict.NEVER_VARIES, "raise the temperature"),
        (is_good, ["good good"], Verdict.ALWAYS_RIGHT, "nothing is left to learn. Take harder prompts"),
        (lambda reply: 0.3, [], Verdict.NEVER_VARIES, "every reply, whatever it says, gets 0.3"),
        (lambda reply: -is_good(reply), ["good x"], Verdict.GOOD_NOT_BETTER, "it would teach the wrong thing"),
        (lambda reply: float(len(reply) % 2), ["x yy"], Verdict.GOOD_NOT_BETTER, "bad ones 0.5"),
    ],
)
def test_the_verdict(worth: Worth, groups: list[str], expected: Verdict, why: str) -> None:
    trial = tried(worth, *groups)
    assert trial.verdict is expected
    assert why in trial.why
    assert trial.verdict.refuses is (expected is not Verdict.USABLE)


def test_a_constant_is_not_called_wrong_but_without_use() -> None:
    assert tried(lambda reply: 1.0, "x y").verdict is Verdict.NEVER_VARIES
    assert tried(lambda reply: 1.0, "x y", good=False).verdict is Verdict.NEVER_VARIES


def test_the_figures_are_those_of_statistics() -> None:
    groups = ["a bbb", "cc dddd e", "ff ff"]
    trial = tried(lambda reply: float(len(reply)), *groups)
    lengths = [[float(len(word)) for word in group.split()] for group in groups]
    [figures] = trial.rewards
    assert figures == trial.total.__class__(**vars(trial.total) | {"name": "r0"})
    assert figures.samples == statistics.fmean([n for group in lengths for n in group])
    assert figures.spread == pytest.approx(statistics.fmean([statistics.pstdev(group) for group in lengths]))
    assert figures.flat_groups == pytest.approx(1 / 3)
    assert (figures.good, figures.bad) == (4.0, 1.5)


def test_the_sum_is_weighted() -> None:
    trial = tried([is_good, lambda reply: float(len(reply))], "good x", weights=(2.0, 0.5))
    assert trial.total.good == 2 + 0.5 * 4
    assert trial.total.bad == 0.5 * 1.5
    assert trial.total.samples == (2 + 2 + 0.5) / 2


def test_rewards_that_cancel_each_other_vary_in_vain() -> None:
    trial = tried([is_good, lambda reply: 1 - is_good(reply)], "good x", good=False)
    assert [each.flat_groups for each in trial.rewards] == [0, 0]
    assert trial.total.flat_groups == 1
    assert trial.verdict.refuses


def test_rounding_is_no_difference() -> None:
    trial = tried(lambda reply: 0.1 + 0.2 if reply == "x" else 0.3, "x y", good=False)
    assert trial.total.flat_groups == 1


def test_one_failure_is_enough_and_many_end_it() -> None:
    calls = []

    def worth(reply: str) -> float:
        calls.append(reply)
        raise ValueError("it says nothing")

    trial = tried([worth, is_good], "x " * 40)
    assert trial.verdict is Verdict.FAILS
    assert f"{MAX_ERRORS} replies and more could not be judged. The first: r0: it says nothing" in trial.why
    assert len(calls) == MAX_ERRORS == len(trial.rewards[0].errors)
    assert all(isinstance(error, RewardError) for error in trial.rewards[0].errors)
    assert trial.rewards[1].good == 1, "the others are judged all the same"
    assert trial.total.good is None


def test_few_groups_that_differ_are_worth_a_note() -> None:
    assert "67% of the prompts teach nothing" in tried(is_good, "good x", "x x", "y y").notes[0]
    assert tried(is_good, "good x", "x x").notes == ()


def test_progress_counts_every_call() -> None:
    told: list[tuple[int, int]] = []
    try_rewards([Known("a", lambda *_: 1.0)] * 2, [1, 1], good=GOOD, bad=BAD, groups=[GOOD],
                progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert told == [(n, 12) for n in range(1, 13)]
