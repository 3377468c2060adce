"""How long a step takes here before there is a model: some layers of its shape are timed, and tell of the others.

A step's time goes in a straight line with the layers, so two depths are enough: what a layer adds, and what is there
without any (embedding, head, the optimizer's own part of both).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fledge.model.causal import CausalModel
from fledge.model.load import load_model
from fledge.model.random_weights import RandomWeights
from fledge.model.shape import Shape
from fledge.model.weights import Weights
from fledge.objective.sft import sft
from fledge.training.batch import Batch
from fledge.training.score import scored_pieces

# Two depths, as far apart as the memory and patience of small machines allow.
SHALLOW, DEEP = 1, 4
# The first round warms caches up; of the others the quickest counts, which its neighbours disturbed least.
ROUNDS = 4

Trained = Callable[[CausalModel, Weights], torch.optim.Optimizer]


@dataclass(frozen=True)
class Rate:
    """Seconds of a step of `tokens` distinct tokens: without any layers, and what each layer adds."""

    without: float
    layer: float
    tokens: int

    def seconds(self, num_layers: int, tokens: int) -> float:
        """Return how long `tokens` take in all the layers of a model."""
        return (self.without + self.layer * num_layers) * tokens / self.tokens


def probe(
    shape: Shape,
    batch: Batch,
    train: Trained,
    *,
    dtype: torch.dtype,
    recompute: bool = False,
    stored: Mapping[str, str] | None = None,
) -> Rate:
    """Return the rate of steps like `batch`. train: puts on a model what is trained, and returns its optimizer.

    stored: the types of quantised tensors that stay in their blocks, by GGUF name; None where none do.
    """
    depths = (SHALLOW, min(DEEP, max(2, shape.num_layers)))
    made = []
    for depth in depths:
        weights = RandomWeights(shape, depth, stored=stored or {})
        model = load_model(weights, dtype=dtype, recompute=recompute, stay=stored is not None)
        made.append((model, train(model, weights)))
    # In turn: what slows the machine down for a while slows both.
    taken = [[_step(model, batch, optimizer) for model, optimizer in made] for _ in range(ROUNDS)]
    shallow, deep = (min(seconds) for seconds in zip(*taken[1:], strict=True))
    layer = max(0.0, deep - shallow) / (depths[1] - depths[0])
    return Rate(max(0.0, shallow - depths[0] * layer), layer, batch.num_tokens)


def _step(model: CausalModel, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    started = time.perf_counter()
    for scored in scored_pieces(model, batch):
        sft(scored).value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started
