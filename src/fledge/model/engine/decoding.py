"""Many replies at once behind prompts that are computed once: keys and values are kept, a token of each at a time.

The prompts are a tree like any other, so what they begin with in common is computed once for all of them, and all
replies to a prompt read one copy of its keys and values. A reply has a slot of its own behind them. A step is an
ordinary pass over one token of each reply, on a context that holds everything before: the same kernels as in training,
the adapter beside the weights, the same rounding.

Shapes: B replies under way, P tokens of all prompts, C = P + slots * room keys, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fledge.model.engine.kernels import Layout, sums_dtype
from fledge.model.engine.one_pass import Context, Pass
from fledge.model.engine.passes import Engine
from fledge.model.tokens import Growing, Prompts, TreeTokens


class KeptKeys:
    """Keys and values of prompts and of replies in `slots`, each with `room` for so many tokens. See model.decode."""

    @torch.no_grad()
    def __init__(self, engine: Engine, prompts: Prompts, *, slots: int, room: int) -> None:
        self._engine, self._prompts, self._room = engine, prompts, room
        shape = engine.shape
        self._behind = prompts.num_tokens
        self._keys = torch.empty(shape.num_layers, 2, self._behind + slots * room, shape.key_width, dtype=engine.dtype)
        hidden_PD = torch.empty(prompts.num_tokens, shape.width, dtype=sums_dtype(engine.dtype))
        start, context = 0, None
        for number, tokens in enumerate(prompts.trees):
            run = Pass(engine, tokens, context, keep=False, keys=True)
            if number == 0 and prompts.trunk:
                context = run.as_context(learns=False)
            rows = torch.arange(start, start + tokens.num_tokens)
            hidden_PD[rows] = run.hidden
            self._store(run, rows)
            start += tokens.num_tokens
        last = torch.tensor([runs[-1][0] + runs[-1][1] - 1 for runs in prompts.runs])
        self.prompt_hidden = hidden_PD.index_select(0, last)

    def logits(self, hidden_BD: Tensor, out_BV: Tensor) -> None:
        """Fill the logits of some hidden states, in sums."""
        engine = self._engine
        engine.kernels.linear(out_BV, hidden_BD.to(engine.dtype).contiguous(), engine.head, Layout.NK)
        if cap := engine.logit_softcap:
            out_BV.div_(cap).tanh_().mul_(cap)

    @torch.no_grad()
    def step(self, replies: Sequence[Growing]) -> Tensor:
        """Return the hidden states [B, D] of the last token of each reply, and keep its keys and values."""
        nodes: list[tuple[int, ...]] = []
        spans: list[tuple[int, int, int]] = []
        for number, reply in enumerate(replies):
            own = list(self._prompts.runs[reply.prompt])
            asked, count = self._prompts.length(reply.prompt), len(reply.ids) - 1
            if count:
                own.append((self._slot(reply), count, asked))
            nodes.append((number, number + 1, asked + count, len(spans), len(spans) + len(own)))
            spans += own
        tokens = TreeTokens(
            ids_N=torch.tensor([reply.ids[-1] for reply in replies]),
            position_N=torch.tensor([position for _, _, position, _, _ in nodes]),
            node_B5=torch.tensor(nodes),
            span_S3=torch.tensor(spans),
            num_context=self._keys.shape[2],
        )
        hidden = self.prompt_hidden[:1].expand(tokens.num_context, -1)
        context = Context(hidden, {layer: (kv[0], kv[1]) for layer, kv in enumerate(self._keys)}, None)
        # The adapter does not change while replies are sampled: its copies are as the prompts' pass left them.
        run = Pass(self._engine, tokens, context, keep=False, keys=True, refresh=False)
        self._store(run, torch.tensor([self._slot(reply) + len(reply.ids) - 1 for reply in replies]))
        return run.hidden

    def _slot(self, reply: Growing) -> int:
        return self._behind + reply.slot * self._room

    def _store(self, run: Pass, rows: Tensor) -> None:
        for layer, (k, v) in run.own_keys.items():
            self._keys[layer, 0].index_copy_(0, rows, k)
            self._keys[layer, 1].index_copy_(0, rows, v)
