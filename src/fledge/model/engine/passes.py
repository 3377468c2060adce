"""The engine: a Llama-family decoder with LoRA, forward and backward over a token tree, through the fastest kernels.

A pass computes the hidden states of a tree's tokens and, on the way back, adds to the adapters' gradients. A pass may
stand on a *context*: tokens computed earlier, whose keys and values its own tokens see. So a prefix that all pieces of
an optimizer step share is computed once: forward once, the pieces forward and backward while gradients by the context
are added up, then the context backward once with those. That is exact (docs/decisions.md).

Shapes: N own tokens, C tokens of the context, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fledge.model.causal import CausalModel
from fledge.model.engine import block
from fledge.model.engine.block import KeyValues, Seeds, Setting
from fledge.model.engine.decoder import SITES, Decoder
from fledge.model.engine.head import LogitsTile, token_logps
from fledge.model.engine.kernels import Kernels, sums_dtype
from fledge.model.engine.sites import Site, Sites
from fledge.model.engine.stored import rows_of
from fledge.model.engine.workspace import Workspace
from fledge.model.lora import LoraSettings, check_targets
from fledge.model.tokens import TreeTokens


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


class Engine(CausalModel):
    """The fast path. See CausalModel for what it does."""

    def __init__(self, decoder: Decoder, kernels: Kernels, *, recompute: bool = False) -> None:
        self.decoder, self.kernels = decoder, kernels
        self.shape, self.dtype = decoder.shape, decoder.dtype
        self.sites: Sites | None = None
        self.recompute = recompute
        how = kernels.reason if kernels.name == "compiled" else f"in {kernels.name}: {kernels.reason}"
        self.path = f"fast path, kernels {how}"
        self._training = self._disabled = False
        self._free: dict[str, list[Workspace]] = {"trunk": [], "piece": []}
        self._forward_only: Workspace | None = None
        self._tile = LogitsTile()
        self._lower: Tensor | None = None
        self._prompt_keys: Tensor | None = None

    def add_adapter(self, settings: LoraSettings, *, seed: int) -> None:
        assert not settings.dora, "DoRA takes the plain path"
        names = [name.rsplit(".", 1)[-1] for site in SITES.values() for name in site]
        check_targets({target: names.count(target) for target in settings.targets or ()}, names)
        self.sites = Sites(self.decoder, settings, seed=seed)
        self._free, self._forward_only = {"trunk": [], "piece": []}, None

    def parameters(self) -> dict[str, nn.Parameter]:
        return {} if self.sites is None else {"lora_A": self.sites.lora_A, "lora_B": self.sites.lora_B}

    def gradients(self) -> dict[str, Tensor]:
        assert self.sites is not None
        return self.sites.tensors(gradients=True)

    def adapter_tensors(self) -> dict[str, Tensor]:
        assert self.sites is not None
        return self.sites.tensors()

    def train(self, on: bool = True) -> None:
        self._training = on

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self._disabled = True
        try:
            yield
        finally:
            self._disabled = False

    @property
    def logit_softcap(self) -> float:
        return self.shape.style.final_softcap

    @property
    def head(self) -> Tensor:
        return self.decoder.head_VD

    def token_logps(self, hidden_UD: Tensor, target_U: Tensor) -> Tensor:
        return token_logps(
            hidden_UD, self.head, target_U, kernels=self.kernels, softcap=self.logit_softcap, tile=self._tile
        )

    def hidden(self, tokens: TreeTokens, context: Context | None = None) -> Tensor:
        learns = self.sites is not None and torch.is_grad_enabled() and not self._disabled
        if not tokens.num_tokens:
            # Every row of the piece ends inside the context.
            return torch.empty(0, self.shape.width, dtype=sums_dtype(self.dtype))
        run = _Pass(self, tokens, context, keep=learns)
        if not learns:
            return run.hidden
        assert self.sites is not None
        hidden: Tensor = _Join.apply(self.sites.lora_A, run)  # type: ignore[no-untyped-call]
        return hidden

    @contextmanager
    def on_trunk(self, tokens: TreeTokens) -> Iterator[Context]:
        """Give the context that `tokens` make. When the block ends, what it has collected flows back through them."""
        learns = self.sites is not None and torch.is_grad_enabled() and not self._disabled
        run = _Pass(self, tokens, None, keep=learns, keys=True)
        context = run.as_context(learns=learns)
        try:
            yield context
            if learns:
                grad = context.hidden.grad
                run.backward(torch.zeros_like(context.hidden) if grad is None else grad, context.grads)
        finally:
            run.release()

    @torch.no_grad()
    def remember_lower_layers(self, trunk: TreeTokens | None, parts: Sequence[TreeTokens]) -> None:
        """Compute what the layers below the adapter make of all tokens, for the whole run: they never change.

        A token's number is its place in `trunk` and then in `parts`; later passes name it in `place_N`. Takes
        4 D bytes a token.
        """
        assert self.sites is not None
        self._lower = None
        count = sum(tokens.num_tokens for tokens in (*([] if trunk is None else [trunk]), *parts))
        lower, start = torch.empty(count, self.shape.width, dtype=sums_dtype(self.dtype)), 0
        for run in self._runs(trunk, parts, until=self.sites.lowest):
            end = start + run.tokens.num_tokens
            lower[start:end], start = run.hidden, end
        self._lower = lower

    @torch.no_grad()
    def remember_prompts(self, trunk: TreeTokens | None, parts: Sequence[TreeTokens]) -> None:
        """Compute the keys and values of all prompts' tokens as the base model makes them, for the whole run.

        Numbers are as above. Takes 4 L kv_heads width bytes a token in bfloat16.
        """
        self._prompt_keys = None
        count = sum(tokens.num_tokens for tokens in (*([] if trunk is None else [trunk]), *parts))
        shape = self.shape
        kept, start = torch.empty(shape.num_layers, 2, count, shape.key_width, dtype=self.dtype), 0
        with self.disabled():
            for run in self._runs(trunk, parts, until=shape.num_layers):
                end = start + run.tokens.num_tokens
                for layer, (k, v) in run.own_keys.items():
                    kept[layer, 0, start:end], kept[layer, 1, start:end] = k, v
                start = end
        self._prompt_keys = kept

    @contextmanager
    def apart(self) -> Iterator[None]:
        held = self._lower, self._prompt_keys
        try:
            yield
        finally:
            self._lower, self._prompt_keys = held

    def prompt_context(self, place_C: Tensor) -> Context:
        """Return remembered prompts' tokens as a context, through which nothing flows back."""
        assert self._prompt_keys is not None
        chosen = ((layer, kv.index_select(1, place_C)) for layer, kv in enumerate(self._prompt_keys))
        keys = {layer: (kv[0], kv[1]) for layer, kv in chosen}
        hidden = torch.zeros(len(place_C), self.shape.width, dtype=sums_dtype(self.dtype))
        return Context(hidden, keys, None)

    def _runs(self, trunk: TreeTokens | None, parts: Sequence[TreeTokens], *, until: int) -> Iterator[_Pass]:
        """Yield forward passes through the layers below `until`, the parts standing on the trunk."""
        context = None
        if trunk is not None:
            base = _Pass(self, trunk, None, keep=False, keys=True, until=until)
            context = base.as_context(learns=False)
            yield base
        for part in parts:
            yield _Pass(self, part, context, keep=False, keys=True, until=until)

    def take_workspace(self, num_tokens: int, *, keep: bool, use: str) -> Workspace:
        """Return a workspace that nobody uses, with room for `num_tokens`; a larger one replaces a smaller one.

        Trunks and pieces have their own: a short trunk must not take the room of a long piece that stands on it.
        """
        ranks = {} if self.sites is None else self.sites.ranks
        if not keep:
            if self._forward_only is None or self._forward_only.num_tokens < num_tokens:
                nothing = self.shape.num_layers + 1
                self._forward_only = Workspace(self.decoder, num_tokens=num_tokens, ranks=ranks, lowest=nothing)
            return self._forward_only
        assert self.sites is not None
        free = self._free[use]
        fitting = [w for w in free if w.num_tokens >= num_tokens]
        if fitting:
            best = min(fitting, key=lambda w: w.num_tokens)
            free.remove(best)
            return best
        if free:
            free.remove(max(free, key=lambda w: w.num_tokens))
        lowest = self.sites.lowest
        return Workspace(self.decoder, num_tokens=num_tokens, ranks=ranks, lowest=lowest, recompute=self.recompute)

    def give_back(self, workspace: Workspace, *, use: str) -> None:
        self._free[use].append(workspace)


class _Pass:
    """One way through the decoder. With `keep` it holds a workspace until it has gone back or is released.

    With `keys` the keys and values of all layers can be made a context.
    """

    def __init__(
        self,
        engine: Engine,
        tokens: TreeTokens,
        context: Context | None,
        *,
        keep: bool,
        keys: bool = False,
        until: int | None = None,
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
            sites.by_layer if sites is not None and not engine._disabled else [{} for _ in decoder.blocks]
        )
        with torch.no_grad():
            if sites is not None:
                sites.refresh()
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
        if tokens.place_N is not None and engine._lower is not None:
            assert engine.sites is not None
            first = engine.sites.lowest
            self.work.stream(first, tokens.num_tokens).copy_(engine._lower.index_select(0, tokens.place_N))
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
        lowest = self.engine.sites.lowest if self.engine.sites is not None else 0
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
            sites.settings.dropout if sites is not None and engine._training and not engine._disabled else 0.0,
        )

    def _forward(self, layer: int, seeds: Seeds) -> Seeds:
        assert self.work is not None
        n = self.tokens.num_tokens
        decoder = self.engine.decoder
        context = self.context.of(layer) if self.context else None
        out = self.work.stream(layer + 1, n)
        saved = self.work.saved(layer, n)
        return block.forward(
            decoder.blocks[layer], self.sites[layer], self.setting, saved, self.scratch, out, context, seeds
        )

    def as_context(self, *, learns: bool) -> Context:
        assert self.work is not None
        shape, n = self.engine.shape, self.tokens.num_tokens
        grads = torch.zeros(shape.num_layers, 2, n, shape.key_width, dtype=self.hidden.dtype) if learns else None
        return Context(self.hidden.detach().requires_grad_(learns), self.own_keys, grads)

    @torch.no_grad()
    def backward(self, dhidden: Tensor, dkeys: Tensor | None = None) -> None:
        """Add to the gradients of adapters and context. `dkeys` [L, 2, N, ..]: gradients by the own keys and values."""
        engine, n = self.engine, self.tokens.num_tokens
        assert self.work is not None and engine.sites is not None
        engine.sites.attach_gradients()
        decoder, layers = engine.decoder, len(engine.decoder.blocks)
        dx = self.work.ends(n)[1]
        stream = self.work.stream(layers, n)
        engine.kernels.norm_grad(
            dx, dhidden.contiguous(), stream, decoder.norm_out, self.scale, rounded=self.scratch.rounded
        )
        lowest = engine.sites.lowest
        for layer in reversed(range(lowest, layers)):
            if engine.recompute:
                self._forward(layer, self.seeds[layer])
            block.backward(
                decoder.blocks[layer],
                self.sites[layer],
                self.setting,
                self.work.saved(layer, n),
                self.scratch,
                self.seeds[layer],
                dx,
                self.context.of(layer) if self.context else None,
                dkeys[layer] if dkeys is not None else None,
                last=layer == lowest,
            )
        self.release()

    def release(self) -> None:
        # A workspace that keeps nothing for the way back is no use to a pass that has to go it.
        if self.work is not None and self.keep:
            self.engine.give_back(self.work, use=self.use)
        self.work = None


class _Join(torch.autograd.Function):
    """Joins a pass to autograd: what depends on its hidden states calls its backward."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, run: _Pass) -> Tensor:
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
