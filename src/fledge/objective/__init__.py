"""Objectives: pure functions of log-probabilities, which know no model. A new one is a function and a line here."""

from fledge.objective.scored import Objective
from fledge.objective.sft import sft

OBJECTIVES: dict[str, Objective] = {"sft": sft}
