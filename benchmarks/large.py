"""The memory that a base of 8 billion parameters takes, trained over in its blocks: `python benchmarks/large.py`.

A file of Llama 3.1 8B's shape with random Q4_K blocks is made in a folder (4.6 GB, removed again), LoRA of rank 16 is
put on every linear layer, and steps over one row of 512 tokens are taken in a process of their own. Appends the peak of
resident memory, what the plan forecast and the seconds of a step to results.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import append, processor_versions

LAYERS, WIDTH, FFN, HEADS, KV_HEADS, VOCABULARY = 32, 4096, 14336, 32, 8, 128_256
TOKENS, STEPS, RANK = 512, 2, 16
TARGET_BYTES = 8e9
# Of one row of blocks more is not needed: what is in them changes neither time nor memory.
RANDOM_ROWS = 64


def write_model(path: Path) -> int:
    """Write the file; return its number of parameters."""
    from gguf import GGUFValueType

    from fledge.release.gguf import Tensor, write_file
    from fledge.release.metadata import Value
    from fledge.release.quantize import quantize

    number, real, text = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING
    metadata = {
        "general.architecture": Value("llama", text),
        "llama.block_count": Value(LAYERS, number),
        "llama.context_length": Value(8192, number),
        "llama.embedding_length": Value(WIDTH, number),
        "llama.feed_forward_length": Value(FFN, number),
        "llama.attention.head_count": Value(HEADS, number),
        "llama.attention.head_count_kv": Value(KV_HEADS, number),
        "llama.attention.layer_norm_rms_epsilon": Value(1e-5, real),
        "llama.rope.freq_base": Value(500_000.0, real),
        "llama.rope.dimension_count": Value(WIDTH // HEADS, number),
    }
    generator = np.random.default_rng(0)

    def blocks(name: str, rows: int, columns: int) -> Tensor:
        def make() -> np.ndarray[Any, Any]:
            some = quantize(generator.standard_normal((RANDOM_ROWS, columns), dtype=np.float32) * 0.02, "Q4_K")
            return np.tile(some.reshape(RANDOM_ROWS, -1), (rows // RANDOM_ROWS, 1)).reshape(-1)

        return Tensor(name, (rows, columns), "Q4_K", make)

    def norm(name: str) -> Tensor:
        return Tensor(name, (WIDTH,), "F32", lambda: np.ones(WIDTH, np.float32).view(np.uint8))

    keys = WIDTH // HEADS * KV_HEADS
    tensors = [blocks("token_embd.weight", VOCABULARY, WIDTH)]
    for layer in range(LAYERS):
        shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH)}
        shapes |= {"attn_output": (WIDTH, WIDTH), "ffn_gate": (FFN, WIDTH), "ffn_up": (FFN, WIDTH)}
        shapes |= {"ffn_down": (WIDTH, FFN)}
        tensors += [blocks(f"blk.{layer}.{name}.weight", *shape) for name, shape in shapes.items()]
        tensors += [norm(f"blk.{layer}.{name}.weight") for name in ("attn_norm", "ffn_norm")]
    tensors += [norm("output_norm.weight"), blocks("output.weight", VOCABULARY, WIDTH)]
    write_file(path, metadata, tensors)
    return sum(int(np.prod(tensor.shape)) for tensor in tensors)


def train(path: Path, num_params: int) -> dict[str, float]:
    """Take the steps, as a run of method qlora does; return what they took."""
    from fledge.model.process import prepare_process

    prepare_process()
    import torch

    from fledge.data import course
    from fledge.model.engine.decoder import held_bytes
    from fledge.model.hardware import DTYPES, survey
    from fledge.model.load import load_model
    from fledge.model.lora import LoraSettings
    from fledge.model.memory import peak_rss_bytes, rss_bytes
    from fledge.model.weights import open_weights
    from fledge.objective.sft import sft
    from fledge.records import Example
    from fledge.training.batch import to_batch
    from fledge.training.memory_plan import Job, plan_memory
    from fledge.training.optim import adamw
    from fledge.training.score import scored_pieces

    machine, weights = survey(), open_weights(path)
    dtype, settings = DTYPES[machine.dtype], LoraSettings(RANK, 2.0 * RANK)
    ids = np.random.default_rng(1).integers(0, VOCABULARY, TOKENS).tolist()
    rows = [Example(ids, [0.0] + [1.0] * (TOKENS - 1), "row 1")]
    job = Job(
        *(weights.shape, dtype, settings, num_params, 1, course.plain(1, seed=0), machine.threads),
        weight_bytes=held_bytes(weights, dtype),
    )
    plan = plan_memory(rows, job, budget_bytes=int(TARGET_BYTES), process_bytes=rss_bytes())
    started = time.perf_counter()
    model = load_model(weights, dtype=dtype, recompute=plan.recompute, stay=True)
    model.add_adapter(settings, seed=0)
    optimizer = adamw(model.parameters(), weight_decay=0.0)
    loading, seconds = time.perf_counter() - started, []
    for _ in range(STEPS):
        started = time.perf_counter()
        for scored in scored_pieces(model, to_batch(rows, tokens_per_piece=plan.tokens_per_piece)):
            sft(scored).value.backward()  # type: ignore[no-untyped-call]
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters().values() if p.grad is not None)
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return {
        "peak_rss_bytes": peak_rss_bytes(),
        "forecast_bytes": plan.bytes,
        "recompute": float(plan.recompute),
        "load_s": loading,
        "step_s": seconds[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where the file is made; the system's own place else")
    parser.add_argument("--train", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--params", type=int, default=0, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.train is not None:
        print(json.dumps(train(told.train, told.params)))
        return
    with tempfile.TemporaryDirectory(dir=told.folder) as folder:
        path = Path(folder) / "base.gguf"
        params = write_model(path)
        print(f"{params / 1e9:.2f} billion parameters in {path.stat().st_size / 1e9:.2f} GB")
        command = [sys.executable, __file__, "--train", str(path), "--params", str(params)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        found["file_bytes"] = path.stat().st_size
    append(f"qlora over {params / 1e9:.1f}B q4_k, {TOKENS} tokens", found, processor_versions())
    for name, value in found.items():
        print(f"{name:16} {value:,.3f}")
    print(f"peak {'within' if found['peak_rss_bytes'] < TARGET_BYTES else 'ABOVE'} {TARGET_BYTES / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
