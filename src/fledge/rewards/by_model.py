"""A reward that another model gives: handed in as a function, since rewards know no models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fledge.errors import FledgeError, RewardError
from fledge.rewards.record import Sample

# What each of some samples is worth, all at once: prompts that they share are read once.
Worths = Callable[[Sequence[Sample]], Sequence[float]]
AT_ONCE = 64


@dataclass(frozen=True)
class ByModel:
    """The reward of a model that was taught to score answers."""

    name: str
    worths: Worths

    def score(self, sample: Sample) -> float:
        found = next(self.score_all([sample]))
        if isinstance(found, RewardError):
            raise found
        return found

    def score_all(self, samples: Sequence[Sample]) -> Iterator[float | RewardError]:
        """Yield what each sample is worth, or why that can't be said; AT_ONCE are judged together."""
        for start in range(0, len(samples), AT_ONCE):
            part = samples[start : start + AT_ONCE]
            try:
                yield from self.worths(part)
            except FledgeError as error:
                # One that is too long must not keep the others from being judged.
                yield from ([self._failed(error, part[0])] if len(part) == 1 else map(self._alone, part))

    def _alone(self, sample: Sample) -> float | RewardError:
        return next(self.score_all([sample]))

    def _failed(self, error: FledgeError, sample: Sample) -> RewardError:
        return RewardError("reward.failed", f"{error.message.rstrip('.')}, {sample.told}.", where=self.name,
                           remedy="Mend the row or take another reward.")  # fmt: skip
