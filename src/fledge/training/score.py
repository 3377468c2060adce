"""Batch -> Scored: the model's log-probabilities of the supervised tokens, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from fledge.model.causal import CausalModel
from fledge.objective.scored import Before, Objective, Scored
from fledge.records import Example
from fledge.training.batch import Batch, to_batch
from fledge.training.ranks import Ranks

_NO_FACTS: Mapping[str, float] = MappingProxyType({})
EXAMPLES_AT_ONCE = 64


def scored_pieces(model: CausalModel, batch: Batch, facts: Mapping[str, float] = _NO_FACTS) -> Iterator[Scored]:
    """Yield the log-probabilities of each piece, with gradient where gradients are on.

    Call backward on what is made of a piece before asking for the next. When the last has been asked for, gradients
    flow once through the trunk that the pieces share. `facts`: what an objective was found to need of the whole step.
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
            hidden_UD = hidden.index_select(0, piece.predictor_U)
            # Logits are linear in the hidden states, so dividing these by the temperature divides those.
            cooled_UD = hidden_UD if batch.temperature == 1 else hidden_UD / batch.temperature
            logps_U = model.token_logps(cooled_UD, piece.target_U)
            values_U = None if model.scalar_head is None else model.scalar_head(hidden_UD)
            yield Scored(
                logps_U[piece.pair_M],
                piece.sequence_M,
                piece.weight_M,
                piece.columns_S,
                step_weight=batch.weight,
                num_sequences=piece.num_sequences,
                step_rows=batch.num_rows,
                facts=facts,
                tokens_M=piece.tokens_M,
                values_M=None if values_U is None else values_U[piece.pair_M],
            )


def token_logps(
    model: CausalModel, examples: Sequence[Example], *, tokens_per_piece: int, temperature: float = 1.0
) -> list[list[float]]:
    """Return log p of each taught token of each example, in nats, prefixes that they share computed once."""
    return token_scores(model, examples, tokens_per_piece=tokens_per_piece, temperature=temperature)[0]


@torch.no_grad()
def token_scores(
    model: CausalModel, examples: Sequence[Example], *, tokens_per_piece: int, temperature: float = 1.0
) -> tuple[list[list[float]], list[list[float]]]:
    """Return log p of each taught token of each example, and what the scalar head gives before it, if there is one.

    Both come from one pass, in which shared prefixes are computed once.
    """
    numbered = [replace(example, columns={"place": i}, tokens={}) for i, example in enumerate(examples)]
    batch = to_batch(numbered, tokens_per_piece=tokens_per_piece, trunk=model.has_trunks, ranks=Ranks())
    logps: list[list[float]] = [[] for _ in examples]
    values: list[list[float]] = [[] for _ in examples]
    for scored in scored_pieces(model, replace(batch, temperature=temperature)):
        places = scored.columns_S["place"].long()[scored.sequence_M].tolist()
        for found, numbers_M in ((logps, scored.logps_M), (values, scored.values_M)):
            for place, number in zip(
                places, () if numbers_M is None else numbers_M.tolist(), strict=numbers_M is not None
            ):
                found[place].append(number)
    return logps, values


@torch.no_grad()
def of_sequences(
    model: CausalModel,
    examples: Sequence[Example],
    read: Callable[[Scored], Tensor],
    *,
    tokens_per_piece: int,
    done: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Return what `read` gives for each example, in their order, prefixes that they share computed once.

    read: a number for each sequence of a piece, such as Scored.sums_S, the log-probability of its taught tokens, or
    Scored.last_values_S, what the scalar head gives before the last of them. `done` is told how many are read.
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].ids)
    found = [0.0] * len(examples)
    for start in range(0, len(order), EXAMPLES_AT_ONCE):
        numbers = order[start : start + EXAMPLES_AT_ONCE]
        # The number of an example goes along as a column: pieces come in an order of their own.
        numbered = [replace(examples[i], columns={"place": place}) for place, i in enumerate(numbers)]
        batch = to_batch(numbered, tokens_per_piece=tokens_per_piece, trunk=model.has_trunks)
        for scored in scored_pieces(model, batch):
            for place, value in zip(scored.columns_S["place"].tolist(), read(scored).tolist(), strict=True):
                found[numbers[int(place)]] = value
        done(start + len(numbers))
    return found


@torch.no_grad()
def step_facts(model: CausalModel, batch: Batch, before: Before | None, ranks: Ranks) -> Mapping[str, float]:
    """Return what an objective has to know of a whole step, found from the rows that it sets aside."""
    if before is None or batch.aside is None:
        return _NO_FACTS
    return ranks.means([before(scored) for scored in scored_pieces(model, batch.aside)])


@torch.no_grad()
def measured(
    model: CausalModel, batch: Batch, objective: Objective, before: Before | None = None
) -> tuple[float, dict[str, float]]:
    """Return the loss of a batch and its metrics, without a gradient; this process alone computes it."""
    alone = Ranks()
    facts = step_facts(model, batch, before, alone)
    losses = [objective(scored) for scored in scored_pieces(model, batch, facts)]
    return math.fsum(float(loss.value) for loss in losses), alone.means([loss.metrics for loss in losses])
