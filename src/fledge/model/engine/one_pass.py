"""One way through a decoder and back, over the tokens of a tree, maybe on top of tokens that were computed before.

Shapes: N own tokens, C tokens of the context, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fledge.model.engine import block
from fledge.model.engine.block import KeyValues, Layer, Seeds, Setting
from fledge.model.engine.decoder import Decoder
from fledge.model.engine.kernels import Kernels, sums_dtype
from fledge.model.engine.sites import Site, Sites
from fledge.model.engine.stored import rows_of
from fledge.model.engine.trained import Trained
from fledge.model.engine.workspace import Workspace
from fledge.model.shape import Shape
from fledge.model.tokens import TreeTokens


class Owner(Protocol):
    """What a pass has to know of the engine that makes it; Engine tells what each is."""

    decoder: Decoder
    kernels: Kernels
    shape: Shape
    sites: Sites | None
    trained: Trained | None
    lower: Tensor | None
    recompute: bool
    training: bool
    is_disabled: bool

    @property
    def learner(self) -> Sites | Trained | None: ...
    def take_workspace(self, num_tokens: int, *, keep: bool, use: str) -> Workspace: ...
    def give_back(self, workspace: Workspace, *, use: str) -> None: ...


@dataclass
class Context:
    """Tokens that later passes stand on. hidden [C, D] is a leaf, so gradients by it collect in hidden.grad.

    keys: (k, v) by layer, [C, kv_heads * width]. grads [L, 2, C, kv_heads * width] in sums, or None where nothing
    flows back.
    """

    hidden: Tensor
    keys: Mapping[int, tuple[Tensor, Tensor]]
    grads: Tensor | None

    def of(self, layer: int) -> KeyValues:
        k, v = self.keys[layer]
        return KeyValues(k, v, self.grads[layer] if self.grads is not None else None)


class Pass:
    """One way through the decoder. With `keep` it holds a workspace until it has gone back or is released.

    With `keys` the keys and values of all layers can be made a context. refresh: whether what is trained may have
    changed.
    """

    def __init__(
        self,
        engine: Owner,
        tokens: TreeTokens,
        context: Context | None,
        *,
        keep: bool,
        keys: bool = False,
        until: int | None = None,
        refresh: bool = True,
    ) -> None:
        self.engine, self.tokens, self.context, self.keep = engine, tokens, context, keep
        self.use = "trunk" if keys else "piece"
        decoder, n = engine.decoder, tokens.num_tokens
        assert (context.hidden.shape[0] if context else 0) == tokens.num_context
        self.work: Workspace | None = engine.take_workspace(n, keep=keep, use=self.use)
        self.seeds: dict[int, Seeds] = {}
        self.own_keys: dict[int, tuple[Tensor, Tensor]] = {}
        sites = engine.sites
        self.sites: list[dict[str, Site]] = (
            sites.by_layer if sites is not None and not engine.is_disabled else [{} for _ in decoder.blocks]
        )
        with torch.no_grad():
            if engine.learner is not None and refresh:
                engine.learner.refresh()
            if sites is not None and sites.rows is not None:
                sites.rows.refresh(trained=not engine.is_disabled)
            self.setting = self._setting()
            self.scratch = self.work.scratch(n)
            last = len(decoder.blocks) if until is None else until
            for layer in range(self._begin(), last):
                self.seeds[layer] = self._forward(layer, {})
                if keys:
                    self.own_keys[layer] = self._keys_of(layer)
            self.scale = torch.empty(n, 1, dtype=sums_dtype(decoder.dtype))
            stream = self.work.stream(last, n)
            # What is returned without gradients outlives the pass; the rest lives as long as its workspace is held.
            self.hidden = self.work.ends(n)[0] if keep else torch.empty_like(stream)
            if until is None:
                engine.kernels.norm(self.hidden, stream, decoder.norm_out, decoder.shape.norm_eps, self.scale)
            else:
                self.hidden.copy_(stream)

    def _begin(self) -> int:
        """Fill the stream before the first layer to be computed, and return that layer."""
        assert self.work is not None
        engine, tokens = self.engine, self.tokens
        style = engine.shape.style
        if tokens.place_N is not None and engine.lower is not None:
            assert engine.learner is not None
            first = engine.learner.lowest
            self.work.stream(first, tokens.num_tokens).copy_(engine.lower.index_select(0, tokens.place_N))
            return first
        stream = self.work.stream(0, tokens.num_tokens)
        decoder = engine.decoder
        stream.copy_(rows_of(decoder.embedding_VD, tokens.ids_N, engine.kernels, decoder.dtype))
        if style.embedding_scale != 1.0:
            stream.mul_(style.embedding_scale)
        return 0

    def _keys_of(self, layer: int) -> tuple[Tensor, Tensor]:
        assert self.work is not None
        shape = self.engine.shape
        own = self.work.saved(layer, self.tokens.num_tokens).qkv[:, shape.query_width :]
        lowest = self.engine.learner.lowest if self.engine.learner is not None else 0
        if self.engine.recompute or not self.keep or layer < lowest:
            # The next layer takes this one's buffers.
            own = own.clone()
        k, v = torch.split(own, shape.key_width, dim=1)
        return k, v

    def _setting(self) -> Setting:
        engine, position = self.engine, self.tokens.position_N
        decoder = engine.decoder
        rope = _rotation(position, decoder.inverse_frequencies, sums_dtype(decoder.dtype))
        local = decoder.local_inverse_frequencies
        sites = engine.sites
        return Setting(
            engine.kernels,
            self.tokens,
            rope,
            rope if local is None else _rotation(position, local, sums_dtype(decoder.dtype)),
            decoder.shape.norm_eps,
            decoder.shape.style.activation,
            sites.settings.dropout if sites is not None and engine.training and not engine.is_disabled else 0.0,
        )

    def _forward(self, layer: int, seeds: Seeds) -> Seeds:
        assert self.work is not None
        out = self.work.stream(layer + 1, self.tokens.num_tokens)
        return block.forward(self._layer(layer, seeds), self.setting, self.scratch, out)

    def _layer(self, layer: int, seeds: Seeds) -> Layer:
        assert self.work is not None
        engine = self.engine
        return Layer(
            engine.decoder.blocks[layer],
            self.sites[layer],
            engine.trained.own[layer] if engine.trained is not None else {},
            self.work.saved(layer, self.tokens.num_tokens),
            self.context.of(layer) if self.context else None,
            seeds,
        )

    def as_context(self, *, learns: bool) -> Context:
        assert self.work is not None
        shape, n = self.engine.shape, self.tokens.num_tokens
        grads = torch.zeros(shape.num_layers, 2, n, shape.key_width, dtype=self.hidden.dtype) if learns else None
        return Context(self.hidden.detach().requires_grad_(learns), self.own_keys, grads)

    @torch.no_grad()
    def backward(self, dhidden: Tensor, dkeys: Tensor | None = None) -> None:
        """Add to the gradients of what learns and of the context.

        `dkeys` [L, 2, N, ..]: gradients by the own keys and values.
        """
        engine, n, learner = self.engine, self.tokens.num_tokens, self.engine.learner
        assert self.work is not None and learner is not None
        learner.attach_gradients()
        decoder, layers, trained = engine.decoder, len(engine.decoder.blocks), engine.trained
        rows = engine.sites.rows if engine.sites is not None else None
        dx, dy = self.work.ends(n)[1], dhidden.contiguous()
        stream = self.work.stream(layers, n)
        if trained is not None and trained.norm_out_grad is not None:
            block.norm_weight_grad(trained.norm_out_grad, dy, stream, self.scale)
        engine.kernels.norm_grad(dx, dy, stream, decoder.norm_out, self.scale, rounded=self.scratch.rounded)
        for layer in reversed(range(learner.lowest, layers)):
            if engine.recompute:
                self._forward(layer, self.seeds[layer])
            extra = dkeys[layer] if dkeys is not None else None
            # The norm before the first product is an adapter's end, but learns where weights do, or rows before it.
            last = trained is None and rows is None and layer == learner.lowest
            block.backward(self._layer(layer, self.seeds[layer]), self.setting, self.scratch, dx, extra, last=last)
        scale = decoder.shape.style.embedding_scale
        if rows is not None:
            rows.add_embedding_gradient(self.tokens.ids_N, dx, scale)
        if trained is not None and trained.embedding_grad is not None:
            trained.embedding_grad.index_add_(0, self.tokens.ids_N, dx if scale == 1.0 else dx * scale)
        self.release()

    def release(self) -> None:
        # A workspace that keeps nothing for the way back is no use to a pass that has to go it.
        if self.work is not None and self.keep:
            self.engine.give_back(self.work, use=self.use)
        self.work = None


class Join(torch.autograd.Function):
    """Joins a pass to autograd: what depends on its hidden states calls its backward."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, run: Pass) -> Tensor:
        ctx.run = run
        return run.hidden

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        ctx.run.backward(grads[0])
        # The pass holds what it returned, and that holds us.
        ctx.run = None
        return None, None


def _rotation(position_N: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cos and sin [N, width / 2] of every token's angles."""
    angles = position_N[:, None].double() * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)
