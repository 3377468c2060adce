"""Teacher-forced logits against what the same file generates, with and without an adapter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from fledge.errors import EngineError
from fledge.records import Message
from fledge.runtime.llama import Llama
from fledge.runtime.logits import Scoring, logits, token_logps

VOCAB_SIZE = 49152
WIDTH, NUM_LAYERS, RANK = 576, 30, 4
NUM_GREEDY_TOKENS = 20
# Between two of llama.cpp's own kernels for one sum: a near-tie within this may fall either way.
NEAR_TIE = 0.3


def greedy_tokens(path: Path, *, adapter: Path | None = None) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and the ids that llama.cpp's server continues it with."""
    with Llama(path, adapter=adapter, context_tokens=256) as llama:
        prompt = llama.tokenize(llama.render([Message("user", "Tell me about tea.")]), parse_special=True)
        body = {"prompt": prompt, "n_predict": NUM_GREEDY_TOKENS, "temperature": 0, "return_tokens": True}
        return prompt, llama.post("/completion", body)["tokens"]


def assert_greedy(path: Path, prompt: list[int], answer: list[int], *, adapter: Path | None = None) -> None:
    positions = [len(prompt) - 1 + i for i in range(len(answer))]
    [rows] = logits(path, [Scoring(prompt + answer, positions)], adapter=adapter)
    taken = rows[np.arange(len(answer)), answer]
    assert (rows.max(axis=1) - taken <= NEAR_TIE).all()
    assert (rows.argmax(axis=1) == answer).mean() >= 0.9


def write_adapter(path: Path, *, strength: float) -> Path:
    """Write a LoRA over the output projection of every attention block; strength 0 is an adapter that does nothing."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for layer in range(NUM_LAYERS):
        name = f"blk.{layer}.attn_output.weight"
        writer.add_tensor(f"{name}.lora_a", rng.normal(size=(RANK, WIDTH)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", (strength * rng.normal(size=(WIDTH, RANK))).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def sequences() -> list[Scoring]:
    rng = np.random.default_rng(1)
    lengths = (150, 9, 40)  # the first needs more than one batch
    return [Scoring(rng.integers(17, VOCAB_SIZE, size=n).tolist(), [0, n // 2, n - 1]) for n in lengths]


def test_greedy_tokens_are_the_argmax(starter_gguf: Path) -> None:
    prompt, answer = greedy_tokens(starter_gguf)
    assert len(answer) == NUM_GREEDY_TOKENS
    assert_greedy(starter_gguf, prompt, answer)
    with pytest.raises(AssertionError):  # a shift by one, the fault this test is for, does not pass
        assert_greedy(starter_gguf, prompt[:-1], answer)


def test_rows_are_whole_and_sequences_do_not_touch_each_other(starter_gguf: Path, sequences: list[Scoring]) -> None:
    forward = list(logits(starter_gguf, sequences))
    backward = list(logits(starter_gguf, sequences[::-1]))[::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one.shape == (3, VOCAB_SIZE)
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


def test_asking_for_more_positions_changes_none(starter_gguf: Path, sequences: list[Scoring]) -> None:
    few = sequences[2]
    [all_rows, rows] = logits(starter_gguf, [Scoring(few.ids, list(range(len(few.ids)))), few])
    # The shape of the last matrix product depends on the number of rows, and its rounding with it.
    np.testing.assert_allclose(all_rows[few.positions], rows, atol=0.05)


def test_an_adapter_is_applied_at_full_strength(starter_gguf: Path, sequences: list[Scoring], tmp_path: Path) -> None:
    idle = write_adapter(tmp_path / "idle.gguf", strength=0.0)
    busy = write_adapter(tmp_path / "busy.gguf", strength=0.02)
    base = list(logits(starter_gguf, sequences[1:]))
    for one, other in zip(base, logits(starter_gguf, sequences[1:], adapter=idle), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    # The server applies adapters by its own code: each must take the tokens that the other finds likeliest.
    prompt, answer = greedy_tokens(starter_gguf, adapter=busy)
    assert_greedy(starter_gguf, prompt, answer, adapter=busy)
    with pytest.raises(AssertionError):
        assert_greedy(starter_gguf, prompt, answer)


def test_no_sequences_no_rows(starter_gguf: Path) -> None:
    assert list(logits(starter_gguf, [])) == []


@pytest.mark.parametrize("positions", [[], [3], [-1], [1, 0], [1, 1]])
def test_positions_outside_the_sequence_are_a_fault(positions: list[int]) -> None:
    with pytest.raises(AssertionError):
        Scoring([5, 6, 7], positions)


def test_a_broken_file_and_a_lost_worker_are_one_line(starter_gguf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with starter_gguf.open("rb") as file:
        cut.write_bytes(file.read(40_000_000))
    with pytest.raises(EngineError, match="not within the file bounds") as broken:
        next(logits(cut, [Scoring([1], [0])]))
    with pytest.raises(EngineError, match="token 0") as lost:
        next(logits(starter_gguf, [Scoring([VOCAB_SIZE], [0])]))
    assert [broken.value.code, lost.value.code] == ["engine.start", "engine.died"]
    assert "\n" not in str(broken.value) + str(lost.value)


def test_a_context_that_llama_cpp_did_not_make_as_asked_is_refused(starter_gguf: Path) -> None:
    """The self-check of the struct layout: here llama.cpp rounds 100 up, as it would read another field as n_ctx."""
    script = (
        "import sys; from fledge.runtime import logits_worker as w; w.CONTEXT_MULTIPLE = 1;"
        "w.Scorer(sys.argv[1], adapter=None, invocation=(), context_tokens=100, threads=1)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(starter_gguf)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "another layout: asked for (100, 128, 128)" in done.stderr


def test_log_probabilities_of_a_text_are_those_of_its_logits(starter_gguf: Path, sequences: list[Scoring]) -> None:
    texts = [sequence.ids[:40] for sequence in sequences[:2]]
    whole = logits(starter_gguf, [Scoring(ids, list(range(len(ids)))) for ids in texts])
    for ids, rows, found in zip(texts, whole, token_logps(starter_gguf, texts), strict=True):
        wide = rows[:-1].astype(np.float64)
        expected = wide[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(wide).sum(axis=1))
        assert found.shape == (len(ids) - 1,)
        assert np.abs(found - expected).max() < 1e-3
