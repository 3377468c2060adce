"""What a reward is: a number for a reply to a prompt, given what a right answer comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fledge.errors import ConfigError, RewardError
from fledge.records import Message

# (prompt, reply, answer) -> worth. Any finite number; 0 to 1 is what people expect.
Function = Callable[[str, str, str], float]
SHOWN_CHARS = 60


@dataclass(frozen=True)
class Sample:
    """A reply to be judged. `answer` is the row's, "" where it has none; `origin` the row's file:line; `what` says in
    words what kind of reply it is; `messages` are all that was said before it, where `prompt` is not all.
    """

    prompt: str
    reply: str
    answer: str
    origin: str = ""
    what: str = "a reply"
    messages: tuple[Message, ...] = ()

    @property
    def told(self) -> str:
        """The sample in a few words, for an error."""
        reply = " ".join(self.reply.split())
        cut = reply[:SHOWN_CHARS] + ("..." if len(reply) > SHOWN_CHARS else "")
        return f"on {self.what} to {self.origin or 'a prompt'}: {cut!r}"


class Reward(Protocol):
    """A reward under its name."""

    @property
    def name(self) -> str: ...

    def score(self, sample: Sample) -> float:
        """Return what the reply is worth, finite. Raises RewardError("reward.failed") where that can't be said."""


@runtime_checkable
class Together(Reward, Protocol):
    """A reward that judges many replies faster than one by one."""

    def score_all(self, samples: Sequence[Sample]) -> Iterator[float | RewardError]:
        """Yield what each sample is worth, or why that can't be said."""


def score_all(reward: Reward, samples: Sequence[Sample]) -> Iterator[float | RewardError]:
    """Yield what each sample is worth to a reward, or why that can't be said, each when it is asked for."""
    if isinstance(reward, Together):
        yield from reward.score_all(samples)
        return
    for sample in samples:
        try:
            yield reward.score(sample)
        except RewardError as error:
            yield error


@dataclass(frozen=True)
class Known:
    """A reward of fledge's own, run in this process; its function raises ValueError with words where it can't say."""

    name: str
    function: Function

    def score(self, sample: Sample) -> float:
        try:
            value = float(self.function(sample.prompt, sample.reply, sample.answer))
        except ValueError as error:
            raise RewardError("reward.failed", f"{error}, {sample.told}.", where=self.name,
                              remedy="Mend the row or take another reward.") from error  # fmt: skip
        assert math.isfinite(value), self.name
        return value


def weights_for(rewards: Sequence[Reward], weights: Sequence[float]) -> list[float]:
    """Return a weight for each reward, 1 where none are given. Raises ConfigError for weights that can't be meant."""
    if not weights:
        return [1.0] * len(rewards)
    if len(weights) != len(rewards):
        names = ", ".join(reward.name for reward in rewards)
        raise ConfigError("config.bad_value", f"{len(weights)} weights for {len(rewards)} rewards ({names}).",
                          where="--weights", remedy="Give one for each, in this order.")  # fmt: skip
    if not all(map(math.isfinite, weights)) or not any(weights):
        raise ConfigError("config.bad_value", f"{', '.join(map(str, weights))} can't be weights.", where="--weights",
                          remedy="Give finite numbers, one of them other than 0.")  # fmt: skip
    return list(weights)
