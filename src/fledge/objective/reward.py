"""The objective of a model that scores answers: of two it gives the better one the higher number."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from fledge.objective.preference import pairs_of, right
from fledge.objective.scored import Loss, Mean, Scored


def reward(scored: Scored, *, margin: float = 0.0, label_smoothing: float = 0.0, centre_weight: float = 0.0) -> Loss:
    """Return -(1 - e) log sigmoid(d) - e log sigmoid(-d) + c (r_chosen + r_rejected)^2, d = r_chosen - r_rejected - m.

    r: what the scalar head gives where an answer has ended. Sequences are pairs as in `preference`; the mean is over
    the rows of the step. Bradley-Terry model of comparisons (Bradley & Terry 1952), as a reward model is trained:
    Ouyang et al. 2022, arXiv 2203.02155, eq. 1; margin m: Touvron et al. 2023, arXiv 2307.09288, eq. 2; e: the share
    of pairs that may be the wrong way round; c keeps rewards around 0, which comparisons alone leave open: Eisenstein
    et al. 2023, arXiv 2312.09244.
    """
    chosen, rejected = pairs_of(scored.last_values_S())
    ahead = chosen - rejected
    losses = -(1 - label_smoothing) * logsigmoid(ahead - margin) - label_smoothing * logsigmoid(margin - ahead)
    losses = losses + centre_weight * (chosen + rejected) ** 2
    metrics = {
        "accuracy": right(ahead),
        "margin": Mean.of(ahead),
        "score_chosen": Mean.of(chosen),
        "score_rejected": Mean.of(rejected),
    }
    return Loss(losses.sum() / scored.step_rows, metrics)
