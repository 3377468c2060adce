"""Single kernels at the sizes of real models, where products are cut and attention has many tiles, against torch."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.kernels import HeadShape, Keys, Layout, LowRank
from fledge.model.tokens import TreeTokens
from fledge.model.weights import Blocks

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 5e-3}
# rows, depth, columns: odd ones, and both sides of every size at which a product is cut
SIZES = [
    (1, 1, 1),
    (7, 3, 17),
    (65, 255, 63),
    (96, 257, 64),
    (97, 1025, 65),
    (13, 2049, 130),
    (341, 8193, 71),
    (5, 9001, 3),
]


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype, *, times: float = 1.0) -> None:
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert float(error) <= times * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_product_of_any_size_with_all_that_rides_along(
    size: tuple[int, int, int], layout: Layout, dtype: torch.dtype
) -> None:
    rows, depth, columns = size
    kernels = kernels_for(dtype)
    assert kernels.name == "compiled", kernels.reason
    x = random(rows, depth, dtype=dtype, seed=1)
    w = random(columns, depth, dtype=dtype, seed=2)
    plain = x.double() @ w.double().t()
    given = w if layout == Layout.NK else w.t().contiguous()
    for wide in {dtype, torch.promote_types(dtype, torch.float32)}:
        out = torch.full((rows, columns), float("nan"), dtype=wide)
        close(kernels.linear(out, x, given, layout), plain, dtype)
    sums = torch.promote_types(dtype, torch.float32)
    residual = random(rows, columns, dtype=sums, seed=3)
    bias = random(columns, dtype=sums, seed=4)
    for rank in (1, 3, 16):
        first, second = random(rank, depth, dtype=dtype, seed=5), random(rank, columns, dtype=dtype, seed=6)
        # What lies behind a row of odd length is not the row's: here it is not a number.
        room = torch.full((rows, rank + 2), float("nan"), dtype=dtype)
        adapter = LowRank(first, second, room[:, :rank])
        out = torch.full((rows, columns), float("nan"), dtype=sums)
        kernels.linear(out, x, given, layout, adapter=adapter, residual=residual, bias=bias)
        close(adapter.low, x.double() @ first.double().t(), dtype)
        terms = (plain, adapter.low.double() @ second.double(), residual.double(), bias.double().expand_as(out))
        error = (out.double() - torch.stack(terms).sum(0)).norm()
        assert float(error) <= TOLERANCE[dtype] * sum(float(term.norm()) for term in terms)


def tree() -> TreeTokens:
    """A beginning of 200 tokens, two branches of 150 and 90, and a leaf of 70 below the first."""
    lengths, above = [200, 150, 70, 90], [[], [0], [0, 1], [0]]
    starts = [sum(lengths[:i]) for i in range(4)]
    first = [sum(lengths[a] for a in over) for over in above]
    spans: list[list[int]] = []
    nodes = []
    for start, length, position, over in zip(starts, lengths, first, above, strict=True):
        nodes.append([start, start + length, position, len(spans), len(spans) + len(over)])
        spans += [[starts[a], lengths[a], first[a]] for a in over]
    places = [p for position, length in zip(first, lengths, strict=True) for p in range(position, position + length)]
    return TreeTokens(torch.zeros(sum(lengths), dtype=torch.int64), torch.tensor(places), torch.tensor(nodes),
                      torch.tensor(spans))  # fmt: skip


def seen(tokens: TreeTokens, window: int) -> Tensor:
    """Which token sees which, straight from the ways of the tree: [N, N]."""
    ways = [[0], [0, 1], [0, 1, 2], [0, 3]]
    node = torch.repeat_interleave(torch.arange(4), torch.tensor([200, 150, 70, 90]))
    on_way = torch.tensor([[b in way for b in range(4)] for way in ways])[node][:, node]
    apart = tokens.position_N[:, None] - tokens.position_N[None]
    return on_way & (apart >= 0) & ((apart < window) if window else True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "window", "softcap"),
    [(9, 3, 64, 0, 0.0), (4, 1, 12, 70, 0.0), (2, 2, 80, 50, 5.0), (4, 1, 256, 0, 0.0)],
)
def test_attention_over_a_long_tree_is_the_masked_one(
    heads: int, kv_heads: int, width: int, window: int, softcap: float, dtype: torch.dtype
) -> None:
    tokens, kernels = tree(), kernels_for(dtype)
    sums = torch.promote_types(dtype, torch.float32)
    count = tokens.num_tokens
    shape = HeadShape(heads=heads, kv_heads=kv_heads, width=width, scale=width**-0.5, window=window, softcap=softcap)
    q, k, v, dout = (
        random(count, n * width, dtype=dtype, seed=i) for i, n in enumerate((heads, kv_heads, kv_heads, heads))
    )
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    parts = [x.view(count, -1, width).transpose(0, 1) for x in exact]
    wide_k, wide_v = (x.repeat_interleave(heads // kv_heads, 0) for x in parts[1:])
    scores = parts[0] @ wide_k.transpose(1, 2) * width**-0.5
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    weights = functional.softmax(scores.masked_fill(~seen(tokens, window), -torch.inf), -1)
    expected = (weights @ wide_v).transpose(0, 1).flatten(1)
    expected.backward(dout.double())
    out, lse = torch.empty_like(q), torch.empty(count, heads, dtype=sums)
    keys = Keys(k, v, None, None)
    kernels.attention(out, lse, q, keys, tokens, shape)
    close(out, expected.detach(), dtype, times=2)
    grads = (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
    kernels.attention_grad(grads, dout, out, lse, q, keys, tokens, shape)
    for found, wanted in zip(grads, exact, strict=True):
        assert wanted.grad is not None
        close(found, wanted.grad, dtype, times=4)


SCALES = {"Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}


def blocks(name: str, rows: int, columns: int) -> Blocks:
    """Return rows of arbitrary blocks whose scales are finite."""
    numbers = np.random.default_rng(5)
    size, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    raw = numbers.integers(0, 256, (rows, columns // size, num_bytes), dtype=np.uint8)
    for place in SCALES.get(name, (0,)):
        scales = numbers.standard_normal((rows, columns // size, 1)).astype(np.float16)
        raw[:, :, place : place + 2] = scales.view(np.uint8)
    return Blocks(name, np.ascontiguousarray(raw.reshape(rows, -1)), numbers.permutation(rows))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_are_read_to_the_last_bit_as_the_gguf_package_reads_them(name: str, dtype: torch.dtype) -> None:
    kernels = kernels_for(dtype)
    assert kernels.name == "compiled"
    for rows in (3, 301):
        stored = blocks(name, rows, 768)
        assert stored.order is not None
        expected = gguf.quants.dequantize(stored.rows, gguf.GGMLQuantizationType[name])
        for order in (None, stored.order):
            out = torch.full((rows, 768), torch.nan, dtype=dtype)
            kernels.dequantize(out, replace(stored, order=order))
            held = expected if order is None else expected[order]
            assert torch.equal(out, torch.from_numpy(held).to(dtype))


def test_blocks_of_other_types_are_read_by_the_package() -> None:
    stored = Blocks("IQ4_XS", np.random.default_rng(0).integers(0, 100, (2, 136), dtype=np.uint8), None)
    expected = gguf.quants.dequantize(stored.rows, gguf.GGMLQuantizationType.IQ4_XS)
    out = torch.empty(2, 256)
    kernels_for(torch.float32).dequantize(out, stored)
    assert torch.equal(out, torch.from_numpy(expected))
