"""AdamW in two bytes of state a number, and weights that stay in bfloat16: all of a model trained in little memory.

Both moments are kept in blocks of 256 numbers, eight bits each and a scale for the block, as Dettmers et al. 2022
(arXiv 2110.02861) do; a number is the scale times the square of its code, which is finest near zero, where most are.
What does not fit is rounded up or down by chance, so that it is right in the mean: without that, moments would stop
changing, and weights in bfloat16 would lose every step smaller than a 256th of them (Gupta et al. 2015, arXiv
1502.02551). Chance is a hash of the gradient's bits, the place and the step: a run repeats itself bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK = 256
# Numbers that are worked on at once: their passing copies stay in the second-level cache.
CHUNK = BLOCK * 256
# Codes of the first moment stand on both sides of the middle; those of the second, which has no sign, go all the way.
MIDDLE, SIGNED, UNSIGNED = 128, 127, 255


class CompactAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over float32 or bfloat16 parameters with float32 gradients.

    State of each parameter: `first` and `second`, uint8 codes; their scales, float32, one for each block; `step`.
    """

    def __init__(
        self, params: Any, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for number, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group, number)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any], number: int) -> None:
        state = self.state[parameter]
        if not state:
            count = -(-parameter.numel() // BLOCK)
            state["step"] = torch.zeros((), dtype=torch.int64)
            for name in ("first", "second"):
                zero = MIDDLE if name == "first" else 0
                state[name] = torch.full((count * BLOCK,), zero, dtype=torch.uint8)
                state[f"{name}_scale"] = torch.zeros(count)
        state["step"] += 1
        step = int(state["step"])
        flat, flat_grad = parameter.view(-1), grad.reshape(-1)
        for start in range(0, flat.numel(), CHUNK):
            stop = min(start + CHUNK, flat.numel())
            blocks = slice(start // BLOCK, -(-stop // BLOCK))
            codes = slice(blocks.start * BLOCK, blocks.stop * BLOCK)
            g = torch.nn.functional.pad(flat_grad[start:stop], (0, codes.stop - stop))
            chance = _chance(g, seed=(step * 1_000_003 + number * 7919 + start) & 0x7FFFFFFF)
            moments = _Moments(state, blocks, codes)
            change = moments.advance(g, chance, group["betas"], group["eps"], step)[: stop - start]
            weights = flat[start:stop].float()
            weights.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change, alpha=group["lr"])
            if flat.dtype == torch.bfloat16:
                weights = stochastic_bfloat16(weights, chance[2][: stop - start])
            flat[start:stop] = weights


class _Moments:
    """The two moments of some blocks of one parameter."""

    def __init__(self, state: dict[str, Tensor], blocks: slice, codes: slice) -> None:
        self._state, self._blocks, self._codes = state, blocks, codes

    def advance(
        self, g: Tensor, chance: tuple[Tensor, ...], betas: tuple[float, float], eps: float, step: int
    ) -> Tensor:
        """Bring the moments on by the gradient `g` and return the step that AdamW takes at a rate of 1."""
        first, second = betas
        m = self._read("first").sub_(MIDDLE).div_(SIGNED)
        m = m.mul_(m.abs()).view(-1, BLOCK).mul_(self._scale("first")).view(-1)
        m.lerp_(g, 1 - first)
        # The root of the second moment is what is kept: half the digits do.
        root = self._read("second").div_(UNSIGNED)
        root = root.mul_(root).view(-1, BLOCK).mul_(self._scale("second")).view(-1)
        v = root.mul_(root).mul_(second).addcmul_(g, g, value=1 - second)
        root = v.sqrt()
        share = self._share("first", m)
        self._write("first", _codes(share, SIGNED, chance[0]).copysign_(share).add_(MIDDLE))
        share = self._share("second", root)
        # What is divided by must not become zero.
        self._write("second", torch.maximum(_codes(share, UNSIGNED, chance[1]), share.sign()))
        return m.div_(1 - first**step).div_(root.div_(math.sqrt(1 - second**step)).add_(eps))

    def _read(self, name: str) -> Tensor:
        return self._state[name][self._codes].float()

    def _scale(self, name: str) -> Tensor:
        return self._state[f"{name}_scale"][self._blocks, None]

    def _share(self, name: str, values: Tensor) -> Tensor:
        """Return `values` in shares of the largest of their block, which is kept as its scale."""
        blocks = values.view(-1, BLOCK)
        scale = blocks.abs().amax(1)
        self._state[f"{name}_scale"][self._blocks] = scale
        return (blocks / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).view(-1)

    def _write(self, name: str, codes: Tensor) -> None:
        self._state[name][self._codes] = codes.to(torch.uint8)


def _codes(share: Tensor, levels: int, chance: Tensor) -> Tensor:
    """Return whole codes c, 0..levels, whose squares over levels^2 are |share| in the mean over `chance` (0..1)."""
    exact = share.abs().sqrt_().mul_(levels)
    low = exact.floor()
    up = (exact - low).mul_(exact + low).div_(2 * low + 1)
    return low.add_(chance < up).clamp_(max=levels)


def _chance(g: Tensor, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return three numbers in [0, 1) for each of `g`: a hash of its bits, its place and the seed."""
    bits = g.contiguous().view(torch.int32) + torch.arange(len(g), dtype=torch.int32) * -1640531527
    bits.add_(seed)
    # A shift of a negative number brings ones in from the left, which have to go again.
    for shift, factor in ((15, 739982445), (12, 695872825), (15, 1)):
        bits.bitwise_xor_((bits >> shift) & (0xFFFFFFFF >> shift)).mul_(factor)
    parts = (bits & 0x3FF, (bits >> 10) & 0x3FF, (bits >> 16) & 0xFFFF)
    return parts[0] / 1024.0, parts[1] / 1024.0, parts[2] / 65536.0


def stochastic_bfloat16(values: Tensor, chance: Tensor) -> Tensor:
    """Return float32 `values` as bfloat16, up or down so that the mean over `chance` (0..1) is the value itself."""
    bits = values.view(torch.int32) + (chance * 65536).to(torch.int32)
    return (bits & -65536).view(torch.float32).to(torch.bfloat16)
