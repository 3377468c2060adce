"""Objectives: pure functions of log-probabilities, which know no model. A new one is a function and a line here."""

from fledge.objective.scored import Objective
from fledge.objective.sft import sft

# Continued pre-training is the same mean over other tokens: all of a text, not the answers alone.
OBJECTIVES: dict[str, Objective] = {"sft": sft, "text": sft}
