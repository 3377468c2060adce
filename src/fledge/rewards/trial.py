"""Rewards tried before they are trained on: do they tell good replies from bad, and samples of one prompt apart?

What a policy learns from is the difference between replies to one prompt (group-relative advantages, Shao et al. 2024,
arXiv 2402.03300): a group in which all get the same teaches nothing, however high the reward is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from fledge.errors import RewardError
from fledge.rewards.record import Reward, Sample, score_all

# Rounding in a sum of weighted rewards is no difference.
NOISE = 1e-9
# A reward that failed so often is not called any more: the verdict is known, and each failure may take seconds.
MAX_ERRORS = 10
# From here on a run spends most of its time on prompts that teach nothing.
SHARE_WORTH_A_WORD = 0.5

Groups = Sequence[Sequence[Sample]]
Progress = Callable[[int, int], None]


class Verdict(StrEnum):
    USABLE = "usable"
    FAILS = "fails"
    NEVER_VARIES = "never_varies"
    GOOD_NOT_BETTER = "good_not_better"
    ALWAYS_RIGHT = "always_right"

    @property
    def refuses(self) -> bool:
        """Whether training on it would be refused."""
        return self is not Verdict.USABLE


@dataclass(frozen=True)
class Figures:
    """What one reward, or their weighted sum, gave. None where there was nothing to judge.

    good, bad, samples: means over replies. spread: mean standard deviation within the groups of one prompt.
    flat_groups: share, 0..1, of the groups whose replies all got the same. values: what samples got; without any, what
    good and bad replies got. constant: whether all of them, good, bad and sampled, got the same.
    """

    name: str
    good: float | None
    bad: float | None
    samples: float | None
    spread: float | None
    flat_groups: float | None
    constant: bool
    values: tuple[float, ...] = ()
    errors: tuple[RewardError, ...] = ()


@dataclass(frozen=True)
class Trial:
    """The figures of each reward and of their sum, and what they come to. `notes` are worth knowing all the same."""

    rewards: tuple[Figures, ...]
    total: Figures
    verdict: Verdict
    why: str
    notes: tuple[str, ...] = ()


@dataclass
class _Given:
    """What a reward gave: None where it failed."""

    good: list[float | None] = field(default_factory=list)
    bad: list[float | None] = field(default_factory=list)
    groups: list[list[float | None]] = field(default_factory=list)


def try_rewards(
    rewards: Sequence[Reward],
    weights: Sequence[float],
    *,
    good: Sequence[Sample],
    bad: Sequence[Sample],
    groups: Groups,
    progress: Progress = lambda done, total: None,
) -> Trial:
    """Return how the rewards judge good replies, bad ones and groups of replies to one prompt (empty: not sampled)."""
    assert rewards and len(rewards) == len(weights), "one weight for each reward"
    total = len(rewards) * (len(good) + len(bad) + sum(map(len, groups)))
    done = 0
    given: list[_Given] = []
    figures: list[Figures] = []
    for reward in rewards:
        errors: list[RewardError] = []
        samples = [*good, *bad, *(sample for group in groups for sample in group)]
        found = score_all(reward, samples)
        values: list[float | None] = []
        for _ in samples:
            done += 1
            progress(done, total)
            value = next(found) if len(errors) < MAX_ERRORS else None
            if isinstance(value, RewardError):
                errors.append(value)
            values.append(None if isinstance(value, RewardError) else value)
        own = _parted(values, len(good), len(bad), [len(group) for group in groups])
        given.append(own)
        figures.append(_figures(reward.name, own, errors))
    summed = _figures("total", _sum(given, weights), [])
    verdict, why = _judge(figures, summed)
    return Trial(tuple(figures), summed, verdict, why, _notes(summed) if verdict is Verdict.USABLE else ())


def _parted(values: Sequence[float | None], good: int, bad: int, groups: Sequence[int]) -> _Given:
    """Return what was given for so many good replies, then bad ones, then groups."""
    rest = iter(values)
    first, second = list(islice(rest, good)), list(islice(rest, bad))
    return _Given(first, second, [list(islice(rest, count)) for count in groups])


def _sum(given: Sequence[_Given], weights: Sequence[float]) -> _Given:
    def add(columns: Sequence[Sequence[float | None]]) -> list[float | None]:
        return [_weighted(values, weights) for values in zip(*columns, strict=True)]

    by_group = zip(*(own.groups for own in given), strict=True)
    return _Given(
        add([own.good for own in given]), add([own.bad for own in given]), [add(columns) for columns in by_group]
    )


def _weighted(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(w * v for w, v in zip(weights, known, strict=True)) if len(known) == len(values) else None


def _figures(name: str, given: _Given, errors: Sequence[RewardError]) -> Figures:
    good, bad = _known(given.good), _known(given.bad)
    groups = [known for group in given.groups if (known := _known(group))]
    samples = [value for group in groups for value in group]
    return Figures(
        name=name,
        good=_mean(good),
        bad=_mean(bad),
        samples=_mean(samples),
        spread=_mean([statistics.pstdev(group) for group in groups]),
        flat_groups=_mean([float(_flat(group)) for group in groups]),
        constant=_flat([*good, *bad, *samples]),
        values=tuple(samples or [*good, *bad]),
        errors=tuple(errors),
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _flat(values: Sequence[float]) -> bool:
    return not values or max(values) - min(values) <= NOISE


def _judge(figures: Sequence[Figures], total: Figures) -> tuple[Verdict, str]:
    """Return the verdict on the sum of the rewards, with the reason and what to change."""
    if errors := [error for each in figures for error in each.errors]:
        ended = " and more" if any(len(each.errors) == MAX_ERRORS for each in figures) else ""
        replies = "1 reply" if len(errors) == 1 else f"{len(errors)} replies"
        return Verdict.FAILS, f"{replies}{ended} could not be judged. The first: {errors[0]}"
    if total.constant and total.values:
        return _never(f"every reply, whatever it says, gets {total.values[0]:.3g}")
    if total.good is not None and total.bad is not None and total.good <= total.bad + NOISE:
        return Verdict.GOOD_NOT_BETTER, (
            f"the rows' own answers get {total.good:.3g} in the mean and bad ones {total.bad:.3g}: it would teach the "
            "wrong thing. Look at what it gives for single rows, and at the rows' answers."
        )
    if total.flat_groups is None or total.flat_groups < 1:
        return Verdict.USABLE, _usable(total)
    if total.good is not None and min(total.values) >= total.good - NOISE:
        return Verdict.ALWAYS_RIGHT, (
            f"every sample of the model already gets {total.good:.3g} or more, as much as the rows' own answers: "
            "nothing is left to learn. Take harder prompts, or a reward that asks for more."
        )
    return _never(f"all samples of a prompt get the same, for each prompt (mean {total.samples:.3g})")


NO_DIFFERENCE = "without a difference nothing can be learnt"
MORE_DIFFERENCE = (
    "Take easier prompts, give partial credit for a step in the right direction, raise the temperature, or teach some "
    "answers with sft first."
)


def _never(what: str) -> tuple[Verdict, str]:
    return Verdict.NEVER_VARIES, f"{what}; {NO_DIFFERENCE}. {MORE_DIFFERENCE}"


def _usable(total: Figures) -> str:
    parts = []
    if total.good is not None and total.bad is not None:
        parts.append(f"good answers get {total.good:.3g} in the mean, bad ones {total.bad:.3g}")
    if total.flat_groups is not None:
        parts.append(f"samples of one prompt differ in {1 - total.flat_groups:.0%} of the groups")
    else:
        parts.append("the model was not sampled, so whether its replies differ is not known")
    return "; ".join(parts) + "."


def _notes(total: Figures) -> tuple[str, ...]:
    if total.flat_groups is not None and total.flat_groups > SHARE_WORTH_A_WORD:
        return (
            f"{total.flat_groups:.0%} of the prompts teach nothing, since all samples of each get the same: easier "
            "prompts or partial credit would make a run faster",
        )
    return ()
