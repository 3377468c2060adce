"""Quantised bytes are those of the formats, the mix is llama.cpp's, and bad numbers do not get through."""

from __future__ import annotations

import ctypes

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from fledge.errors import ExportError
from fledge.model.names import weights_of
from fledge.model.weights import Shape
from fledge.release import quantize as q

QUANTISED = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q5_1", "Q5_0", "Q4_0"]


def gaussian(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)


def read_back(stored: NDArray[np.uint8], ggml_type: str) -> NDArray[np.float32]:
    return gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[ggml_type])


@pytest.mark.parametrize("ggml_type", ["Q8_0", "Q4_0", "Q5_0", "Q5_1", "F16", "BF16", "F32"])
def test_types_that_the_gguf_package_writes_are_bit_equal(ggml_type: str) -> None:
    rows = gaussian(600, 512)
    theirs = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[ggml_type]).view(np.uint8)
    assert np.array_equal(q.quantize(rows, ggml_type), theirs)


@pytest.mark.parametrize(
    ("ggml_type", "levels", "most_steps"), [("Q8_0", 127, 0.5), ("Q5_0", 16, 1.0), ("Q4_0", 8, 1.0)]
)
def test_no_weight_is_further_off_than_its_format_allows(ggml_type: str, levels: int, most_steps: float) -> None:
    """Half a step where both ends have a level; a whole one where the largest weight takes the one level more.

    A step is the largest weight of 32 over the levels on its side. It is stored as float16, which moves the outermost
    level by levels / 2048 of a step.
    """
    grouped = gaussian(64, 512).reshape(-1, 32)
    step = np.abs(grouped).max(1, keepdims=True) / levels
    error = np.abs(read_back(q.quantize(grouped, ggml_type), ggml_type) - grouped)
    assert (error <= (most_steps + levels / 2048 + 1e-4) * step).all()


@pytest.mark.parametrize("ggml_type", QUANTISED)
def test_error_is_that_of_the_type(ggml_type: str) -> None:
    rows = gaussian(512, 512, seed=3)
    error = np.sqrt(np.mean((read_back(q.quantize(rows, ggml_type), ggml_type) - rows) ** 2))
    assert q.SELF_TEST[ggml_type] / 4 < error < q.SELF_TEST[ggml_type]


@pytest.mark.parametrize("ggml_type", ["Q4_K", "Q8_0"])
def test_threads_do_not_change_the_bytes(ggml_type: str) -> None:
    rows = gaussian(1000, 256)
    whole = q.quantize(rows, ggml_type)
    assert np.array_equal(whole, np.concatenate([q.quantize(row[None], ggml_type) for row in rows]))


@pytest.mark.parametrize("junk", [None, 0xFF])
def test_the_self_test_sees_a_quantiser_that_writes_something_else(junk: int | None) -> None:
    """Rows that changed places, and bytes that read as no number."""
    chunk = q._tested_chunk()
    assert chunk is not None and q.passes(chunk, "Q4_K")

    def broken(kind: int, source: int, target: int, start: int, rows: int, columns: int, imatrix: None) -> int:
        written = chunk(kind, source, target, start, rows, columns, imatrix)
        held = ctypes.string_at(target, written)
        half = written // 2
        ctypes.memmove(target, held[half:] + held[:half] if junk is None else bytes([junk]) * written, written)
        return written

    assert not q.passes(broken, "Q4_K")


def test_without_the_library_k_types_are_refused_and_the_rest_is_the_same() -> None:
    rows = gaussian(8, 256)
    assert np.array_equal(q.quantize_in_numpy(rows, "Q8_0"), q.quantize(rows, "Q8_0"))
    with pytest.raises(ExportError, match="Q4_K cannot be written here"):
        q.quantize_in_numpy(rows, "Q4_K")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ggml_type", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
def test_numbers_that_are_not_finite_are_refused(ggml_type: str, bad: float) -> None:
    rows = gaussian(4, 256)
    rows[2, 100] = bad
    with pytest.raises(ExportError) as caught:
        q.quantize(rows, ggml_type)
    assert caught.value.code == "export.non_finite"


def test_float16_refuses_what_would_become_infinite() -> None:
    rows = np.full((1, 32), 70_000, np.float32)
    with pytest.raises(ExportError, match="too large for F16"):
        q.quantize(rows, "F16")
    q.quantize(rows, "BF16")


@pytest.mark.parametrize("name", ["Q4_K_M", "q8_0", "F16"])
def test_type_names_in_any_case(name: str) -> None:
    assert q.file_type(name) == name.lower()


@pytest.mark.parametrize(("name", "near"), [("q4_k", "q4_k_m"), ("q8", "q8_0"), ("fp16", "f16")])
def test_an_unknown_type_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ExportError, match=f"did you mean '{near}'") as caught:
        q.file_type(name)
    assert caught.value.code == "export.unknown_type"


def shapes_of(*, num_layers: int, width: int, ffn_width: int, tied: bool) -> dict[str, tuple[int, ...]]:
    shape = Shape("llama", num_layers, width, ffn_width, 8, 8, width // 8, 512, 64, 1e4, None, 1e-5, tied)
    table = weights_of("llama", num_layers, tied=tied).values()
    return {weight.gguf: tuple(getattr(shape, dim) for dim in weight.dims) for weight in table}


@pytest.mark.parametrize(
    ("kind", "most", "num_layers", "more_bits"),
    [
        # Layers with more bits, worked out by hand from llama.cpp's rule: the first and last eighth, and every third.
        ("q4_k_m", "Q4_K", 32, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]),
        ("q5_k_m", "Q5_K", 16, [0, 1, 4, 7, 10, 13, 14, 15]),
        ("q4_k_m", "Q4_K", 3, [2]),
    ],
)
def test_the_mix_is_that_of_llama_quantize(kind: str, most: str, num_layers: int, more_bits: list[int]) -> None:
    shapes = shapes_of(num_layers=num_layers, width=512, ffn_width=1024, tied=False)
    types = q.plan(kind, shapes, num_layers=num_layers, tied=False)
    assert types["token_embd.weight"] == most and types["output.weight"] == "Q6_K"
    assert types["output_norm.weight"] == types["blk.0.attn_norm.weight"] == "F32"
    for part in ("attn_v", "ffn_down"):
        assert [i for i in range(num_layers) if types[f"blk.{i}.{part}.weight"] == "Q6_K"] == more_bits
    others = {types[f"blk.{i}.{part}.weight"] for i in range(num_layers) for part in ("attn_q", "attn_k", "ffn_up")}
    assert others == {most}


def test_a_tied_embedding_gets_the_bits_of_the_output() -> None:
    shapes = shapes_of(num_layers=4, width=512, ffn_width=1024, tied=True)
    assert q.plan("q4_k_m", shapes, num_layers=4, tied=True)["token_embd.weight"] == "Q6_K"
    assert q.plan("q4_0", shapes, num_layers=4, tied=True)["token_embd.weight"] == "Q6_K"
    assert q.plan("q8_0", shapes, num_layers=4, tied=True)["token_embd.weight"] == "Q8_0"
    assert q.plan("f16", shapes, num_layers=4, tied=True)["token_embd.weight"] == "F16"


def test_rows_that_blocks_do_not_divide_take_the_types_of_llama_quantize() -> None:
    shapes = shapes_of(num_layers=4, width=576, ffn_width=1536, tied=True)
    types = q.plan("q4_k_m", shapes, num_layers=4, tied=True)
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.attn_q.weight"] == "Q5_0" and types["blk.2.attn_v.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] == "Q4_K" and types["blk.2.ffn_down.weight"] == "Q6_K"
    assert q.plan("q5_k_m", shapes, num_layers=4, tied=True)["blk.0.attn_q.weight"] == "Q5_1"
    assert q.plan("q6_k", shapes, num_layers=4, tied=True)["blk.0.attn_q.weight"] == "Q8_0"
    odd = shapes_of(num_layers=4, width=72, ffn_width=100, tied=True)
    assert set(q.plan("q8_0", odd, num_layers=4, tied=True).values()) == {"F16", "F32"}


def test_bits_per_weight_counts_what_is_stored() -> None:
    shapes = {"a": (10, 256), "b": (256,)}
    types = {"a": "Q4_K", "b": "F32"}
    assert q.bits_per_weight(types, shapes) == 8 * (10 * 144 + 256 * 4) / (11 * 256)
    assert q.num_bytes("Q8_0", (3, 64)) == 3 * 2 * 34
