"""Weights -> a model ready for the token tree: the engine for the Llama family, transformers' own for all others.

The one door to transformers, which is loaded only where the plain path is taken.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fledge.errors import ModelError
from fledge.model import attention, lora
from fledge.model.causal import CausalModel
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.decoder import inverse_frequencies, read_decoder
from fledge.model.engine.head import tile_rows, token_logps
from fledge.model.engine.kernels import Kernels
from fledge.model.engine.passes import Engine
from fledge.model.lora import LoraSettings
from fledge.model.scalar_head import ScalarHead
from fledge.model.shape import Shape
from fledge.model.tokens import TreeTokens
from fledge.model.weights import OtherWeights, Weights

# How far two ways to the same numbers may differ, by their norms. Rounding to 8 bits adds up over layers, to 4 % on the
# 135M, where attention with a scale that is 10 % off makes 20 %. A model that rounds worse goes row by row.
SAME = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 8e-2, torch.float16: 1e-2}


def plain_reason(weights: Weights, *, dora: bool = False) -> str:
    """Return why the plain path has to be taken, in words, or "" where the fast one can."""
    if isinstance(weights, OtherWeights):
        return weights.why
    return "DoRA needs the length of every merged row" if dora else ""


def prepare_plain(weights: Weights) -> bool:
    """Load what the plain path needs of transformers, so that a forecast that begins here counts it.

    Return whether the model, as far as its build tells, has no LM head to call and gives the logits of all tokens.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if not isinstance(weights, OtherWeights):
        importlib.import_module("transformers.models.llama.modeling_llama")
        return False
    try:
        config = AutoConfig.from_pretrained(weights.path, local_files_only=True)
        with torch.device("meta"):
            return not _has_head(AutoModelForCausalLM.from_config(config))
    except (OSError, ValueError, KeyError, ImportError, NotImplementedError, RuntimeError):
        # Loading it will say what is wrong, if anything is.
        return False


def _has_head(network: Any) -> bool:
    head = network.get_output_embeddings()
    return getattr(head, "weight", None) is not None and network.base_model is not network


def load_model(
    weights: Weights, *, dtype: torch.dtype, plain: str = "", recompute: bool = False, stay: bool = False
) -> CausalModel:
    """Return the model of `weights` in `dtype`, frozen, without an adapter.

    It is the engine where the architecture is one of its own; `plain` is a reason, in words, to take the plain path.
    With `recompute` only the inputs of layers are kept for the backward pass. With `stay` quantised weights stay in the
    blocks of their file, which the engine alone can do.
    """
    plain = plain or plain_reason(weights)
    if not plain:
        kernels = kernels_for(dtype)
        return Engine(read_decoder(weights, kernels, dtype=dtype, stay=stay), kernels, recompute=recompute)
    assert not stay, "the plain path keeps no blocks"
    network = _from_folder(weights.path, dtype) if weights.path.is_dir() else _llama(weights, dtype)
    if recompute:
        _recompute_layers(network)
    return PlainModel(network, weights.shape, dtype, kernels_for(dtype), reason=plain)


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

    def add_scalar_head(self) -> None:
        if self._head.kind == "all":
            raise ModelError(
                "model.unsupported",
                f"transformers' {type(self.network).__name__} gives no hidden states that a score could be read from.",
                remedy="Choose another model.",
            )
        self.scalar_head = ScalarHead(self.head.shape[1], self.dtype)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(lora.matrices(self.network))

    def gradients(self) -> dict[str, Tensor]:
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in lora.matrices(self.network).items()}

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
        if self._head.kind == "product":
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
        if not _has_head(self.network):
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


def _recompute_layers(network: Any) -> None:
    """Keep the inputs of layers only; what they compute is computed again in the backward pass."""
    layers = max((m for m in network.modules() if isinstance(m, nn.ModuleList)), key=len)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


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


def _from_folder(folder: Path, dtype: torch.dtype) -> Any:
    """Return whatever causal language model transformers makes of a folder. No code of the folder is run."""
    from transformers import AttentionInterface, AutoModelForCausalLM
    from transformers.utils import logging

    # Its bar would run through ours.
    logging.disable_progress_bar()
    AttentionInterface.register(attention.NAME, attention.tree_attention)
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            "model.unsupported",
            f"transformers cannot load it as a causal language model: {str(error).splitlines()[0]}",
            where=str(folder),
            remedy="Choose another model.",
        ) from error
    return network


def _llama(weights: Weights, dtype: torch.dtype) -> Any:
    """Return transformers' LlamaForCausalLM with `weights`, tensor by tensor so that float32 is never held whole."""
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    AttentionInterface.register(attention.NAME, attention.tree_attention)
    shape = weights.shape
    if shape.architecture != "llama":
        raise ModelError(
            "model.unsupported",
            f"a '{shape.architecture}' model can be built from a GGUF file on the fast path only.",
            where=str(weights.path),
            remedy="Use its Hugging Face folder, or leave train.dora off.",
        )
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.context_tokens,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        network: Any = LlamaForCausalLM(config)
    state = {name: torch.from_numpy(weights.read(name)).to(dtype) for name in weights.names()}
    missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    assert not unexpected, f"tensors that the model does not know: {unexpected}"
    if shape.tied:
        network.tie_weights()
        missing = [name for name in missing if name != "lm_head.weight"]
    assert not missing, f"tensors that were not read: {missing}"
    network.model.rotary_emb.inv_freq = inverse_frequencies(shape).float()
    return network
