"""Learning from rewards against TRL + PEFT: `python benchmarks/rewards.py [--rounds 1]`.

Both sides work out the sums of examples/arithmetic by grpo: eight replies to each of eight prompts a step, of at most
20 tokens at temperature 1, LoRA of rank 16 on every linear layer, one update a step, no reference. A step is all of it:
the sampling, the judging and the learning. Sides take turns, each in a process of its own; the first steps warm up and
are not counted. "Tuned" is the faster of TRL's own settings, found by trial. Appends to results.csv.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
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
EXAMPLE = ROOT / "examples/arithmetic"
PROMPTS, GROUP, MAX_TOKENS, LR, RANK = 8, 8, 20, 1e-4, 16
TARGET = 3.0
STEPS, WARM_UP = {"fledge": 10, "trl": 3}, {"fledge": 2, "trl": 1}
SETTINGS = [
    {"dtype": dtype, "autocast": autocast, "at_once": at_once}
    for dtype, autocast, at_once in (("bfloat16", False, 64), ("bfloat16", False, 8))
]


def with_fledge(model: Path, _: dict[str, Any]) -> dict[str, Any]:
    from fledge.config_file import load_config
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.project import list_runs
    from fledge.recipes.tune import tune
    from fledge.training import log

    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "sums"
        shutil.copytree(EXAMPLE, project)
        knobs = [f"model={model}", "data.eval=none", f"train.lr={LR}", f"train.rank={RANK}"]
        knobs += [f"train.rows_per_step={PROMPTS}", f"rl.group={GROUP}", f"rl.max_tokens={MAX_TOKENS}"]
        knobs += [f"train.epochs={STEPS['fledge'] * PROMPTS / len(rows_of())}"]
        tune(project, load_config(project, knobs))
        lines = list(log.read(list_runs(project)[0].metrics))
    tokens = [line["metrics"]["length"] * PROMPTS * GROUP for line in lines]
    return {"seconds": [line["seconds"] for line in lines], "tokens": tokens}


def rows_of() -> list[dict[str, Any]]:
    lines = (EXAMPLE / "data/train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def right(completions: list[list[dict[str, str]]], answer: list[str], **_: Any) -> list[float]:
    """Return 1 for each reply whose last number is the answer, else 0."""
    numbers = [re.findall(r"-?\d+", completion[-1]["content"]) for completion in completions]
    return [float(bool(found) and found[-1] == wanted) for found, wanted in zip(numbers, answer, strict=True)]


def with_trl(model: Path, options: dict[str, Any]) -> dict[str, Any]:
    import torch
    import yaml
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from fledge.runtime.threads import usable_cores

    torch.set_num_threads(usable_cores())
    seconds: list[float] = []

    class Watch(TrainerCallback):
        # From the end of a step to that of the next: a step's samples may be drawn before it begins.
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            seconds.append(now - self.last)
            self.last = now

    system = yaml.safe_load((EXAMPLE / "fledge.yaml").read_text(encoding="utf-8"))["data"]["system"]
    table = [
        {
            "prompt": [{"role": "system", "content": system}, {"role": "user", "content": row["prompt"]}],
            "answer": row["answer"],
        }
        for row in rows_of()
    ]
    trainer = GRPOTrainer(
        model=str(model),
        reward_funcs=right,
        args=GRPOConfig(
            **trl_settings(
                options, lr=LR, steps=STEPS["trl"], at_once=options.get("at_once", GROUP), rows=PROMPTS * GROUP
            ),
            num_generations=GROUP,
            max_completion_length=MAX_TOKENS,
            temperature=1.0,
            beta=0.0,
            logging_steps=1,
        ),
        train_dataset=Dataset.from_list(table),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Watch()],
    )
    trainer.train()
    lengths = [
        each["completions/mean_length"] for each in trainer.state.log_history if "completions/mean_length" in each
    ]
    return {"seconds": seconds, "tokens": [length * PROMPTS * GROUP for length in lengths]}


def run(who: str, model: Path, options: dict[str, Any] | None = None) -> dict[str, float]:
    """Return the seconds of a step and the sampled tokens a second, medians over the steps after warm-up."""
    told = ask(__file__, who, {"model": model, "options": json.dumps(options or {})})
    pairs = list(zip(told["seconds"], told["tokens"], strict=True))[WARM_UP["fledge" if who == "fledge" else "trl"] :]
    figures = {
        "step_s": statistics.median(seconds for seconds, _ in pairs),
        "tokens_per_s": statistics.median(tokens / seconds for seconds, tokens in pairs),
    }
    words = ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())
    print(f"  {who} {options or ''}: {words}", flush=True)
    return figures


def compare(model: Path, *, rounds: int) -> dict[str, float]:
    best = min(SETTINGS, key=lambda options: run("trl-tuned", model, options)["step_s"])
    found: dict[str, list[dict[str, float]]] = {"fledge": [], "trl-default": [], "trl-tuned": []}
    for _ in range(rounds):
        for who, told in found.items():
            told.append(run(who, model, best if who == "trl-tuned" else None))
    figures = {
        f"{who}.{name}": statistics.median(each[name] for each in told)
        for who, told in found.items()
        for name in ("step_s", "tokens_per_s")
    }
    for who in ("trl-default", "trl-tuned"):
        pairs = list(zip(found[who], found["fledge"], strict=True))
        figures[f"over {who}"] = statistics.median(theirs["step_s"] / ours["step_s"] for theirs, ours in pairs)
        figures[f"tokens over {who}"] = statistics.median(
            ours["tokens_per_s"] / theirs["tokens_per_s"] for theirs, ours in pairs
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", choices=["fledge", "trl-default", "trl-tuned"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        side = with_fledge if told.one == "fledge" else with_trl
        answer(lambda: side(told.model, told.options))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(make_model("smollm2-135m", Path(folder)), rounds=told.rounds)
    for name, value in figures.items():
        print(f"{name} = {value:,.4g}")
    reached = "reached" if figures["over trl-default"] >= TARGET else "MISSED "
    print(f"{reached}  grpo's seconds a step over trl-default (target >= {TARGET})")
    append("grpo on sums", figures, processor_versions())


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
