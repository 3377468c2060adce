"""The objective that the knobs ask for."""

from __future__ import annotations

from fledge.config import Config, PreferenceConfig, RlConfig
from fledge.data.wanted import LEARNS_FROM
from fledge.objective import OBJECTIVES, Aim
from fledge.objective.scored import Before, Objective

# What decides how replies are sampled and judged, whichever objective learns from them.
SOURCE_TERMS = {"rewards", "group", "max_tokens", "temperature", "updates", "kl_weight", "sampler"}


def aim_of(config: Config) -> Aim:
    return OBJECTIVES[config.objective]


def compares(config: Config) -> bool:
    """Whether answers are compared or judged; else they are learnt as they stand, or sampled."""
    return LEARNS_FROM[config.objective] in ("pairs", "judged")


def rolls_out(config: Config) -> bool:
    """Whether it learns from replies that it samples itself, and from what rewards make of them."""
    return LEARNS_FROM[config.objective] == "prompts"


def objective_of(config: Config) -> Objective:
    """Return the objective of knobs without any `auto`."""
    return aim_of(config).make({**config.preference.model_dump(), **config.rl.model_dump()})


def before_of(config: Config) -> Before | None:
    """Return what has to be found of a whole step before the objective, if anything."""
    return aim_of(config).before(config.preference.model_dump())


def unheard(config: Config) -> list[str]:
    """Return the preference and rl knobs that were set and say nothing to this objective."""
    heard = set(aim_of(config).terms) | (SOURCE_TERMS if rolls_out(config) else set())
    heard |= {"scale_rewards"} if config.objective == "grpo" else set()
    heard |= {"discount", "gae_lambda"} if aim_of(config).critic else set()
    found = []
    for section, usual in (("preference", PreferenceConfig()), ("rl", RlConfig())):
        told = getattr(config, section).model_dump()
        found += [f"{section}.{name}" for name, value in usual if told[name] != value and name not in heard]
    return found
