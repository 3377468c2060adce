"""The objective that resolved knobs ask for."""

from __future__ import annotations

from fledge.config import Config
from fledge.objective import OBJECTIVES, Aim, Terms
from fledge.objective.scored import Before, Objective


def aim_of(config: Config) -> Aim:
    return OBJECTIVES[config.objective]


def objective_of(config: Config) -> Objective:
    """Return the objective of knobs without any `auto`."""
    return aim_of(config).make(_terms(config))


def before_of(config: Config) -> Before | None:
    """Return what has to be found of a whole step before the objective, if anything."""
    make = aim_of(config).before
    return make(_terms(config)) if make else None


def _terms(config: Config) -> Terms:
    return Terms(**config.preference.model_dump())
