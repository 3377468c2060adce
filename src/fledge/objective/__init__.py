"""Objectives: pure functions of log-probabilities, which know no model. A new one is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fledge.objective import policy, preference
from fledge.objective.ppo import ppo
from fledge.objective.reward import reward
from fledge.objective.scored import Before, Loss, Objective
from fledge.objective.sft import sft


@dataclass(frozen=True)
class Aim:
    """An objective as it is chosen by name: `function` with the knobs that it can be told by name in `terms`.

    reference: it compares with the model as it was. beta: what that knob is where nobody says. facts: finds what it has
    to know of a whole step, and is told `facts_terms`. judges: it learns to score answers, each where it has ended.
    critic: it learns what to expect of a reply before each token.
    """

    function: Callable[..., Loss]
    terms: tuple[str, ...] = ()
    reference: bool = False
    beta: float = 0.1
    facts: Callable[..., Any] | None = None
    facts_terms: tuple[str, ...] = ()
    judges: bool = False
    critic: bool = False

    def make(self, knobs: Mapping[str, Any]) -> Objective:
        """Return the objective under resolved `knobs`, of which it takes its own."""
        return partial(self.function, **{name: knobs[name] for name in self.terms})

    def before(self, knobs: Mapping[str, float]) -> Before | None:
        """Return what has to be found of a whole step before it, if anything."""
        return partial(self.facts, **{name: knobs[name] for name in self.facts_terms}) if self.facts else None


# Continued pre-training is the same mean over other tokens: all of a text, not the answers alone.
OBJECTIVES: Mapping[str, Aim] = {
    "sft": Aim(sft),
    "text": Aim(sft),
    "dpo": Aim(preference.dpo, ("beta", "label_smoothing", "sft_weight"), reference=True),
    "ipo": Aim(preference.ipo, ("beta", "sft_weight"), reference=True),
    "orpo": Aim(preference.orpo, ("beta",)),
    "simpo": Aim(preference.simpo, ("beta", "gamma", "label_smoothing", "sft_weight"), beta=2.0),
    "kto": Aim(
        preference.kto,
        ("beta", "good_weight", "bad_weight"),
        reference=True,
        facts=preference.kl_reward,
        facts_terms=("beta",),
    ),
    "reward": Aim(reward, ("margin", "label_smoothing", "centre_weight"), judges=True),
    "grpo": Aim(policy.grpo, ("clip_low", "clip_high", "kl_weight", "loss", "max_tokens", "max_ratio")),
    "rloo": Aim(policy.rloo, ("clip_low", "clip_high", "max_ratio")),
    "ppo": Aim(ppo, ("clip_low", "clip_high", "value_clip", "value_weight", "max_ratio"), critic=True),
}
