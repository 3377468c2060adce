"""Sampling many replies at once from a model as it is being trained, with the log-probability of every token drawn.

A reply depends on its prompt, its seed and the model, and not on which others are under way, up to rounding. Replies
that have ended leave the batch and others take their places.

Shapes: B replies under way, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fledge.model.causal import CausalModel
from fledge.model.engine.decoding import KeptKeys
from fledge.model.engine.passes import Engine
from fledge.model.tokens import Growing, Prompts, single

# So many replies are worked on at once: more would take memory for their logits and hardly any time off.
AT_ONCE = 128
# Probabilities are summed up in blocks of so many tokens, so that a draw looks at one block alone.
BLOCK = 64


@dataclass(frozen=True)
class Drawing:
    """How replies are drawn. Temperature 0 takes the likeliest token; one of `ends` is the last of a reply."""

    temperature: float
    max_tokens: int
    ends: frozenset[int]


@dataclass(frozen=True)
class Drawn:
    """A reply: its tokens, the one that ends it included, and log p of each at the temperature it was drawn at (at 1
    for temperature 0). `ended`: whether it ended by itself.
    """

    ids: list[int]
    logps: list[float]
    ended: bool


class Decoding(Protocol):
    """What gives the next token's logits of replies that grow by a token at a time. D width."""

    prompt_hidden: Tensor

    def logits(self, hidden_BD: Tensor, out_BV: Tensor) -> None:
        """Fill the logits of hidden states, in sums."""

    def step(self, replies: Sequence[Growing]) -> Tensor:
        """Return the hidden states [B, D] of the last token of each reply; called once for every token but the last."""


class Anew:
    """Replies that are computed from their first token for every next one: slow, and needs nothing of a model."""

    def __init__(self, model: CausalModel, prompts: Prompts) -> None:
        self._model, self._prompts = model, prompts
        self.prompt_hidden = torch.cat([self._last(ids) for ids in prompts.ids])

    def logits(self, hidden_BD: Tensor, out_BV: Tensor) -> None:
        out_BV.copy_(self._model.logits(hidden_BD))

    def step(self, replies: Sequence[Growing]) -> Tensor:
        return torch.cat([self._last([*self._prompts.ids[reply.prompt], *reply.ids]) for reply in replies])

    def _last(self, ids: Sequence[int]) -> Tensor:
        return self._model.hidden(single(torch.tensor(ids)))[-1:]


@torch.no_grad()
def sample(
    model: CausalModel,
    prompts: Prompts,
    asked: Sequence[tuple[int, int]],
    drawing: Drawing,
    *,
    at_once: int = AT_ONCE,
    done: Callable[[int], None] = lambda _: None,
) -> list[Drawn]:
    """Return a reply for each (number of a prompt, seed) of `asked`, in order. `done` is told how many there are."""
    slots = min(at_once, len(asked))
    decoding: Decoding = (
        KeptKeys(model, prompts, slots=slots, room=drawing.max_tokens)
        if isinstance(model, Engine)
        else Anew(model, prompts)
    )
    waiting, free = deque(enumerate(asked)), list(range(slots))
    found: dict[int, Drawn] = {}
    live: list[Growing] = []
    hidden = decoding.prompt_hidden[:0]
    tile = _tile(model, slots)
    while live or waiting:
        while free and waiting:
            number, (prompt, seed) = waiting.popleft()
            live.append(Growing(number, prompt, free.pop(), _uniforms(seed, drawing.max_tokens)))
            hidden = torch.cat([hidden, decoding.prompt_hidden[prompt : prompt + 1]])
        logits = tile[: len(live)]
        logits[:, model.head.shape[0] :] = -torch.inf
        decoding.logits(hidden, logits[:, : model.head.shape[0]])
        uniform = torch.tensor([reply.uniforms[len(reply.ids)] for reply in live], dtype=torch.float64)
        ids, logps = draw(logits, drawing.temperature, uniform)
        for reply, token, logp in zip(live, ids.tolist(), logps.tolist(), strict=True):
            reply.ids.append(token)
            reply.logps.append(logp)
            if (ended := token in drawing.ends) or len(reply.ids) == drawing.max_tokens:
                found[reply.number] = Drawn(reply.ids, reply.logps, ended)
                free.append(reply.slot)
        live = [reply for reply in live if reply.number not in found]
        hidden = decoding.step(live) if live else hidden[:0]
        done(len(found))
    return [found[number] for number in range(len(asked))]


def draw(logits_BV: Tensor, temperature: float, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return (ids, log p) of one token of each row, the inverse of the distribution function at `uniform` (0..1).

    The logits are destroyed; V is a multiple of BLOCK. One number a token decides, so a reply is what its seed makes
    it.
    """
    if temperature == 0:
        ids = logits_BV.argmax(1)
        return ids, logits_BV.log_softmax(1).gather(1, ids[:, None])[:, 0]
    if temperature != 1:
        logits_BV.div_(temperature)
    p_BV = logits_BV.sub_(logits_BV.amax(1, keepdim=True)).exp_()
    p_BKW = p_BV.view(len(p_BV), -1, BLOCK)
    ends_BK = p_BKW.sum(2).double().cumsum(1)
    wanted_B1 = uniform_B[:, None] * ends_BK[:, -1:]
    block_B1 = torch.searchsorted(ends_BK, wanted_B1, right=True).clamp_(max=ends_BK.shape[1] - 1)
    before_B1 = torch.where(block_B1 > 0, ends_BK.gather(1, (block_B1 - 1).clamp_(min=0)), 0.0)
    p_BW = p_BKW.gather(1, block_B1[:, :, None].expand(-1, -1, BLOCK))[:, 0]
    place_B1 = torch.searchsorted(p_BW.double().cumsum(1), wanted_B1 - before_B1, right=True).clamp_(max=BLOCK - 1)
    # Where rounding went past the last token of a block that can be drawn, its likeliest is taken.
    drawn_B1 = p_BW.gather(1, place_B1)
    place_B1 = torch.where(drawn_B1 > 0, place_B1, p_BW.argmax(1, keepdim=True))
    logps_B = (p_BW.gather(1, place_B1).double() / ends_BK[:, -1:]).log()[:, 0]
    return (block_B1 * BLOCK + place_B1)[:, 0], logps_B


def _uniforms(seed: int, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    numbers: list[float] = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return numbers


def _tile(model: CausalModel, rows: int) -> Tensor:
    """Return memory for the logits of so many rows, in whole blocks."""
    blocks = -(-model.head.shape[0] // BLOCK)
    return torch.empty(rows, blocks * BLOCK, dtype=torch.promote_types(model.dtype, torch.float32))
