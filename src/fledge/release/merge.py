"""Folds an adapter into the weights it was trained on, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fledge.errors import ExportError
from fledge.model.adapter import Adapter, check_fits
from fledge.model.weights import Weights


def merged(weights: Weights, adapter: Adapter | None) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Return (Hugging Face name, float32 tensor) for every weight: W + scale * B @ A where adapted, W elsewhere.

    At most two tensors are in memory. Raises ModelError `model.bad_adapter` before the first tensor is read.
    """
    read = merged_reader(weights, adapter)
    return ((name, read(name)) for name in weights.names())


def merged_reader(weights: Weights, adapter: Adapter | None) -> Callable[[str], NDArray[np.float32]]:
    """Return a function that reads one merged weight by its Hugging Face name; the adapter is checked first."""
    if adapter is None:
        return weights.read
    if adapter.invocation_tokens:
        raise ExportError(
            "export.unknown_type",
            "an adapter that acts only after the prompt cannot be merged: weights act everywhere.",
            remedy="Export it as an adapter on top of its base: fledge export RUN.",
        )
    check_fits(adapter, weights)
    return lambda name: adapter.merge(name, weights.read(name))
