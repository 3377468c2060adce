"""Low-rank adapters, own modules: y = x W^T + scale (x A^T) B^T with W frozen (Hu et al. 2021, arXiv 2106.09685).

Forward and backward are written out so that no full-width temporary is made for the adapter, nothing is computed for W,
and the products are associated thinly: dA = (scale dy B)^T x, dB = scale dy^T (x A^T), each O(N D r).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fledge.errors import ModelError, nearest
from fledge.model.adapter import Adapter

# All linear layers of a block: what "LoRA Without Regret" and QLoRA (arXiv 2305.14314) found to matter more than rank.
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PEFT_PREFIX = "base_model.model."


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.t()
        y = functional.linear(flat, weight, bias).addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(flat, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, low = ctx.saved_tensors
        dy = grads[0].reshape(-1, weight.shape[0])
        dlow = (dy @ b).mul_(ctx.scale)
        # The first layer's input is a frozen embedding: nothing below wants this product.
        dx = (dy @ weight).addmm_(dlow, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return dx, None, None, dlow.t() @ flat, (dy.t() @ low).mul_(ctx.scale), None


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter beside it. A [r, in] and B [out, r] are float32 masters."""

    def __init__(self, base: nn.Linear, *, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale, self.dropout, self.enabled = scale, dropout, True
        # Uniform(-1/sqrt(in), 1/sqrt(in)): PEFT's default, kaiming_uniform with a = sqrt(5).
        bound = 1 / math.sqrt(base.in_features)
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return functional.linear(x, self.base.weight, self.base.bias)
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if self.dropout and self.training:
            dropped = functional.dropout(x, self.dropout)
            low = functional.linear(functional.linear(dropped, a), b)
            return functional.linear(x, self.base.weight, self.base.bias).add(low, alpha=self.scale)
        y: Tensor = _LowRank.apply(x, self.base.weight, self.base.bias, a, b, self.scale)  # type: ignore[no-untyped-call]
        return y


def inject(
    network: nn.Module, *, rank: int, alpha: float, seed: int, targets: Sequence[str] = ALL_LINEAR, dropout: float = 0.0
) -> int:
    """Freeze `network`, put an adapter beside every linear layer named in `targets`; return how many.

    The adapters depend on the seed and the layer order alone. Raises ModelError where a target matches nothing.
    """
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    found = dict.fromkeys(targets, 0)
    places = [
        (parent, name)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and name in found
    ]
    for parent, name in places:
        base = getattr(parent, name)
        adapter = LoraLinear(base, rank=rank, scale=alpha / rank, dropout=dropout, generator=generator)
        setattr(parent, name, adapter)
        found[name] += 1
    for target, count in found.items():
        if not count:
            linear = (name for name, module in network.named_modules() if isinstance(module, nn.Linear))
            names = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise ModelError(
                "model.unsupported", f"no linear layer is called '{target}'{nearest(target, names) or '.'}"
            )
    return len(places)


def adapters(network: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield (module name, adapter layer) in layer order."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, LoraLinear))


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name, in layer order."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


@contextmanager
def disabled(network: nn.Module) -> Iterator[None]:
    """Answer as the base model inside the block: the reference of preference objectives."""
    layers = [layer for _, layer in adapters(network)]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


def to_adapter(network: nn.Module, *, alpha: float, base_name: str) -> Adapter:
    """Return the adapter of `network` in PEFT's layout, float32."""
    tensors = {}
    targets: dict[str, None] = {}
    rank = 0
    for name, layer in adapters(network):
        rank = layer.lora_A.shape[0]
        targets[name.rsplit(".", 1)[-1]] = None
        for part in ("lora_A", "lora_B"):
            tensors[f"{PEFT_PREFIX}{name}.{part}.weight"] = getattr(layer, part).detach().numpy().copy()
    return Adapter(
        rank=rank, alpha=alpha, use_rslora=False, target_modules=tuple(targets), base_name=base_name, tensors=tensors
    )


def load_into(network: nn.Module, adapter: Adapter) -> None:
    """Copy the tensors of `adapter` into the adapter layers of `network`, which must be the same ones."""
    layers = dict(adapters(network))
    expected = {f"{PEFT_PREFIX}{name}.{part}.weight" for name in layers for part in ("lora_A", "lora_B")}
    if expected != set(adapter.tensors):
        odd = sorted(expected ^ set(adapter.tensors))
        raise ModelError("model.bad_adapter", f"{len(odd)} tensors do not match the model, for one {odd[0]}.")
    with torch.no_grad():
        for name, layer in layers.items():
            layer.lora_A.copy_(torch.from_numpy(adapter.tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"]))
            layer.lora_B.copy_(torch.from_numpy(adapter.tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"]))
