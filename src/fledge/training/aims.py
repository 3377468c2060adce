"""The objective that the knobs ask for."""

from __future__ import annotations

from fledge.config import Config, PreferenceConfig
from fledge.data.wanted import LEARNS_FROM
from fledge.objective import OBJECTIVES, Aim
from fledge.objective.scored import Before, Objective


def aim_of(config: Config) -> Aim:
    return OBJECTIVES[config.objective]


def compares(config: Config) -> bool:
    """Whether answers are compared or judged; else they are learnt as they stand."""
    return LEARNS_FROM[config.objective] != "answers"


def objective_of(config: Config) -> Objective:
    """Return the objective of knobs without any `auto`."""
    return aim_of(config).make(config.preference.model_dump())


def before_of(config: Config) -> Before | None:
    """Return what has to be found of a whole step before the objective, if anything."""
    return aim_of(config).before(config.preference.model_dump())


def unheard(config: Config) -> list[str]:
    """Return the preference knobs that were set and say nothing to this objective."""
    usual = PreferenceConfig().model_dump()
    told = config.preference.model_dump()
    return [name for name, value in told.items() if value != usual[name] and name not in aim_of(config).terms]
