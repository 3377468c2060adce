"""Tokens drawn by llama.cpp, with the log-probability of each: the other way to sample replies to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fledge.errors import EngineError
from fledge.runtime.llama import Llama

# llama.cpp takes seeds of 32 bits; the largest means one of its own choice.
SEEDS = 0xFFFFFFFF


@dataclass(frozen=True)
class Sampled:
    """A reply: its tokens, the one that ends it included where it was drawn, and log p of each at temperature 1."""

    ids: list[int]
    logps: list[float]
    ended: bool


def sample_tokens(
    llama: Llama, prompts: Sequence[Sequence[int]], seeds: Sequence[int], *, temperature: float, max_tokens: int
) -> list[Sampled]:
    """Return a reply to each of `prompts`, ids of tokens, as many at a time as `llama` works on.

    Raises EngineError where llama.cpp refuses one or ends.
    """

    def ask(prompt: Sequence[int], seed: int) -> Sampled:
        told = llama.post(
            "/completion",
            {
                "prompt": list(prompt),
                "n_predict": max_tokens,
                "temperature": temperature,
                "samplers": ["temperature"],
                "seed": seed % SEEDS,
                "n_probs": 1,
                "return_tokens": True,
                "cache_prompt": True,
            },
        )
        each = told["completion_probabilities"]
        if not each:
            raise EngineError("engine.request", "llama.cpp gave no token.", where="/completion")
        return Sampled(
            [int(token["id"]) for token in each],
            [float(token["logprob"]) for token in each],
            told["stop_type"] == "eos",
        )

    with ThreadPoolExecutor(max_workers=llama.parallel) as pool:
        return list(pool.map(ask, prompts, seeds))
