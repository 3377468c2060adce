"""Piece -> Scored: the model's log-probabilities of the supervised tokens of a tree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fledge.model.load import CausalModel
from fledge.objective.logprobs import token_logps
from fledge.objective.scored import Scored
from fledge.records import Example
from fledge.training.batch import Piece, to_batch


def score(model: CausalModel, piece: Piece, *, step_weight: float) -> Scored:
    """Return the log-probabilities of a piece, with gradient where gradients are on."""
    hidden_ND = model.hidden(piece.ids_1N, piece.position_1N, piece.branches)
    logps_U = token_logps(hidden_ND[piece.predictor_U], model.head, piece.target_U)
    return Scored(logps_U[piece.pair_M], piece.sequence_M, piece.weight_M, piece.columns_S, step_weight)


@torch.no_grad()
def mean_loss(model: CausalModel, examples: Sequence[Example], *, tokens_per_piece: int) -> float:
    """Return the mean negative log-likelihood of the taught tokens, in nats per token."""
    batch = to_batch(examples, tokens_per_piece=tokens_per_piece)
    scored = (score(model, piece, step_weight=batch.weight) for piece in batch.pieces)
    return -math.fsum(float((s.logps_M * s.weight_M).sum()) for s in scored) / batch.weight
