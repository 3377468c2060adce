"""The loaded model is the file: transformers' forward over a folder, llama.cpp's over a GGUF."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from fledge.data.template import ChatTemplate
from fledge.model import hardware, memory
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.decoder import SITES, read_decoder
from fledge.model.engine.plain import PlainKernels
from fledge.model.load import CausalModel, load_model
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.records import Example, Message
from fledge.runtime.logits import Scoring, logits
from fledge.training.batch import to_batch
from tiny import save_tiny_model


def our_logits(model: CausalModel, ids: list[int]) -> torch.Tensor:
    (piece,) = to_batch([Example([*ids, 0], [*[0.0] * len(ids), 1.0], "row")], tokens_per_piece=10_000).pieces
    with torch.no_grad():
        return model.logits(model.hidden(piece.tokens))


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 1, "head_dim": 24},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 123456.0}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    {"rope_parameters": LLAMA3},
    {"rms_norm_eps": 0.1},
]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_a_folder_answers_as_transformers_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = save_tiny_model(tmp_path / "model", **changes)
    model = load_model(open_weights(folder), dtype=torch.float32)
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = torch.randint(0, 384, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(our_logits(model, ids), expected, rtol=1e-5, atol=5e-5)
    assert not model.parameters()


def test_the_starter_answers_as_llama_cpp_does(starter_gguf: Path) -> None:
    """llama.cpp rounds what it multiplies with quantised weights to 8 bits, so its numbers are near, not equal."""
    weights = open_weights(starter_gguf)
    model = load_model(weights, dtype=torch.float32)
    template = ChatTemplate(load_tokenizer(weights))
    question = Message("user", "What is the capital of France, and why do 12 * 12 eggs make a gross?")
    ids = template.prompt_ids([question])
    ids += template.tokenizer.encode("The capital of France is Paris. Twelve dozen is 144, which is called a gross.")
    ours = our_logits(model, ids).numpy()
    (theirs,) = logits(starter_gguf, [Scoring(ids, list(range(len(ids))))], threads=2)
    assert np.mean(ours.argmax(-1) == theirs.argmax(-1)) >= 0.95
    ours_p, theirs_p = (torch.log_softmax(torch.from_numpy(x.copy()), -1) for x in (ours, theirs))
    divergence = (theirs_p.exp() * (theirs_p - ours_p)).sum(-1)
    assert float(divergence.mean()) < 0.01


def test_the_survey_is_of_this_machine() -> None:
    threads = torch.get_num_threads()
    try:
        machine = hardware.survey()
        assert machine.threads == torch.get_num_threads() >= 1
    finally:
        torch.set_num_threads(threads)
    assert 0 < machine.ram_free_bytes <= machine.ram_bytes
    assert all(rate > 0 for rate in machine.gemm_gflops.values())
    wins = machine.gemm_gflops["bfloat16"] >= hardware.WORTH * machine.gemm_gflops["float32"]
    assert machine.dtype == ("bfloat16" if wins else "float32")
    assert "measured" in machine.dtype_reason


def test_the_peak_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    held = np.ones(60_000_000)
    script = (
        "from fledge.model.memory import peak_rss_bytes; a = peak_rss_bytes(); x = b'1' * 100_000_000; "
        "print(a, peak_rss_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < held.nbytes / 4 and memory.peak_rss_bytes() > held.nbytes
    assert after - before == pytest.approx(100_000_000, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_blocks_are_read_alike_with_a_compiler_and_without(dtype: torch.dtype, starter_gguf: Path) -> None:
    weights = open_weights(starter_gguf)
    fast = read_decoder(weights, kernels_for(dtype), dtype=dtype)
    plain = read_decoder(weights, PlainKernels("", dtype), dtype=dtype)
    assert torch.equal(fast.head_VD, plain.head_VD)
    for one, other in zip(fast.blocks, plain.blocks, strict=True):
        assert all(torch.equal(one.weights[site], other.weights[site]) for site in SITES)
