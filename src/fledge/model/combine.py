"""Several adapters of one base as one: sums of what each changes, with or without the small and the contrary.

Let D_i = scale_i B_i A_i be what adapter i adds to a weight. All ways give one D, and from it thin matrices again.
Shapes: I in, O out, R ranks together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fledge.errors import ConfigError, ModelError, nearest
from fledge.model.adapter import PREFIX, SIDES, Adapter

Floats = NDArray[np.float32]
How = Literal["linear", "ties", "dare"]
HOWS: Mapping[str, str] = {
    "linear": "the weighted sum",
    "ties": "only the largest changes of each, and of those the ones that agree in sign",
    "dare": "changes dropped at random and the rest made larger, then the weighted sum",
}


_KNOWN = f"Known: {', '.join(HOWS)}."


@dataclass(frozen=True)
class Recipe:
    """How adapters become one. `density`: the share of changes that ties and dare keep. rank: None keeps all of D.

    Where D has more ranks than wanted, the nearest of that rank is taken (Eckart & Young 1936).
    """

    how: How = "linear"
    weights: tuple[float, ...] = ()
    density: float = 0.5
    rank: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Combined:
    """The adapter, and the share of D's squared numbers that its ranks hold: 1 where nothing was left out."""

    adapter: Adapter
    kept: float


def how_of(name: str) -> How:
    """Return the way of this name. Raises ConfigError with the nearest one."""
    known: tuple[How, ...] = get_args(How)
    found = next((how for how in known if how == name.lower()), None)
    if found is None:
        hint = nearest(name, list(HOWS)) or "."
        raise ConfigError("config.bad_value", f"'{name}' is no way to combine{hint}", where="--how", remedy=_KNOWN)
    return found


def combine(
    adapters: Sequence[Adapter], recipe: Recipe, *, say: Callable[[int, int], None] = lambda done, total: None
) -> Combined:
    """Return one adapter of scale 1 that does what `recipe` says; `say` is told (done, total) weights.

    linear: D = sum_i w_i D_i. ties: of each w_i D_i the largest `density` by magnitude, for each number the sign that
    weighs more, and the mean of those that have it (Yadav et al. 2023, arXiv 2306.01708). dare: each number of D_i is
    kept with probability `density` and divided by it (Yu et al. 2023, arXiv 2311.03099).

    Raises ModelError `model.bad_adapter` where they cannot be put together.
    """
    _check(adapters, recipe)
    held_by = [adapter.pairs() for adapter in adapters]
    modules = list(dict.fromkeys(name for own in held_by for name in own))
    most = sum(adapter.rank for adapter in adapters)
    rank = min(recipe.rank or most, most)
    numbers = np.random.default_rng(recipe.seed)
    tensors: dict[str, Floats] = {}
    whole = held = 0.0
    for done, name in enumerate(modules, start=1):
        weighted = [(own, a.scale, w) for own, a, w in zip(held_by, adapters, recipe.weights, strict=True)]
        pairs = [(own[name], scale, weight) for own, scale, weight in weighted if name in own]
        if recipe.how == "linear" and rank == most:
            a, b = _beside(pairs, rank)
        else:
            delta = _mixed(pairs, recipe, numbers)
            a, b = _thin(delta, rank)
            whole += float(np.sum(delta.astype(np.float64) ** 2))
            held += float(np.sum((b.astype(np.float64) @ a) ** 2))
        module = PREFIX + name.removesuffix(".weight")
        tensors[module + SIDES[0]], tensors[module + SIDES[1]] = a, b
        say(done, len(modules))
    first = adapters[0]
    targets = tuple(dict.fromkeys(target for adapter in adapters for target in adapter.target_modules))
    adapter = Adapter(rank, float(rank), False, targets, first.base_name, tensors, False, first.invocation_tokens)
    return Combined(adapter, held / whole if whole else 1.0)


def _check(adapters: Sequence[Adapter], recipe: Recipe) -> None:
    assert len(adapters) == len(recipe.weights), "a weight for each adapter"
    problem = ""
    if any(adapter.use_dora for adapter in adapters):
        problem = "one of them is DoRA, whose lengths cannot be added up"
    elif len({adapter.invocation_tokens for adapter in adapters}) > 1:
        problem = "some act only after the prompt and others everywhere"
    elif any(adapter.score is not None for adapter in adapters):
        problem = "one of them scores answers, and two heads add up to none"
    shapes: dict[str, tuple[int, int]] = {}
    for adapter in adapters:
        for name, (a, b) in adapter.pairs().items():
            own = (b.shape[0], a.shape[1])
            if shapes.setdefault(name, own) != own:
                problem = problem or f"'{name}' is {list(shapes[name])} in one and {list(own)} in another"
    if problem:
        raise ModelError(
            "model.bad_adapter",
            f"they cannot be put together: {problem}.",
            remedy="Combine adapters that were trained on one base in one way.",
        )


Weighted = tuple[tuple[Floats, Floats], float, float]


def _beside(pairs: Sequence[Weighted], rank: int) -> tuple[Floats, Floats]:
    """Return the matrices one below the other, whose product is the weighted sum, filled up with zeros to `rank`."""
    a = np.concatenate([a for (a, _), _, _ in pairs])
    b = np.concatenate([np.float32(scale * weight) * b for (_, b), scale, weight in pairs], axis=1)
    lacks = rank - len(a)
    return np.pad(a, ((0, lacks), (0, 0))), np.pad(b, ((0, 0), (0, lacks)))


def _mixed(pairs: Sequence[Weighted], recipe: Recipe, numbers: np.random.Generator) -> Floats:
    deltas = [np.float32(scale) * (b @ a) for (a, b), scale, _ in pairs]
    weights = [np.float32(weight) for _, _, weight in pairs]
    if recipe.how == "ties":
        return _ties(deltas, weights, recipe.density)
    if recipe.how == "dare":
        density = np.float32(recipe.density)
        deltas = [np.where(numbers.random(d.shape, np.float32) < density, d / density, 0) for d in deltas]
    return np.asarray(sum(w * d for w, d in zip(weights, deltas, strict=True)), dtype=np.float32)


def _ties(deltas: Sequence[Floats], weights: Sequence[np.float32], density: float) -> Floats:
    trimmed = np.stack([w * _largest(d, density) for w, d in zip(weights, deltas, strict=True)])
    elected = np.where(trimmed.sum(axis=0) >= 0, 1, -1)
    agrees = (np.sign(trimmed) == elected) & (trimmed != 0)
    total = np.where(agrees, trimmed, 0).sum(axis=0, dtype=np.float32)
    return np.asarray(total / np.maximum(agrees.sum(axis=0), 1), dtype=np.float32)


def _largest(delta: Floats, density: float) -> Floats:
    """Return the share `density` of largest magnitude, zero elsewhere."""
    keep = int(density * delta.size)
    if keep >= delta.size:
        return delta
    size = np.abs(delta)
    bound = np.partition(size.reshape(-1), delta.size - keep - 1)[delta.size - keep - 1] if keep else np.inf
    return np.asarray(np.where(size > bound, delta, 0), dtype=np.float32)


def _thin(delta: Floats, rank: int) -> tuple[Floats, Floats]:
    """Return A [rank, I], B [O, rank] whose product is the nearest to `delta` of that rank.

    The leading directions are those of the smaller Gram matrix, in float64; D is then projected on them.
    """
    rank_here = min(rank, *delta.shape)
    exact = delta.astype(np.float64)
    wide = delta.shape[0] <= delta.shape[1]
    _, vectors = np.linalg.eigh(exact @ exact.T if wide else exact.T @ exact)
    leading = vectors[:, ::-1][:, :rank_here]
    a, b = (leading.T @ exact, leading) if wide else (leading.T, exact @ leading)
    lacks = rank - rank_here
    return (
        np.pad(a, ((0, lacks), (0, 0))).astype(np.float32),
        np.pad(b, ((0, 0), (0, lacks))).astype(np.float32),
    )
