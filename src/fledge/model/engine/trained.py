"""A decoder's own weights as what is trained: masters, gradients, and what is multiplied with brought up to them.

Siblings are fused as the engine multiplies with them, so one product gives the gradient of q, k and v, and a weight of
a Hugging Face name is a view of some rows. Masters are float32; where the compute dtype is that of the masters, they
are what is multiplied with and no copy is held.

Shapes: V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fledge.model.engine.decoder import SITES, Block, Decoder, site_widths
from fledge.model.engine.kernels import sums_dtype
from fledge.model.shape import Shape
from fledge.model.weights import Weights

# The norms of a block by Hugging Face's name: in families that norm what is added to the stream, and in the others.
NORMS = {
    False: {"norm_in": "input_layernorm", "norm_ffn": "post_attention_layernorm"},
    True: {
        "norm_in": "input_layernorm",
        "norm_ffn": "pre_feedforward_layernorm",
        "norm_attn_out": "post_attention_layernorm",
        "norm_ffn_out": "post_feedforward_layernorm",
    },
}
HEAD_NORMS = {"norm_q": "self_attn.q_norm", "norm_k": "self_attn.k_norm"}
EMBEDDING, HEAD, NORM_OUT = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass(frozen=True)
class TrainedTensor:
    """One trained tensor as the engine holds it. used: what is multiplied with.

    parts: the Hugging Face names of its rows, with their number. offset: what the engine adds to a stored norm.
    """

    master: nn.Parameter
    grad: Tensor
    used: Tensor
    parts: tuple[tuple[str, int], ...]
    offset: float


class Trained:
    """The weights of layers `first` to `last` (not included), and with `outside` what stands outside the layers.

    The masters are read from `weights`, so that nothing of them is lost to the compute dtype; with `masters` bfloat16
    they are kept in it, and an optimizer has to round them without bias.
    """

    def __init__(
        self,
        decoder: Decoder,
        weights: Weights,
        *,
        first: int,
        last: int,
        outside: bool,
        masters: torch.dtype = torch.float32,
    ) -> None:
        self.lowest, self.outside = first, outside
        self._shape, self._masters = decoder.shape, torch.promote_types(masters, decoder.dtype)
        self.all: dict[str, TrainedTensor] = {}
        self.own: list[Mapping[str, Tensor]] = []
        for layer, block in enumerate(decoder.blocks):
            names = dict(_named(block, decoder.shape, layer)) if first <= layer < last else {}
            for name, (used, parts) in names.items():
                self._add(f"layers.{layer}.{name}", used, parts, weights)
            self.own.append({name: self.all[f"layers.{layer}.{name}"].grad for name in names})
        if outside:
            assert isinstance(decoder.embedding_VD, Tensor), "weights that are trained stay in no blocks"
            self._add("embedding", decoder.embedding_VD, ((EMBEDDING, 0),), weights)
            self._add("norm_out", decoder.norm_out, ((NORM_OUT, 0),), weights)
            if not decoder.shape.tied:
                self._add("head", decoder.head_VD, ((HEAD, 0),), weights)

    def _add(self, name: str, used: Tensor, parts: tuple[tuple[str, int], ...], weights: Weights) -> None:
        norm = used.dim() == 1 and "bias" not in name
        offset = self._shape.style.norm_offset if norm else 0.0
        # Norms and biases are few, and kept in sums by the engine.
        dtype = self._masters if used.dim() == 2 else used.dtype
        if used.dtype == dtype:
            master = used
        else:
            master = torch.empty_like(used, dtype=dtype)
            at = 0
            for part, rows in parts:
                rows = rows or len(master)
                master[at : at + rows] = torch.from_numpy(weights.read(part)).to(dtype) + offset
                at += rows
        parameter = nn.Parameter(master)
        if dtype != sums_dtype(dtype):
            parameter.grad_dtype = sums_dtype(dtype)
        grad = torch.zeros_like(master, dtype=sums_dtype(dtype))
        self.all[name] = TrainedTensor(parameter, grad, used, parts, offset)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: trained.master for name, trained in self.all.items()}

    @property
    def anchor(self) -> nn.Parameter:
        """A parameter by which autograd is told that something learns."""
        return next(iter(self.all.values())).master

    @property
    def ranks(self) -> dict[str, int]:
        """There are no adapters."""
        return {}

    @property
    def embedding_grad(self) -> Tensor | None:
        return self.all["embedding"].grad if self.outside else None

    @property
    def norm_out_grad(self) -> Tensor | None:
        return self.all["norm_out"].grad if self.outside else None

    @property
    def head_grad(self) -> Tensor | None:
        """Where gradients by the head are added up: the embedding's place where the two are one."""
        return self.all["embedding" if self._shape.tied else "head"].grad if self.outside else None

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring what is multiplied with up to the masters, before every pass (see Sites.refresh)."""
        for trained in self.all.values():
            if trained.used.data_ptr() != trained.master.data_ptr():
                trained.used.copy_(trained.master)

    def attach_gradients(self) -> None:
        """Make sure that what the kernels add to is what the optimizer reads; zero where it was set aside."""
        for trained in self.all.values():
            if trained.master.grad is not trained.grad:
                trained.grad.zero_()
                trained.master.grad = trained.grad

    def tensors(self, *, gradients: bool = False) -> dict[str, Tensor]:
        """Return the weights (or their gradients) by Hugging Face's names, as they are stored; views but for norms."""
        found: dict[str, Tensor] = {}
        for trained in self.all.values():
            whole = trained.grad if gradients else trained.master.detach()
            if trained.offset and not gradients:
                whole = whole - trained.offset
            rows = [rows or len(whole) for _, rows in trained.parts]
            found |= dict(zip((name for name, _ in trained.parts), torch.split(whole, rows), strict=True))
        return found


def _named(block: Block, shape: Shape, layer: int) -> Iterator[tuple[str, tuple[Tensor, tuple[tuple[str, int], ...]]]]:
    """Yield a block's tensors by its own name for them, each with the Hugging Face names and numbers of its rows."""
    prefix = f"model.layers.{layer}."
    for site, names in SITES.items():
        rows = site_widths(shape, site)[1]
        yield site, (block.weights[site], tuple((f"{prefix}{n}.weight", r) for n, r in zip(names, rows, strict=True)))
        if site == "qkv" and block.qkv_bias is not None:
            yield (
                "qkv_bias",
                (
                    block.qkv_bias,
                    tuple((f"{prefix}{n}.bias", r) for n, r in zip(names, rows, strict=True)),
                ),
            )
    for name, stored in {**NORMS[shape.style.post_norms], **(HEAD_NORMS if shape.style.head_norm else {})}.items():
        yield name, (getattr(block, name), ((f"{prefix}{stored}.weight", 0),))
