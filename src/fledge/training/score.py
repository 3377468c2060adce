"""Batch -> Scored: the model's log-probabilities of the supervised tokens, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch

from fledge.model.causal import CausalModel
from fledge.objective.scored import Scored
from fledge.records import Example
from fledge.training.batch import Batch, Memory, to_batch


def scored_pieces(model: CausalModel, batch: Batch) -> Iterator[Scored]:
    """Yield the log-probabilities of each piece, with gradient where gradients are on.

    Call backward on what is made of a piece before asking for the next. When the last has been asked for, gradients
    flow once through the trunk that the pieces share.
    """
    trunk = model.on_trunk(batch.trunk) if batch.trunk is not None else nullcontext()
    with trunk as shared:
        for piece in batch.pieces:
            context = shared
            if piece.prompt_places_C is not None and len(piece.prompt_places_C):
                context = model.prompt_context(piece.prompt_places_C)
            hidden = model.hidden(piece.tokens, context)
            if context is not None:
                hidden = torch.cat([context.hidden, hidden])
            logps_U = model.token_logps(hidden.index_select(0, piece.predictor_U), piece.target_U)
            yield Scored(logps_U[piece.pair_M], piece.sequence_M, piece.weight_M, piece.columns_S, batch.weight)


@torch.no_grad()
def mean_loss(
    model: CausalModel,
    examples: Sequence[Example],
    *,
    tokens_per_piece: int,
    trunk: bool = True,
    memory: Memory | None = None,
) -> float:
    """Return the mean negative log-likelihood of the taught tokens, in nats per token."""
    numbers = range(len(examples))
    batch = to_batch(examples, tokens_per_piece=tokens_per_piece, trunk=trunk, memory=memory, numbers=numbers)
    shares = [float((s.logps_M * s.weight_M).sum()) for s in scored_pieces(model, batch)]
    return -math.fsum(shares) / batch.weight
