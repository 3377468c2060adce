"""LoRA as the engine computes it: fused siblings, the scale folded in, thin gradients straight into their place.

y = x W^T + scale (x A^T) B^T with W frozen (Hu et al. 2021, arXiv 2106.09685). Of sibling projections (q, k, v; gate,
up) the A lie below each other and the B along a diagonal, so one thin product serves all and the second rides along
with the wide one: [x | x A^T] [W | scale B]^T. The masters are two flat float32 vectors, of which everything is a view;
the copies in the compute dtype are renewed once an optimizer step.

Shapes: N tokens, R the ranks of a site's projections together, I in, O out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fledge.model.adapter import PREFIX, SIDES
from fledge.model.engine.decoder import SITES, Decoder, site_widths
from fledge.model.engine.kernels import Part, sums_dtype
from fledge.model.engine.token_rows import TokenRows
from fledge.model.lora import LoraSettings


@dataclass(frozen=True)
class Site:
    """The adapter of one fused product. `a` [R, I], `b` [R, O] with the scale in it; master and gradient views."""

    parts: tuple[Part, ...]
    rank: int
    scale: float
    a: Tensor
    b: Tensor
    master_a: Tensor
    master_b: tuple[Tensor, ...]
    grad_a: Tensor
    grad_b: tuple[Tensor, ...]


def wanted(settings: LoraSettings) -> dict[str, list[int]]:
    """Return for each site which of its projections are adapted; sites without one are left out."""
    names = {site: [name.rsplit(".", 1)[-1] for name in SITES[site]] for site in SITES}
    targets = settings.targets
    found = {s: [i for i, name in enumerate(own) if targets is None or name in targets] for s, own in names.items()}
    return {site: which for site, which in found.items() if which}


class Sites:
    """All adapters of a decoder. `lora_A` and `lora_B` are what the optimizer sees; B is held transposed, [r, O]."""

    def __init__(self, decoder: Decoder, settings: LoraSettings, *, seed: int) -> None:
        self.settings = settings
        self.rows: TokenRows | None = None
        rank = settings.rank
        layers = settings.layers or range(decoder.shape.num_layers)
        plan = [(layer, site, which) for layer in layers for site, which in wanted(settings).items()]
        sizes_a = [rank * len(which) * site_widths(decoder.shape, site)[0] for _, site, which in plan]
        sizes_b = [rank * site_widths(decoder.shape, site)[1][i] for _, site, which in plan for i in which]
        precise = sums_dtype(decoder.dtype)
        self.lora_A = nn.Parameter(torch.zeros(sum(sizes_a), dtype=precise))
        self.lora_B = nn.Parameter(torch.zeros(sum(sizes_b), dtype=precise))
        self.lora_A.grad, self.lora_B.grad = torch.zeros_like(self.lora_A), torch.zeros_like(self.lora_B)
        self._grads = (self.lora_A.grad, self.lora_B.grad)
        self._copy_a = torch.zeros(sum(sizes_a), dtype=decoder.dtype)
        self.by_layer: list[dict[str, Site]] = [{} for _ in range(decoder.shape.num_layers)]
        at_a = at_b = 0
        for layer, site, which in plan:
            ins, outs = site_widths(decoder.shape, site)
            size = rank * len(which) * ins
            parts, master_b, grad_b = [], [], []
            for position, i in enumerate(which):
                module = f"model.layers.{layer}.{SITES[site][i]}"
                parts.append(Part(module, position * rank, sum(outs[:i]), outs[i]))
                columns = slice(at_b, at_b + rank * outs[i])
                master_b.append(self.lora_B.data[columns].view(rank, outs[i]))
                grad_b.append(self._grads[1][columns].view(rank, outs[i]))
                at_b += rank * outs[i]
            shape_a = (rank * len(which), ins)
            self.by_layer[layer][site] = Site(
                tuple(parts),
                rank,
                settings.scale,
                a=self._copy_a[at_a : at_a + size].view(shape_a),
                b=torch.zeros(rank * len(which), sum(outs), dtype=decoder.dtype),
                master_a=self.lora_A.data[at_a : at_a + size].view(shape_a),
                master_b=tuple(master_b),
                grad_a=self._grads[0][at_a : at_a + size].view(shape_a),
                grad_b=tuple(grad_b),
            )
            at_a += size
        self._initialise(seed)

    @property
    def anchor(self) -> nn.Parameter:
        """A parameter by which autograd is told that something learns."""
        return self.lora_A

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        rows = {} if self.rows is None else self.rows.parameters
        return {"lora_A": self.lora_A, "lora_B": self.lora_B, **rows}

    @property
    def lowest(self) -> int:
        """The first layer that is adapted; below it nothing has to be differentiated, unless rows of tokens learn."""
        if self.rows is not None:
            return 0
        return next(layer for layer, sites in enumerate(self.by_layer) if sites)

    @property
    def ranks(self) -> dict[str, int]:
        """The largest rank of every kind of site."""
        found: dict[str, int] = {}
        for name, site in self.all():
            found[name] = max(found.get(name, 0), site.a.shape[0])
        return found

    def _initialise(self, seed: int) -> None:
        # Uniform(-1/sqrt(in), 1/sqrt(in)): PEFT's default, kaiming_uniform with a = sqrt(5).
        generator = torch.Generator().manual_seed(seed)
        for _, site in self.all():
            for part in site.parts:
                rows = site.master_a[part.first_rank : part.first_rank + site.rank]
                bound = 1 / math.sqrt(rows.shape[1])
                rows.copy_(torch.empty(rows.shape).uniform_(-bound, bound, generator=generator))

    def all(self) -> Iterator[tuple[str, Site]]:
        """Yield (site name, site) in layer order."""
        return ((name, site) for sites in self.by_layer for name, site in sites.items())

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the copies in the compute dtype up to the masters.

        Before every pass, not when they changed: a fused optimizer leaves no trace of its writing in a tensor's
        version, and the copying is a thousandth of a pass.
        """
        self._copy_a.copy_(self.lora_A)
        for _, site in self.all():
            for part, master in zip(site.parts, site.master_b, strict=True):
                block = site.b[part.first_rank : part.first_rank + site.rank, part.start : part.start + part.width]
                torch.mul(master, site.scale, out=block) if block.dtype == master.dtype else block.copy_(
                    master * site.scale
                )

    def attach_gradients(self) -> None:
        """Make sure that what the kernels add to is what the optimizer reads; zero where it was set aside."""
        for parameter, grad in zip((self.lora_A, self.lora_B), self._grads, strict=True):
            if parameter.grad is not grad:
                grad.zero_()
                parameter.grad = grad
        if self.rows is not None:
            self.rows.attach_gradients()

    def tensors(self, *, gradients: bool = False) -> dict[str, Tensor]:
        """Return the masters (or their gradients) by PEFT's names, as views: A [r, in], B [out, r]."""
        found = {}
        for _, site in self.all():
            side_a, sides_b = (site.grad_a, site.grad_b) if gradients else (site.master_a, site.master_b)
            for part, b in zip(site.parts, sides_b, strict=True):
                found[f"{PREFIX}{part.module}{SIDES[0]}"] = side_a[part.first_rank : part.first_rank + site.rank]
                found[f"{PREFIX}{part.module}{SIDES[1]}"] = b.t()
        return found
