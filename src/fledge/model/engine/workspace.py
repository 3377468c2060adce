"""The memory of a pass through a decoder: taken once, used again in every step.

What a layer keeps for its backward pass lies in buffers that outlive the step, so a run takes its memory at the start
and its resident size stays flat. Fresh buffers of changing sizes would be zeroed page by page by the system each time.

Shapes: N tokens; the buffers have room for `num_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.model.engine.decoder import Decoder
from fledge.model.engine.kernels import sums_dtype
from fledge.model.shape import Shape


@dataclass(frozen=True)
class Saved:
    """What one layer keeps. x, mid: the residual stream before attention and before the feed-forward part, in sums.

    qkv after rotation; raw_qk before their norms; attn: attention output; gate_up before the activation; attn_out,
    ffn_out: what is added to the stream, before its norm, where the family has one; low: x A^T by site; scale: 1 / rms.
    """

    x: Tensor
    mid: Tensor
    qkv: Tensor
    raw_qk: Tensor | None
    attn: Tensor
    lse: Tensor
    gate_up: Tensor
    attn_out: Tensor | None
    ffn_out: Tensor | None
    low: dict[str, Tensor]
    scale: dict[str, Tensor]


@dataclass(frozen=True)
class Scratch:
    """What one layer needs for a moment. `hidden`, `rounded` [N, D], `act` [N, F], `attn` [N, H W], `qkv` in T."""

    hidden: Tensor
    rounded: Tensor
    act: Tensor
    attn: Tensor
    qkv: Tensor
    dlow: Tensor


class Workspace:
    """Room for `num_tokens` tokens.

    From layer `lowest` on, everything a layer computes is kept (its input alone with `recompute`); layers below are not
    gone back through, and take turns in two streams and one set of buffers. `lowest` beyond all layers keeps nothing.
    """

    def __init__(
        self, decoder: Decoder, *, num_tokens: int, ranks: dict[str, int], lowest: int, recompute: bool = False
    ) -> None:
        self.num_tokens, self._lowest, self._recompute = num_tokens, lowest, recompute
        kept, streams = rooms(decoder.shape.num_layers, lowest, recompute=recompute)
        self._widths = saved_widths(decoder.shape, ranks)
        precise, width = sums_dtype(decoder.dtype), decoder.shape.width
        self._streams_x = [torch.empty(num_tokens * width, dtype=precise) for _ in range(streams)]
        self._ends = [torch.empty(num_tokens * width, dtype=precise) for _ in range(2)]
        self._saved = [self._buffers(decoder, num_tokens) for _ in range(kept)]
        self._scratch = {
            name: torch.empty(num_tokens * width, dtype=decoder.dtype)
            for name, width in scratch_widths(decoder.shape, ranks).items()
        }
        self._width = decoder.shape.width

    def _buffers(self, decoder: Decoder, num_tokens: int) -> dict[str, Tensor]:
        precise = sums_dtype(decoder.dtype)
        return {
            name: torch.empty(num_tokens * width, dtype=precise if sums else decoder.dtype)
            for name, (width, sums) in self._widths.items()
        }

    def stream(self, layer: int, n: int) -> Tensor:
        """Return the residual stream [n, D] before `layer`."""
        place = layer % 2 if layer < self._lowest else min(2, 2 * self._lowest) + layer - self._lowest
        return self._streams_x[place][: n * self._width].view(n, self._width)

    def ends(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the last hidden states and the gradient of the stream, [n, D] in sums."""
        hidden, dx = (x[: n * self._width].view(n, self._width) for x in self._ends)
        return hidden, dx

    def saved(self, layer: int, n: int) -> Saved:
        below = self._recompute or layer < self._lowest
        buffers = self._saved[0 if below else min(1, self._lowest) + layer - self._lowest]
        views = {name: buffers[name][: n * width].view(n, width) for name, (width, _) in self._widths.items()}
        return Saved(
            x=self.stream(layer, n),
            mid=views["mid"],
            qkv=views["qkv"],
            raw_qk=views.get("raw_qk"),
            attn=views["attn"],
            lse=views["lse"],
            gate_up=views["gate_up"],
            attn_out=views.get("attn_out"),
            ffn_out=views.get("ffn_out"),
            low={name[4:]: view for name, view in views.items() if name.startswith("low_")},
            scale={name[6:]: view for name, view in views.items() if name.startswith("scale_")},
        )

    def scratch(self, n: int) -> Scratch:
        return Scratch(
            **{name: x[: n * (x.numel() // self.num_tokens)].view(n, -1) for name, x in self._scratch.items()}
        )


def rooms(num_layers: int, lowest: int, *, recompute: bool) -> tuple[int, int]:
    """Return how many sets of buffers and how many streams a workspace has. See Workspace."""
    above, below = max(0, num_layers - lowest), lowest > 0
    return (1 if recompute else above + below), (above + 1 if above else 0) + 2 * below


def bytes_per_token(shape: Shape, ranks: dict[str, int], *, dtype: torch.dtype, lowest: int, recompute: bool) -> int:
    """Return what a workspace takes for each token that it has room for."""
    kept, streams = rooms(shape.num_layers, lowest, recompute=recompute)
    exact, rounded = sums_dtype(dtype).itemsize, dtype.itemsize
    saved = sum(width * (exact if sums else rounded) for width, sums in saved_widths(shape, ranks).values())
    return kept * saved + (streams + 2) * shape.width * exact + sum(scratch_widths(shape, ranks).values()) * rounded


def saved_widths(shape: Shape, ranks: dict[str, int]) -> dict[str, tuple[int, bool]]:
    """Return (numbers per token, in sums?) of every buffer that a layer keeps."""
    keys = shape.query_width + 2 * shape.key_width
    widths = {
        "mid": (shape.width, True),
        "qkv": (keys, False),
        "attn": (shape.query_width, False),
        "lse": (shape.num_heads, True),
        "gate_up": (2 * shape.ffn_width, False),
        "scale_in": (1, True),
        "scale_ffn": (1, True),
    }
    if shape.style.head_norm:
        widths |= {
            "raw_qk": (keys - shape.key_width, False),
            "scale_q": (shape.num_heads, True),
            "scale_k": (shape.num_kv_heads, True),
        }
    if shape.style.post_norms:
        widths |= {f"{part}_out": (shape.width, False) for part in ("attn", "ffn")}
        widths |= {f"scale_{part}_out": (1, True) for part in ("attn", "ffn")}
    return widths | {f"low_{site}": (rank, False) for site, rank in ranks.items()}


def scratch_widths(shape: Shape, ranks: dict[str, int]) -> dict[str, int]:
    """Return the numbers per token of every passing buffer."""
    return {
        "hidden": shape.width,
        "rounded": shape.width,
        "act": shape.ffn_width,
        "attn": shape.query_width,
        "qkv": shape.query_width + 2 * shape.key_width,
        "dlow": max(ranks.values(), default=1),
    }
