"""Objectives: pure functions of log-probabilities, which know no model. A new one is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from fledge.objective import preference
from fledge.objective.scored import Before, Objective
from fledge.objective.sft import sft

RowKind = Literal["answers", "pairs", "judged"]
# Of each kind, how many sequences a row is.
UNITS: Mapping[RowKind, int] = {"answers": 1, "pairs": 2, "judged": 1}


@dataclass(frozen=True)
class Terms:
    """What an objective can be told. See objective.preference for what each of them does."""

    beta: float = 0.1
    gamma: float = 0.5
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    good_weight: float = 1.0
    bad_weight: float = 1.0


@dataclass(frozen=True)
class Aim:
    """An objective as it is chosen by name: what it learns from, and how its function is made.

    reference: it compares with the model as it was. beta: what preference.beta is where nobody says. before: what it
    has to know of a whole step.
    """

    learns_from: RowKind
    make: Callable[[Terms], Objective]
    reference: bool = False
    beta: float = 0.1
    before: Callable[[Terms], Before] | None = None

    @property
    def unit(self) -> int:
        return UNITS[self.learns_from]


def _sft(_: Terms) -> Objective:
    return sft


def _dpo(terms: Terms) -> Objective:
    smoothing, weight = terms.label_smoothing, terms.sft_weight
    return partial(preference.dpo, beta=terms.beta, label_smoothing=smoothing, sft_weight=weight)


def _ipo(terms: Terms) -> Objective:
    return partial(preference.ipo, beta=terms.beta, sft_weight=terms.sft_weight)


def _simpo(terms: Terms) -> Objective:
    return partial(
        preference.simpo,
        beta=terms.beta,
        gamma=terms.gamma,
        label_smoothing=terms.label_smoothing,
        sft_weight=terms.sft_weight,
    )


def _orpo(terms: Terms) -> Objective:
    return partial(preference.orpo, beta=terms.beta)


def _kto(terms: Terms) -> Objective:
    good, bad = terms.good_weight, terms.bad_weight
    return partial(preference.kto, beta=terms.beta, good_weight=good, bad_weight=bad)


def _kto_before(terms: Terms) -> Before:
    return partial(preference.kl_reward, beta=terms.beta)


# Continued pre-training is the same mean over other tokens: all of a text, not the answers alone.
OBJECTIVES: Mapping[str, Aim] = {
    "sft": Aim("answers", _sft),
    "text": Aim("answers", _sft),
    "dpo": Aim("pairs", _dpo, reference=True),
    "ipo": Aim("pairs", _ipo, reference=True),
    "orpo": Aim("pairs", _orpo),
    "simpo": Aim("pairs", _simpo, beta=2.0),
    "kto": Aim("judged", _kto, reference=True, before=_kto_before),
}
