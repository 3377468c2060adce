"""One trainer, one process: `python contender.py WHO MODEL ROWS --steps N`. Prints one JSON object as its last line.

WHO is fledge, trl-default, or trl-tuned with --options. Every one takes the same rows in the same order, eight a step,
with AdamW at a constant rate and LoRA of rank 16 on every linear layer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
LR, RANK, ALPHA = 5e-4, 16, 32.0
WARM_UP = 2
PACKED = 10


def with_fledge(model: Path, rows: Path, steps: int, per_step: int, options: dict[str, Any]) -> dict[str, Any]:
    from fledge.model.process import prepare_process

    prepare_process()
    import torch

    from fledge.config import TrainConfig
    from fledge.data.packed import PackedExamples
    from fledge.model.hardware import DTYPES, survey
    from fledge.model.load import load_model
    from fledge.model.lora import LoraSettings
    from fledge.model.weights import open_weights
    from fledge.objective.sft import sft
    from fledge.recipes.once import places_of, remember
    from fledge.training.auto import layers_of
    from fledge.training.batch import to_batch
    from fledge.training.loop import Plan, fit
    from fledge.training.optim import Schedule

    machine = survey()
    # Kept as a run of fledge keeps them.
    examples = PackedExamples(_repeat(rows, steps * per_step))
    dtype = options.get("dtype", machine.dtype)
    engine = load_model(open_weights(model), dtype=DTYPES[dtype])
    train = TrainConfig(top_layers=options.get("top_layers"), after_prompt=options.get("after_prompt", False))
    engine.add_adapter(LoraSettings(rank=RANK, alpha=ALPHA, layers=layers_of(train, engine.shape.num_layers)), seed=0)
    optimizer = torch.optim.AdamW(engine.parameters().values(), lr=LR, weight_decay=0.0, fused=True)
    started = time.perf_counter()
    memory = remember(engine, train, places_of(train, examples))
    remembering = time.perf_counter() - started
    chosen = [range(i * per_step, (i + 1) * per_step) for i in range(steps)]
    stream = (
        to_batch([examples[row] for row in rows], tokens_per_piece=2048, memory=memory, numbers=rows) for rows in chosen
    )
    # of so long a cosine the first steps see nothing
    constant = Plan(steps, 0, Schedule(LR, 10**9, 0.0), 1.0, 1e9, lambda step: None)
    ready = time.perf_counter()
    done = fit(engine, stream, sft, optimizer, constant)
    shape = engine.shape
    linear = shape.num_layers * (
        shape.width * (2 * shape.query_width + 2 * shape.key_width) + 3 * shape.width * shape.ffn_width
    )
    head = shape.width * shape.vocab_size
    taught = [sum(e.num_taught for e in examples[i * per_step : (i + 1) * per_step]) for i in range(steps)]
    return {
        "setup_s": ready - STARTED,
        "seconds": [step.seconds for step in done],
        "losses": [step.loss for step in done],
        "effective": [step.tokens_effective for step in done],
        "computed": [step.tokens_computed for step in done],
        "flops": [4 * linear * s.tokens_computed + 4 * head * t for s, t in zip(done, taught, strict=True)],
        "path": engine.path,
        "remembering_s": remembering,
        "dtype": dtype,
        "gemm_gflops": peak_gflops(DTYPES[dtype]),
    }


def peak_gflops(dtype: Any) -> dict[str, float]:
    """Return the best median rate of a matrix product, by torch and by our own kernel, over three sizes."""
    import torch

    from fledge.model.engine.compiled import kernels_for
    from fledge.model.engine.kernels import Layout

    kernels = kernels_for(dtype)
    best = {"torch": 0.0, "fledge": 0.0}
    for rows, depth, columns in ((1024, 1024, 1024), (2048, 2048, 2048), (2048, 576, 3072)):
        a, w = torch.randn(rows, depth).to(dtype), torch.randn(columns, depth).to(dtype)
        out = torch.empty(rows, columns, dtype=dtype)
        for name in best:
            times = []
            for _ in range(11):
                started = time.perf_counter()
                torch.mm(a, w.t(), out=out) if name == "torch" else kernels.linear(out, a, w, Layout.NK)
                times.append(time.perf_counter() - started)
            best[name] = max(best[name], 2 * rows * depth * columns / statistics.median(times) / 1e9)
    return best


def with_trl(model: Path, rows: Path, steps: int, per_step: int, options: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    from fledge.runtime.threads import usable_cores

    torch.set_num_threads(usable_cores())
    # Several rows become one where they are packed.
    examples = list(_repeat(rows, steps * per_step * (PACKED if options.get("packing") else 1)))
    table = [
        {"input_ids": e.ids, "labels": [t if w > 0 else -100 for t, w in zip(e.ids, e.weights, strict=True)]}
        for e in examples
    ]
    seconds: list[float] = []
    losses: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    config = _trl_config(steps, per_step, options)
    trainer = SFTTrainer(
        model=str(model),
        args=config,
        train_dataset=Dataset.from_list(table),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Watch()],
    )
    trainer._get_train_sampler = lambda *_, **__: torch.utils.data.SequentialSampler(trainer.train_dataset)
    ready = time.perf_counter()
    trainer.train()
    effective = [sum(len(e.ids) for e in examples[i * per_step : (i + 1) * per_step]) for i in range(steps)]
    if options.get("packing"):
        packed = [len(row["input_ids"]) for row in trainer.train_dataset]
        effective = [sum(packed[i * per_step : (i + 1) * per_step]) for i in range(steps)]
    return {
        "setup_s": ready - STARTED,
        "seconds": seconds,
        "losses": losses,
        "effective": effective,
        "computed": effective,
        "path": f"TRL, weights {sorted({str(p.dtype) for p in trainer.model.parameters()})}, autocast {config.bf16}",
    }


def _trl_config(steps: int, per_step: int, options: dict[str, Any]) -> Any:
    """Return TRL's settings: its defaults, but for what both sides must share, and `options` where it is tuned."""
    import torch
    from trl import SFTConfig

    at_once = options.get("at_once", per_step)
    tuned: dict[str, Any] = {}
    if options:
        tuned = {
            "gradient_checkpointing": False,
            "model_init_kwargs": {"dtype": getattr(torch, options["dtype"])},
            "bf16": options["autocast"],
        }
    if options.get("packing"):
        # Rows one behind the other. Without flash attention, which CPUs lack, they see each other: a rate can be
        # measured, but losses are not those of the same rows.
        tuned |= {"packing": True, "max_length": 1024}
    return SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=per_step // at_once,
        learning_rate=LR,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        use_cpu=True,
        **({"max_length": None} | tuned),
    )


def _repeat(path: Path, count: int) -> Iterator[Any]:
    from sets import read_rows

    return islice(chain.from_iterable(read_rows(path) for _ in repeat(None)), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=["fledge", "trl-default", "trl-tuned"])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--per-step", type=int, default=8)
    parser.add_argument("--options", type=json.loads, default={})
    told = parser.parse_args()
    # What the trainers say goes to stderr; the last line of stdout is ours.
    out = os.dup(1)
    os.dup2(2, 1)
    from fledge.model.memory import peak_rss_bytes

    run = with_fledge if told.who == "fledge" else with_trl
    found = run(told.model, told.rows, told.steps, told.per_step, told.options)
    found["peak_rss_bytes"] = peak_rss_bytes()
    found["wall_s"] = time.perf_counter() - STARTED
    os.write(out, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
