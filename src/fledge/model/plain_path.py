"""transformers' own model with adapters beside its linear layers: the plain path, for every architecture.

Shapes: N tokens of a tree, U scored tokens, D width, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fledge.errors import ModelError
from fledge.model import attention, lora
from fledge.model.causal import CausalModel
from fledge.model.engine.head import tile_rows, token_logps
from fledge.model.engine.kernels import Kernels, sums_dtype
from fledge.model.lora import LoraSettings
from fledge.model.scalar_head import ScalarHead
from fledge.model.shape import Shape
from fledge.model.tokens import TreeTokens
from fledge.model.weights import Weights

# How far two ways to the same numbers may differ, by their norms. Rounding to 8 bits adds up over layers, to 4 % on the
# 135M, where attention with a scale that is 10 % off makes 20 %. A model that rounds worse goes row by row.
SAME = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 8e-2, torch.float16: 1e-2}


class PlainModel(CausalModel):
    """transformers' own model with adapters beside its linear layers. See CausalModel.

    Shared prefixes are computed once where the model lets its attention be replaced, which is tried out on a small tree
    before it is relied on; else every row is computed by itself. The same goes for the LM head.
    """

    def __init__(self, network: Any, shape: Shape, dtype: torch.dtype, kernels: Kernels, *, reason: str) -> None:
        self.network, self.shape, self.dtype, self._kernels = (
            network.eval().requires_grad_(False),
            shape,
            dtype,
            kernels,
        )
        self.settings: LoraSettings | None = None
        self._trained: dict[str, nn.Parameter] = {}
        self._head, self._own_attention = Head(), network.config._attn_implementation
        self._by_tree = bool(getattr(network, "_supports_attention_backend", False)) and self._shares()
        self._head = self._find_head()
        shares = "shared prefixes once" if self._by_tree else "row by row"
        self.path = f"plain path ({reason}): transformers' own {type(network).__name__}, {shares}"

    def add_adapter(self, settings: LoraSettings, *, seed: int) -> None:
        self.settings = settings
        lora.inject(self.network, settings, seed=seed)
        with torch.no_grad():
            self._row_hidden(_small_tree())
        if past := lora.withdraw_bypassed(self.network):
            self.path += f"; no adapter beside {', '.join(past)}, whose weights it multiplies with by itself"

    def train_weights(self, weights: Weights, span: range | None, *, masters: torch.dtype = torch.float32) -> None:
        assert self.dtype == sums_dtype(self.dtype) == masters, "its weights are their own masters"
        text = lora.text_path(self.network)
        for name, parameter in self.network.named_parameters():
            if span is None or (name.startswith(text) and lora.layer_of(name.removeprefix(text)) in span):
                self._trained[name] = parameter.requires_grad_()

    def save_weights(self, folder: Path) -> None:
        # Of a model that only transformers can read all is written, as it writes it itself.
        self.network.save_pretrained(folder)

    def trained_tensors(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    def add_scalar_head(self) -> nn.Parameter:
        if self._head.kind == "all":
            raise ModelError(
                "model.unsupported",
                f"transformers' {type(self.network).__name__} gives no hidden states that a score could be read from.",
                remedy="Choose another model.",
            )
        self.scalar_head = ScalarHead(self.head.shape[1], self.dtype)
        return self.scalar_head.weight

    def parameters(self) -> dict[str, nn.Parameter]:
        return self._trained or dict(lora.matrices(self.network))

    def gradients(self) -> dict[str, Tensor]:
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.parameters().items()}

    def adapter_tensors(self) -> dict[str, Tensor]:
        return dict(lora.matrices(self.network))

    def train(self, on: bool = True) -> None:
        # Only what we put in: the model's own dropout belongs to its pre-training.
        for _, layer in lora.adapters(self.network):
            layer.train(on)

    def disabled(self) -> AbstractContextManager[None]:
        return lora.disabled(self.network)

    def on_trunk(self, tokens: TreeTokens) -> AbstractContextManager[Any]:
        raise AssertionError("the plain path keeps no context; its pieces are made without a trunk")

    @property
    def has_trunks(self) -> bool:
        return False

    @property
    def head(self) -> Tensor:
        weight: Tensor = self.network.get_output_embeddings().weight
        return weight

    @property
    def logit_softcap(self) -> float:
        return float(getattr(self.network.config, "final_logit_softcapping", None) or 0.0)

    def hidden(self, tokens: TreeTokens, context: Any = None) -> Tensor:
        """Return the last hidden states [N, D], or the logits [N, V] where the head is more than a product."""
        return self._tree_hidden(tokens) if self._by_tree else self._row_hidden(tokens)

    def token_logps(self, hidden_UD: Tensor, target_U: Tensor) -> Tensor:
        if self._head.kind == "product" and not self._trained:
            return token_logps(hidden_UD, self.head, target_U, kernels=self._kernels, softcap=self.logit_softcap)

        def tile(hidden: Tensor, target: Tensor) -> Tensor:
            logits = self.logits(hidden).to(torch.promote_types(hidden.dtype, torch.float32))
            return functional.log_softmax(logits, -1).gather(-1, target[:, None])[:, 0]

        rows = tile_rows(self.shape.vocab_size)
        tiles = zip(torch.split(hidden_UD, rows), torch.split(target_U, rows), strict=True)
        return torch.cat([checkpoint(tile, hidden, target, use_reentrant=False) for hidden, target in tiles])

    def logits(self, hidden_UD: Tensor) -> Tensor:
        if self._head.kind == "product":
            return super().logits(hidden_UD)
        if self._head.kind == "all":
            return hidden_UD
        logits: Tensor = self._head.scale * self.network.get_output_embeddings()(hidden_UD)
        return self.logit_softcap * torch.tanh(logits / self.logit_softcap) if self.logit_softcap else logits

    def _outputs(self, **inputs: Any) -> Tensor:
        if self._head.kind == "all":
            logits: Tensor = self.network(use_cache=False, **inputs).logits[0]
            return logits
        hidden: Tensor = self.network.base_model(use_cache=False, **inputs).last_hidden_state[0]
        return hidden

    def _tree_hidden(self, tokens: TreeTokens, **told: Any) -> Tensor:
        self._attend_by(attention.NAME)
        return self._outputs(input_ids=tokens.ids_N[None], position_ids=tokens.position_N[None], tree=tokens, **told)

    def _attend_by(self, name: str) -> None:
        # Left as it is after a pass: layers that are recomputed attend once more in the backward pass.
        if self.network.config._attn_implementation != name:
            self.network.set_attn_implementation(name)

    def _row_hidden(self, tokens: TreeTokens) -> Tensor:
        """Compute every way from the root to a leaf by itself; a shared token's state is that of the first of them."""
        self._attend_by(self._own_attention)
        ways = [[*((a, b) for a, b in above), (start, end)] for start, end, above in tokens.nodes()]
        inner = {run for way in ways for run in way[:-1]}
        pieces: dict[tuple[int, int], Tensor] = {}
        for way in ways:
            if way[-1] in inner:
                continue
            ids = torch.cat([tokens.ids_N[a:b] for a, b in way])
            states = torch.split(self._outputs(input_ids=ids[None]), [b - a for a, b in way])
            for run, state in zip(way, states, strict=True):
                pieces.setdefault(run, state)
        return torch.cat([pieces[run] for run in sorted(pieces)])

    @torch.no_grad()
    def _shares(self) -> bool:
        """Whether a small tree gives what its rows give one by one, and longer ones will.

        A window beyond the small tree shows only in longer rows. It has to be one that attention is told of: some
        models put it into a mask of their own, which a tree does without.
        """
        windows: set[int] = set()
        try:
            same = _close(self._tree_hidden(_small_tree(), windows=windows), self._row_hidden(_small_tree()))
        except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError, AssertionError):
            return False
        return same and _windows(self.network.config.to_dict()) <= windows

    @torch.no_grad()
    def _find_head(self) -> Head:
        """Return how logits come from hidden states, tried out on some tokens."""
        self._attend_by(self._own_attention)
        ids = _small_tree().ids_N[None]
        head = self.network.get_output_embeddings()
        if not has_head(self.network):
            return Head("all")
        logits = self.network(input_ids=ids, use_cache=False).logits[0]
        hidden = self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        if getattr(head, "bias", None) is None and _close(super().logits(hidden), logits):
            return Head("product")
        given = head(hidden).double()
        self._head = Head("module", float((given * logits.double()).sum() / given.pow(2).sum()))
        return self._head if _close(self.logits(hidden), logits) else Head("all")


@dataclass(frozen=True)
class Head:
    """How a model's logits come from its hidden states.

    kind: "product" with the head's weights, soft-capped at most; "module": whatever the head's module does, times
    `scale`; "all": in no way that can be told, so that `hidden` gives the logits of all tokens.
    """

    kind: str = "product"
    scale: float = 1.0


def has_head(network: Any) -> bool:
    head = network.get_output_embeddings()
    return getattr(head, "weight", None) is not None and network.base_model is not network


_WINDOW = re.compile(r"(?:^|_)(?:window|window_size|sliding_window|chunk_size|local_attn_size)$")


def _small_tree() -> TreeTokens:
    """A beginning, behind which two branches stand."""
    head, first, second = 21, 30, 37
    ids = torch.tensor([1 + (7 * i * i + 3 * i) % 29 for i in range(head + first + second)])
    places = [*range(head + first), *range(head, head + second)]
    end = head + first
    return TreeTokens(
        ids_N=ids,
        position_N=torch.tensor(places),
        node_B5=torch.tensor([[0, head, 0, 0, 0], [head, end, head, 0, 1], [end, end + second, head, 1, 2]]),
        span_S3=torch.tensor([[0, head, 0], [0, head, 0]]),
    )


def _windows(config: Mapping[str, Any]) -> set[int]:
    """Return how far tokens may look back, or the lengths that attention is cut into, wherever a config tells one."""
    found = {
        int(value) for name, value in config.items() if _WINDOW.search(str(name)) and type(value) is int and value > 0
    }
    return found.union(*(_windows(value) for value in config.values() if isinstance(value, dict)))


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether every single token is near enough, each channel by its own size.

    One that is far off must not hide behind the others, nor a number behind an outlier's channel.
    """
    if found.shape != expected.shape:
        return False
    tolerance = SAME[expected.dtype]
    found, expected = found.double(), expected.double()
    scale = expected.abs().mean(0).clamp_min(1e-12)
    apart = ((found - expected) / scale).norm(dim=-1) / (expected / scale).norm(dim=-1).clamp_min(1e-12)
    return bool((apart <= tolerance).all())
