"""Weights -> a model ready for the token tree: the engine for the Llama family, transformers' own for all others.

The one door to transformers.
"""

from __future__ import annotations

import torch

from fledge.model.causal import CausalModel
from fledge.model.decoder import read_decoder
from fledge.model.engine import Engine
from fledge.model.kernels import kernels_for
from fledge.model.weights import Weights

__all__ = ["CausalModel", "load_model"]


def load_model(weights: Weights, *, dtype: torch.dtype) -> CausalModel:
    """Return the model of `weights` in `dtype`, frozen, without an adapter."""
    return Engine(read_decoder(weights, dtype=dtype), kernels_for(dtype))
