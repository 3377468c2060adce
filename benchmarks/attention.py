"""The engine's attention kernel against torch's own over the shapes that trees have; appends to results.csv.

Torch's is what else could compute a node: scaled_dot_product_attention over the keys of the node and its ancestors,
with a mask, forward and backward. Both get the same numbers and take turns; medians, seconds for one layer's attention.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from results import append, processor_versions
from torch import Tensor
from torch.nn import functional

from fledge.model.attention import tree_attention
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.kernels import HeadShape, Keys
from fledge.model.hardware import survey
from fledge.model.tokens import TreeTokens

# query heads, key heads, width: SmolLM2-135M, Qwen2.5-0.5B, Gemma 3 270M
HEADS = {"9x3x64": (9, 3, 64), "14x2x64": (14, 2, 64), "4x1x256": (4, 1, 256)}
# shared tokens, rows, tokens of each
TREES = {
    "short rows": (40, 8, 40),
    "long prompt": (400, 8, 60),
    "two branches": (200, 2, 300),
    "one long row": (0, 1, 2048),
}
ROUNDS = 9


@dataclass(frozen=True)
class Given:
    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    tree: TreeTokens
    shape: HeadShape


def given(head: int, rows: int, length: int, sizes: tuple[int, int, int], dtype: torch.dtype) -> Given:
    """A tree of `rows` branches behind `head` shared tokens."""
    heads, kv_heads, width = sizes
    total = head + rows * length
    nodes = [(0, head, 0, 0, 0)] if head else []
    spans = []
    for row in range(rows):
        start = head + row * length
        nodes.append((start, start + length, head, len(spans), len(spans) + bool(head)))
        spans += [(0, head, 0)] if head else []
    positions = [*range(head), *(p for _ in range(rows) for p in range(head, head + length))]
    tree = TreeTokens(
        ids_N=torch.zeros(total, dtype=torch.int64),
        position_N=torch.tensor(positions),
        node_B5=torch.tensor(nodes),
        span_S3=torch.tensor(spans, dtype=torch.int64).view(-1, 3),
    )
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(total, h * width, generator=generator).to(dtype) for h in (heads, kv_heads, kv_heads, heads)]
    return Given(*draw, tree, HeadShape(heads, kv_heads, width, scale=width**-0.5))


def ours(case: Given, dtype: torch.dtype) -> Callable[[], tuple[Tensor, ...]]:
    kernels = kernels_for(dtype)
    out, dq, dk, dv = (torch.empty_like(x) for x in (case.q, case.q, case.k, case.v))
    lse = torch.empty(len(case.q), case.shape.heads, dtype=torch.float32)
    keys = Keys(case.k, case.v)

    def run() -> tuple[Tensor, ...]:
        kernels.attention(out, lse, case.q, keys, case.tree, case.shape)
        kernels.attention_grad((dq, dk, dv), case.dout, out, lse, case.q, keys, case.tree, case.shape)
        return out, dq, dk, dv

    return run


def torchs(case: Given) -> Callable[[], tuple[Tensor, ...]]:
    shape, total = case.shape, len(case.q)

    def heads(x: Tensor, count: int) -> Tensor:
        return x.view(1, total, count, shape.width).transpose(1, 2).detach().requires_grad_()

    def run() -> tuple[Tensor, ...]:
        q, k, v = heads(case.q, shape.heads), heads(case.k, shape.kv_heads), heads(case.v, shape.kv_heads)
        out, _ = tree_attention(torch.nn.Identity(), q, k, v, None, tree=case.tree, scaling=shape.scale)
        out.backward(case.dout.view(1, total, shape.heads, shape.width))
        grads = (x.grad.transpose(1, 2).reshape(total, -1) for x in (q, k, v) if x.grad is not None)
        return out.detach().reshape(total, -1), *grads

    return run


def causal(case: Given) -> Callable[[], tuple[Tensor, ...]]:
    """Torch's fastest for a row without branches: causal, without a mask."""
    shape, total = case.shape, len(case.q)

    def run() -> tuple[Tensor, ...]:
        q, k, v = (
            x.view(1, total, -1, shape.width).transpose(1, 2).detach().requires_grad_()
            for x in (case.q, case.k, case.v)
        )
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=shape.scale)
        out.backward(case.dout.view(1, total, shape.heads, shape.width).transpose(1, 2))
        return (out.detach(),)

    return run


def main() -> None:
    dtype = torch.bfloat16 if survey().dtype == "bfloat16" else torch.float32
    for heads, sizes in HEADS.items():
        for name, (head, rows, length) in TREES.items():
            case = given(head, rows, length, sizes, dtype)
            sides = {"ours": ours(case, dtype), "torch": torchs(case)}
            if rows == 1:
                sides["torch causal"] = causal(case)
            results = {side: run() for side, run in sides.items()}
            for one, other in zip(results["ours"], results["torch"], strict=True):
                assert float((one - other).norm() / other.norm()) < 0.02, "they compute the same"
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(ROUNDS):
                for side, run in sides.items():
                    started = time.perf_counter()
                    run()
                    seconds[side].append(time.perf_counter() - started)
            medians = {side: statistics.median(each) for side, each in seconds.items()}
            best = min(value for side, value in medians.items() if side != "ours")
            figures = {f"{side}, seconds": value for side, value in medians.items()}
            append(
                f"attention {heads} {name}", figures | {"torch over ours": best / medians["ours"]}, processor_versions()
            )
            ratio = best / medians["ours"]
            print(f"{heads:8} {name:13} ours {1e3 * medians['ours']:7.2f} ms, {ratio:5.1f} times torch's best")


if __name__ == "__main__":
    main()
