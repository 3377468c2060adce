"""The engine: a Llama-family decoder with LoRA, forward and backward over a token tree, through the fastest kernels.

A pass computes the hidden states of a tree's tokens and, on the way back, adds to the adapters' gradients. A pass may
stand on a *context*: tokens computed earlier, whose keys and values its own tokens see. So a prefix that all pieces of
an optimizer step share is computed once: forward once, the pieces forward and backward while gradients by the context
are added up, then the context backward once with those. That is exact (docs/decisions.md).

Shapes: N own tokens, C tokens of the context, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fledge.model.adapter import token_rows_key
from fledge.model.causal import CausalModel
from fledge.model.engine.decoder import SITES, Decoder
from fledge.model.engine.head import LogitsTile, token_logps
from fledge.model.engine.kernels import Kernels, sums_dtype
from fledge.model.engine.one_pass import Context, Join, Pass
from fledge.model.engine.sites import Sites
from fledge.model.engine.token_rows import TokenRows
from fledge.model.engine.trained import Trained
from fledge.model.engine.workspace import Workspace
from fledge.model.extended import Extended
from fledge.model.lora import LoraSettings, check_targets
from fledge.model.tokens import TreeTokens
from fledge.model.weights import Weights


class Engine(CausalModel):
    """The fast path. See CausalModel for what it does."""

    def __init__(self, decoder: Decoder, kernels: Kernels, *, recompute: bool = False) -> None:
        self.decoder, self.kernels = decoder, kernels
        self.shape, self.dtype = decoder.shape, decoder.dtype
        self.sites: Sites | None = None
        self.trained: Trained | None = None
        self.recompute = recompute
        how = kernels.reason if kernels.name == "compiled" else f"in {kernels.name}: {kernels.reason}"
        self.path = f"fast path, kernels {how}"
        self.training = self.is_disabled = False
        self._free: dict[str, list[Workspace]] = {"trunk": [], "piece": []}
        self._forward_only: Workspace | None = None
        self._tile = LogitsTile()
        self.lower: Tensor | None = None
        self._prompt_keys: Tensor | None = None

    def add_adapter(self, settings: LoraSettings, *, seed: int) -> None:
        assert not settings.dora, "DoRA takes the plain path"
        names = [name.rsplit(".", 1)[-1] for site in SITES.values() for name in site]
        check_targets({target: names.count(target) for target in settings.targets or ()}, names)
        self.sites = Sites(self.decoder, settings, seed=seed)
        self._free, self._forward_only = {"trunk": [], "piece": []}, None

    def train_rows(self, weights: Extended) -> None:
        assert self.sites is not None
        self.sites.rows = TokenRows(self.decoder, weights)
        self._free, self._forward_only = {"trunk": [], "piece": []}, None

    def train_weights(self, weights: Weights, span: range | None, *, masters: torch.dtype = torch.float32) -> None:
        whole = span is None or len(span) == self.shape.num_layers
        first, last = (0, self.shape.num_layers) if span is None else (span.start, span.stop)
        self.trained = Trained(self.decoder, weights, first=first, last=last, outside=whole, masters=masters)
        self._free, self._forward_only = {"trunk": [], "piece": []}, None

    @property
    def learner(self) -> Sites | Trained | None:
        """What learns: an adapter, or the weights themselves."""
        return self.sites or self.trained

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.learner.parameters if self.learner is not None else {}

    def gradients(self) -> dict[str, Tensor]:
        assert self.learner is not None
        rows = {} if self._rows is None else self._rows.tensors(gradients=True)
        return self.learner.tensors(gradients=True) | {token_rows_key(name): grad for name, grad in rows.items()}

    def trained_tensors(self) -> dict[str, Tensor]:
        assert self.trained is not None
        return self.trained.tensors()

    def adapter_tensors(self) -> dict[str, Tensor]:
        assert self.sites is not None
        return self.sites.tensors()

    @property
    def _rows(self) -> TokenRows | None:
        return self.sites.rows if self.sites is not None else None

    def token_rows(self) -> dict[str, Tensor]:
        return {} if self._rows is None else self._rows.tensors()

    @property
    def token_ids(self) -> range:
        return range(0) if self._rows is None else self._rows.ids

    def train(self, on: bool = True) -> None:
        self.training = on

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.is_disabled = True
        try:
            yield
        finally:
            self.is_disabled = False

    @property
    def logit_softcap(self) -> float:
        return self.shape.style.final_softcap

    @property
    def head(self) -> Tensor:
        if self._rows is not None:
            self._rows.refresh(trained=not self.is_disabled)
        return self.decoder.head_VD

    def token_logps(self, hidden_UD: Tensor, target_U: Tensor) -> Tensor:
        return token_logps(
            *(hidden_UD, self.head, target_U),
            kernels=self.kernels,
            softcap=self.logit_softcap,
            tile=self._tile,
            trained=self.trained,
            rows=self._rows,
        )

    def hidden(self, tokens: TreeTokens, context: Context | None = None) -> Tensor:
        learns = self.learner is not None and torch.is_grad_enabled() and not self.is_disabled
        if not tokens.num_tokens:
            # Every row of the piece ends inside the context.
            return torch.empty(0, self.shape.width, dtype=sums_dtype(self.dtype))
        run = Pass(self, tokens, context, keep=learns)
        if not learns:
            return run.hidden
        assert self.learner is not None
        hidden: Tensor = Join.apply(self.learner.anchor, run)  # type: ignore[no-untyped-call]
        return hidden

    @contextmanager
    def on_trunk(self, tokens: TreeTokens) -> Iterator[Context]:
        """Give the context that `tokens` make. When the block ends, what it has collected flows back through them."""
        learns = self.learner is not None and torch.is_grad_enabled() and not self.is_disabled
        run = Pass(self, tokens, None, keep=learns, keys=True)
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
        assert self.learner is not None
        self.lower = None
        count = sum(tokens.num_tokens for tokens in (*([] if trunk is None else [trunk]), *parts))
        lower, start = torch.empty(count, self.shape.width, dtype=sums_dtype(self.dtype)), 0
        for run in self._runs(trunk, parts, until=self.learner.lowest):
            end = start + run.tokens.num_tokens
            lower[start:end], start = run.hidden, end
        self.lower = lower

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
        held = self.lower, self._prompt_keys
        try:
            yield
        finally:
            self.lower, self._prompt_keys = held

    def prompt_context(self, place_C: Tensor) -> Context:
        """Return remembered prompts' tokens as a context, through which nothing flows back."""
        assert self._prompt_keys is not None
        chosen = ((layer, kv.index_select(1, place_C)) for layer, kv in enumerate(self._prompt_keys))
        keys = {layer: (kv[0], kv[1]) for layer, kv in chosen}
        hidden = torch.zeros(len(place_C), self.shape.width, dtype=sums_dtype(self.dtype))
        return Context(hidden, keys, None)

    def _runs(self, trunk: TreeTokens | None, parts: Sequence[TreeTokens], *, until: int) -> Iterator[Pass]:
        """Yield forward passes through the layers below `until`, the parts standing on the trunk."""
        context = None
        if trunk is not None:
            base = Pass(self, trunk, None, keep=False, keys=True, until=until)
            context = base.as_context(learns=False)
            yield base
        for part in parts:
            yield Pass(self, part, context, keep=False, keys=True, until=until)

    def take_workspace(self, num_tokens: int, *, keep: bool, use: str) -> Workspace:
        """Return a workspace that nobody uses, with room for `num_tokens`; a larger one replaces a smaller one.

        Trunks and pieces have their own: a short trunk must not take the room of a long piece that stands on it.
        """
        ranks = {} if self.learner is None else self.learner.ranks
        if not keep:
            if self._forward_only is None or self._forward_only.num_tokens < num_tokens:
                nothing = self.shape.num_layers + 1
                self._forward_only = Workspace(self.decoder, num_tokens=num_tokens, ranks=ranks, lowest=nothing)
            return self._forward_only
        assert self.learner is not None
        free = self._free[use]
        fitting = [w for w in free if w.num_tokens >= num_tokens]
        if fitting:
            best = min(fitting, key=lambda w: w.num_tokens)
            free.remove(best)
            return best
        if free:
            free.remove(max(free, key=lambda w: w.num_tokens))
        lowest = self.learner.lowest
        return Workspace(self.decoder, num_tokens=num_tokens, ranks=ranks, lowest=lowest, recompute=self.recompute)

    def give_back(self, workspace: Workspace, *, use: str) -> None:
        self._free[use].append(workspace)
