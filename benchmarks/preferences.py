"""Learning from preferences against TRL + PEFT: `python benchmarks/preferences.py [--rows PAIRS.jsonl]`.

Sides take turns on the same pairs on the same machine, each in a process of its own, eight rows a step, LoRA of rank 16
on every linear layer; the first two steps warm up and are not counted. TRL has its references computed beforehand, as
fledge does. "Tuned" is the faster of TRL's own settings, found by trial. Appends to results.csv.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import append, processor_versions
from sets import ROOT, make_model
from sides import answer, ask, trl_settings

HERE = Path(__file__).parent
WARM_UP, PER_STEP, LR, RANK = 2, 8, 1e-4, 16
TARGET = 2.5
STEPS = {"fledge": 10, "trl": 7}
SETTINGS = [
    {"dtype": dtype, "autocast": autocast, "at_once": at_once}
    for dtype, autocast in (("bfloat16", False), ("float32", True))
    for at_once in (8, 2)
]


def write_pairs(path: Path) -> None:
    """Write pairs of the shipped example: its own answer, and that to another question."""
    lines = (ROOT / "examples/python-stdlib/data/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    others = rows[len(rows) // 2 :] + rows[: len(rows) // 2]
    pairs = (
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in zip(rows, others, strict=True)
    )
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")


def with_fledge(model: Path, rows: Path, objective: str, steps: int, _: dict[str, Any]) -> dict[str, Any]:
    from fledge.config_file import load_config
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.project import list_runs
    from fledge.recipes.tune import tune
    from fledge.training import log

    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        count = sum(1 for _ in rows.open(encoding="utf-8")) * (2 if objective == "kto" else 1)
        knobs = [f"objective={objective}", f"data.train={rows}", "data.eval=none", f"train.lr={LR}"]
        knobs += [f"train.epochs={steps * PER_STEP / count}", f"train.rank={RANK}", f"train.rows_per_step={PER_STEP}"]
        (project / "fledge.yaml").write_text(f"model: {model}\n", encoding="utf-8")
        tune(project, load_config(project, knobs))
        lines = list(log.read(list_runs(project)[0].metrics))
    return {"seconds": [x["seconds"] for x in lines], "effective": [x["tokens_effective"] for x in lines]}


def with_trl(model: Path, rows: Path, objective: str, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    from fledge.runtime.threads import usable_cores

    torch.set_num_threads(usable_cores())
    seconds: list[float] = []
    sizes: list[int] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()
            sizes.append(0)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    table = [_as_messages(json.loads(line)) for line in rows.read_text(encoding="utf-8").splitlines()]
    if objective == "kto":
        table = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in table
            for side in ("chosen", "rejected")
        ]
    settings, trainer_of = (KTOConfig, KTOTrainer) if objective == "kto" else (DPOConfig, DPOTrainer)
    trainer = trainer_of(
        model=str(model),
        args=settings(
            **trl_settings(options, lr=LR, steps=steps, at_once=options.get("at_once", PER_STEP), rows=PER_STEP),
            max_length=None,
            precompute_ref_log_probs=True,
        ),
        train_dataset=Dataset.from_list(table[: steps * PER_STEP]),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Watch()],
    )
    collate = trainer.data_collator

    def counted(features: Any) -> Any:
        # What KTO sets aside is no row of its own.
        batch = collate(features)
        sizes[-1] += int(batch["attention_mask"].sum())
        return batch

    trainer.data_collator = counted
    sizes.append(0)
    trainer.train()
    # The loader may run a batch ahead, so tokens are counted as a mean.
    mean = sum(sizes) / len(seconds)
    return {"seconds": seconds, "effective": [mean] * len(seconds)}


def _as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """Return a pair as TRL takes it, whichever of the two ways it is written."""
    if "answer_matching_behavior" in row:
        row = {
            "prompt": row["question"],
            "chosen": row["answer_matching_behavior"],
            "rejected": row["answer_not_matching_behavior"],
        }
    sides = {key: row[key] for key in ("prompt", "chosen", "rejected")}
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {
        key: value if isinstance(value, list) else [{"role": roles[key], "content": value}]
        for key, value in sides.items()
    }


def run(who: str, model: Path, rows: Path, objective: str, options: dict[str, Any] | None = None) -> float:
    """Return the effective tokens a second, the median over the steps after warm-up."""
    steps = STEPS["fledge" if who == "fledge" else "trl"]
    arguments = {"model": model, "rows": rows, "objectives": objective, "steps": steps}
    told = ask(__file__, who, arguments | {"options": json.dumps(options or {})})
    pairs = list(zip(told["effective"], told["seconds"], strict=True))[WARM_UP:]
    rate = statistics.median(tokens / seconds for tokens, seconds in pairs)
    print(f"  {objective} {who} {options or ''}: {rate:,.0f} tokens/s", flush=True)
    return rate


def compare(model: Path, rows: Path, objective: str, *, rounds: int, tuned: Any = None) -> dict[str, float]:
    best = tuned or max(SETTINGS, key=lambda options: run("trl-tuned", model, rows, objective, options))
    found: dict[str, list[float]] = {"fledge": [], "trl-default": [], "trl-tuned": []}
    for _ in range(rounds):
        for who, rates in found.items():
            rates.append(run(who, model, rows, objective, best if who == "trl-tuned" else None))
    figures = {f"{who}.tokens_per_s": statistics.median(rates) for who, rates in found.items()}
    for who in ("trl-default", "trl-tuned"):
        ratios = [ours / theirs for ours, theirs in zip(found["fledge"], found[who], strict=True)]
        figures[f"over {who}"] = statistics.median(ratios)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, help="pairs, one a line; without: made of the shipped example")
    parser.add_argument("--objectives", nargs="+", default=["dpo", "kto"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tuned", type=json.loads, help="TRL's settings, where they are known: none are tried")
    parser.add_argument("--name", default="the example's answers")
    parser.add_argument("--one", choices=["fledge", "trl-default", "trl-tuned"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        side = with_fledge if told.one == "fledge" else with_trl
        answer(lambda: side(told.model, told.rows, told.objectives[0], told.steps, told.options))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = make_model("smollm2-135m", Path(folder))
        rows = told.rows
        if rows is None:
            write_pairs(rows := Path(folder) / "pairs.jsonl")
        for objective in told.objectives:
            figures = compare(model, rows, objective, rounds=told.rounds, tuned=told.tuned)
            for name, value in figures.items():
                print(f"{objective}: {name} = {value:,.4g}")
            reached = "reached" if figures["over trl-default"] >= TARGET else "MISSED "
            print(f"{reached}  {objective} over trl-default (target >= {TARGET})")
            append(f"{objective} on {told.name}", figures, processor_versions())


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
