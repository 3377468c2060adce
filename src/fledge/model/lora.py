"""Low-rank adapters beside the linear layers of a transformers model: the plain path, for every architecture.

y = x W^T + scale (x A^T) B^T with W frozen (Hu et al. 2021, arXiv 2106.09685). The fast path has its own (sites.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fledge.errors import ModelError, nearest
from fledge.model.adapter import PREFIX, Adapter

# All linear layers of a block: what "LoRA Without Regret" and QLoRA (arXiv 2305.14314) found to matter more than rank.
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraSettings:
    """The knobs of an adapter. `targets`: last names of linear layers; `layers`: which layers (None: all).

    rslora: scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732). dora: train a magnitude per output too
    (Liu et al. 2024, arXiv 2402.09353).
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    targets: Sequence[str] | None = None
    layers: range | None = None

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def settings_of(adapter: Adapter) -> LoraSettings:
    """Return the settings under which a model takes this adapter."""
    layers = {int(name.split(".layers.", 1)[1].split(".", 1)[0]) for name in adapter.tensors if ".layers." in name}
    return LoraSettings(
        adapter.rank,
        adapter.alpha,
        rslora=adapter.use_rslora,
        dora=adapter.use_dora,
        targets=adapter.target_modules,
        layers=range(min(layers), max(layers) + 1) if layers else None,
    )


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter beside it. A [r, in] and B [out, r] are float32 masters."""

    def __init__(self, base: Any, settings: LoraSettings, *, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self._turned = not isinstance(base, nn.Linear)
        outs, ins = self._weight().shape
        self.scale, self.dropout, self.enabled, self.bypassed = settings.scale, settings.dropout, True, False
        precise = torch.promote_types(base.weight.dtype, torch.float32)
        # Uniform(-1/sqrt(in), 1/sqrt(in)): PEFT's default, kaiming_uniform with a = sqrt(5).
        bound = 1 / math.sqrt(ins)
        start = torch.empty(settings.rank, ins).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(start.to(precise))
        self.lora_B = nn.Parameter(torch.zeros(outs, settings.rank, dtype=precise))
        self.lora_magnitude_vector: nn.Parameter | None = None
        if settings.dora:
            self.lora_magnitude_vector = nn.Parameter(self._weight().to(precise).norm(dim=1))

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for models that multiply with it themselves; that goes past the adapter, and is noted."""
        self.bypassed = True
        weight: Tensor = self.base.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.base.bias
        return bias

    def _weight(self) -> Tensor:
        """The frozen weight [out, in]."""
        weight: Tensor = self.base.weight
        return weight.t() if self._turned else weight

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self._weight())
        if not self.enabled:
            return y if self.base.bias is None else y + self.base.bias
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        dropped = functional.dropout(x, self.dropout, self.training)
        if self.lora_magnitude_vector is not None:
            direction = functional.linear(functional.linear(dropped, a), b) * self.scale
            norm = self._norm()
            gain = (self.lora_magnitude_vector / norm).to(x.dtype)
            base = (
                y
                if dropped is x or not (self.dropout and self.training)
                else functional.linear(dropped, self._weight())
            )
            y = y + (gain - 1) * base + gain * direction
        else:
            y = y.add(functional.linear(functional.linear(dropped, a), b), alpha=self.scale)
        return y if self.base.bias is None else y + self.base.bias

    @torch.no_grad()
    def _norm(self) -> Tensor:
        """Return the length [out] of every row of W + scale B A."""
        merged = self._weight().to(self.lora_A.dtype) + self.scale * (self.lora_B @ self.lora_A)
        length: Tensor = torch.linalg.vector_norm(merged, dim=1)
        return length


def _is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer: torch's, or GPT-2's, which holds its weight the other way round.

    What is made from one and computes something else, as the routers of some mixtures of experts do, is none.
    """
    return (isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward) or (
        type(module).__name__ == "Conv1D"
    )


def text_path(network: Any) -> str:
    """Return where the part that reads text stands in a model that can see or hear as well; "" in one that cannot."""
    decoder = network.get_decoder()
    return next((path for path, module in network.named_modules() if path and module is decoder), "")


def layer_of(path: str) -> int | None:
    """Return the number of the layer that a module belongs to: the first number in its path; None outside layers."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def inject(network: Any, settings: LoraSettings, *, seed: int) -> int:
    """Freeze `network`, put an adapter beside every linear layer of `settings.targets`; return how many.

    The adapters depend on the seed and the layer order alone. Raises ModelError where a target matches nothing.
    """
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    head = network.get_output_embeddings()
    found = dict.fromkeys(settings.targets or (), 0)
    text = text_path(network)
    places = [
        (parent, name)
        for path, parent in network.named_modules()
        for name, child in parent.named_children()
        if _is_linear(child)
        and child is not head
        and f"{path}.".startswith(f"{text}." if text else "")
        and (settings.layers is None or layer_of(path) in settings.layers)
        and (settings.targets is None or name in settings.targets)
    ]
    for parent, name in places:
        setattr(parent, name, LoraLinear(getattr(parent, name), settings, generator=generator))
        found[name] = found.get(name, 0) + 1
    linear = (name for name, module in network.named_modules() if _is_linear(module))
    check_targets(found, sorted({name.rsplit(".", 1)[-1] for name in linear}))
    return len(places)


def withdraw_bypassed(network: nn.Module) -> list[str]:
    """Take the adapters away that the model has gone past, after it has run once; return the names of their layers."""
    names = [name for name, layer in adapters(network) if layer.bypassed]
    for name in names:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, network.get_submodule(name).base)
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def check_targets(found: dict[str, int], names: Sequence[str]) -> None:
    """Raise ModelError where a target was found nowhere; `names` are those that there are."""
    for target, count in found.items():
        if not count:
            hint = nearest(target, names) or f". There are: {', '.join(names)}."
            raise ModelError("model.unsupported", f"no linear layer is called '{target}'{hint}")


def adapters(network: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield (module name, adapter layer) in layer order."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, LoraLinear))


@contextmanager
def disabled(network: nn.Module) -> Iterator[None]:
    """Answer as the base model inside the block."""
    layers = [layer for _, layer in adapters(network)]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


def matrices(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return every adapter matrix by PEFT's name for it."""
    found: dict[str, nn.Parameter] = {}
    for name, layer in adapters(network):
        for side, parameter in layer.named_parameters(recurse=False):
            found[f"{PREFIX}{name}.{side}" + ("" if side == "lora_magnitude_vector" else ".weight")] = parameter
    return found
