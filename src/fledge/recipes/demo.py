"""The main job, end to end, on the shipped example: a page to read top to bottom."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.config_file import load_config
from fledge.evaluation.tasks import Evaluation
from fledge.model.memory import peak_rss_bytes
from fledge.model.pull import resolve
from fledge.project import find_run
from fledge.recipes import measure, ship, tune
from fledge.recipes.measure import Served
from fledge.recipes.prepare import read_project
from fledge.recipes.report import keep_verdict
from fledge.recipes.start import copy_example
from fledge.recipes.texts import conversations_in
from fledge.recipes.tune import Listener

EXAMPLE = "python-stdlib"


@dataclass(frozen=True)
class Stage:
    """How the demo is shown. `train` and `ask` run a piece of long work with progress and return what it returns."""

    say: Callable[[str], None]
    train: Callable[[Callable[[Listener], dict[str, Any]]], dict[str, Any]]
    ask: Callable[[str, int, Callable[[Callable[[int], None]], Evaluation]], Evaluation]


def run_demo(folder: Path, *, seed: int, stage: Stage) -> dict[str, Any]:
    """Teach, measure and hand over; return what the contract says of `fledge demo`.

    Run again in the same folder it adds a run. Raises ParityError and whatever goes wrong on the way.
    """
    started = time.monotonic()
    say = stage.say

    if not (folder / "fledge.yaml").is_file():
        copy_example(EXAMPLE, folder)
    config = load_config(folder, [f"train.seed={seed}"])
    rows = conversations_in(read_project(folder, config).held_out)
    say(f"1. The base model. {config.model}: small enough to learn here, small enough to run anywhere.")
    base_path = resolve(config.model, base_dir=folder)

    say(f"\n2. What it says today. {len(rows)} questions that it will not see while it learns:")
    base = _measure(Served(config.model, base_path), rows, config, stage)
    _show(base, say)

    say("\n3. It learns. An adapter of a few million numbers is trained; the model itself stays as it is.")
    summary = stage.train(lambda listener: tune.tune(folder, config, listener=listener))
    run = find_run(folder, summary["run"])

    say("\n4. It becomes a file. Adapter and model are merged, packed, and compared with what was trained:")
    exported = ship.export(ship.open_run(folder, run), types=["f16", "q8_0"], with_adapter=True, say=say)
    files = {entry["type"] if entry["kind"] == "merged" else "adapter": entry for entry in exported["files"]}

    say("\n5. The same questions again, put to the files themselves:")
    tuned = _measure(Served("f16", Path(files["f16"]["path"])), rows, config, stage)
    quantised = _measure(Served("q8_0", Path(files["q8_0"]["path"])), rows, config, stage)
    _show(quantised, say)
    verdict = measure.versus(base, quantised)
    say(f"   {verdict.outcome.value}: {verdict.why}")

    sides = [Served(run.path.name, Path(files["q8_0"]["path"])), Served(config.model, base_path)]
    keep_verdict(run, measure.report(sides, [quantised, base], project=folder))
    result = {
        "base": {"accuracy": base.accuracy, "template_adherence": base.template_adherence},
        "tuned": _side(tuned),
        "quantised": {
            "file": files["q8_0"]["path"],
            "type": "q8_0",
            "bytes": files["q8_0"]["bytes"],
            **_side(quantised),
            "parity_top1": files["q8_0"]["parity"]["top1"],
            "parity_kl": files["q8_0"]["parity"]["kl"],
        },
        "f16": {"parity_top1": files["f16"]["parity"]["top1"], "parity_kl": files["f16"]["parity"]["kl"]},
        "verdict": verdict.outcome.value,
        "rows": len(rows),
        "seed": seed,
        "train_s": summary["seconds"],
        "tokens_per_s": summary["tokens_per_s"],
        "total_s": time.monotonic() - started,
        "peak_rss_bytes": peak_rss_bytes(),
        "run": summary["run"],
    }
    _farewell(result, folder, say)
    return result


def _measure(served: Served, rows: Any, config: Any, stage: Stage) -> Evaluation:
    return stage.ask(
        f"asking {served.label}", len(rows), lambda on_done: measure.measure(served, rows, config, on_done=on_done)
    )


def _side(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": evaluation.accuracy,
        "template_adherence": evaluation.template_adherence,
        "stopped": evaluation.stopped,
        "tokens_per_s": evaluation.tokens_per_s,
    }


def _show(evaluation: Evaluation, say: Callable[[str], None]) -> None:
    """Tell one answer and the counts."""
    row = evaluation.rows[0]
    reply = row.reply if len(row.reply) < 300 else f"{row.reply[:300]}..."
    say(f"   > {row.prompt[-1].content}")
    say("\n".join(f"   {line}" for line in reply.splitlines()))
    shares = {
        "right": evaluation.accuracy,
        "in the template": evaluation.template_adherence or 0.0,
        "stopped by itself": evaluation.stopped,
    }
    say("   " + "   ".join(f"{name}: {100 * share:.1f} %" for name, share in shares.items()))


def _farewell(result: dict[str, Any], folder: Path, say: Callable[[str], None]) -> None:
    quantised = result["quantised"]
    path = os.path.relpath(quantised["file"])
    say(
        f"\nDone in {result['total_s'] / 60:.1f} minutes ({result['train_s'] / 60:.1f} of them learning), "
        f"{result['peak_rss_bytes'] / 1e9:.1f} GB of memory at most."
    )
    say(f"   {path}  {quantised['bytes'] / 1e6:.1f} MB; llama.cpp, Ollama or any program that reads GGUF runs it.")
    say(f"   {os.path.relpath(folder / 'runs' / result['run'] / 'report.html')}  the run in pictures")
    say("\nTry next:")
    say(f"   fledge chat latest -C {folder}")
    say(f"   fledge data show data/train.jsonl -C {folder}      what was taught, coloured")
    say("   fledge new my-model --kind template        your own")
