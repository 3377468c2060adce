"""The training engine against TRL + PEFT: `python benchmarks/engine.py`. Appends to results.csv, draws engine.svg.

Opponents take turns on the same rows on the same machine, each in a process of its own, and are compared by the ratio
of medians over steps; the first two steps of a process warm up and are not counted. "Tuned" is the fastest of several
settings of TRL's own (dtype, autocast, rows at once; never gradient checkpointing), chosen by a trial on the rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contender import WARM_UP
from picture import draw
from results import append, processor_versions
from sets import examples_of, make_model, write_rows

HERE = Path(__file__).parent
# set: (steps of TRL, steps of fledge). Rows of (d) and (c) are long, and TRL takes up to twenty seconds a step.
SETS = {"a": (8, 12), "b": (5, 12), "c": (6, 12), "d": (5, 8)}
MODELS = {"smollm2-135m": "abcd", "qwen2.5-0.5b": "a", "gemma-3-270m": "a"}
# What TRL can be told: numbers, rows at once (padded to the longest), and packing, which on a CPU lets rows see each
# other and is measured for its rate alone.
NUMBERS = [
    {"dtype": dtype, "autocast": autocast}
    for dtype, autocast in (("bfloat16", True), ("bfloat16", False), ("float32", True))
]
AT_ONCE = (8, 2, 1)
TARGETS = {"a": (4.5, 3.3), "b": (14.0, 10.0), "c": (4.0, 3.0), "d": (2.8, 2.0)}
SHARE = {"d": 0.65}
LOSS_WITHIN = 0.01
# So many effective tokens of (a) on the larger shape, and in how many seconds.
LARGER, TOKENS, WITHIN_S = "qwen2.5-0.5b", 40_000, 480
# TRL in plain float32 says what the loss of these rows is; its default, bfloat16 autocast, learns them more slowly.
EXACT = {"dtype": "float32", "autocast": False, "at_once": 2}
EXACT_STEPS = 4
# Faster, and no longer the same training: measured beside the rest on the sets where they could pay.
OPTIONS = {"top_layers": {"top_layers": 10}, "after_prompt": {"after_prompt": True}}
OPTION_SETS = "ab"


@dataclass(frozen=True)
class Run:
    """What one process told."""

    told: dict[str, Any]

    def rate(self, key: str = "effective") -> float:
        """Tokens a second, the median over the steps after warm-up."""
        pairs = list(zip(self.told[key], self.told["seconds"], strict=True))[WARM_UP:]
        return statistics.median(tokens / seconds for tokens, seconds in pairs)

    @property
    def gflops(self) -> float:
        pairs = list(zip(self.told["flops"], self.told["seconds"], strict=True))[WARM_UP:]
        return statistics.median(flops / seconds for flops, seconds in pairs) / 1e9


def run(who: str, model: Path, rows: Path, *, steps: int, options: dict[str, Any] | None = None, **more: str) -> Run:
    command = [sys.executable, str(HERE / "contender.py"), who, str(model), str(rows), "--steps", str(steps)]
    command += ["--options", json.dumps(options or {})]
    command += ["--per-step", "1"] if options and options.get("packing") else []
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **more}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr[-2000:]}")
    return Run(json.loads(done.stdout.splitlines()[-1]))


def best_tuning(model: Path, rows: Path) -> tuple[dict[str, Any], float]:
    """Return TRL's fastest setting on these rows, and the rate that packing gave."""

    def rate(options: dict[str, Any]) -> float:
        found = run("trl-tuned", model, rows, steps=WARM_UP + 1, options=options).rate()
        print(f"    tried {options}: {found:.0f} tokens/s", flush=True)
        return found

    rates = {json.dumps(numbers | {"at_once": 2}): rate(numbers | {"at_once": 2}) for numbers in NUMBERS}
    best = json.loads(max(rates, key=rates.__getitem__))
    rates |= {json.dumps(o): rate(o) for o in (best | {"at_once": n} for n in AT_ONCE) if json.dumps(o) not in rates}
    best = json.loads(max(rates, key=rates.__getitem__))
    return best, rate(best | {"at_once": 1, "packing": True})


def compare(model: Path, rows: Path, name: str, *, rounds: int) -> dict[str, float]:
    """Return the figures of one set: rates, ratios, shares, memory, loss."""
    theirs_steps, our_steps = SETS[name]
    tuning, packed = best_tuning(model, rows)
    found: dict[str, list[Run]] = {"trl-default": [], "trl-tuned": [], "fledge": []}
    for _ in range(rounds):
        found["trl-default"].append(run("trl-default", model, rows, steps=theirs_steps))
        found["trl-tuned"].append(run("trl-tuned", model, rows, steps=theirs_steps, options=tuning))
        found["fledge"].append(run("fledge", model, rows, steps=our_steps))
    figures = {f"{who}.tokens_per_s": statistics.median(r.rate() for r in runs) for who, runs in found.items()}
    figures["trl-packed.tokens_per_s"] = packed
    figures["over trl-packed"] = figures["fledge.tokens_per_s"] / packed
    figures["fledge.computed_per_s"] = statistics.median(r.rate("computed") for r in found["fledge"])
    for who in ("trl-default", "trl-tuned"):
        pairs = zip(found["fledge"], found[who], strict=True)
        figures[f"over {who}"] = statistics.median(ours.rate() / theirs.rate() for ours, theirs in pairs)
        figures[f"loss against {who}"] = apart(found["fledge"][0], found[who][0])
    exact = run("trl-tuned", model, rows, steps=EXACT_STEPS, options=EXACT)
    figures["loss against trl-float32"] = apart(found["fledge"][0], exact)
    peaks = [max(r.told["gemm_gflops"].values()) for r in found["fledge"]]
    figures["fledge.gflops"] = statistics.median(r.gflops for r in found["fledge"])
    figures["gemm_peak.torch"] = statistics.median(r.told["gemm_gflops"]["torch"] for r in found["fledge"])
    figures["gemm_peak.fledge"] = statistics.median(r.told["gemm_gflops"]["fledge"] for r in found["fledge"])
    figures["share_of_peak"] = statistics.median(r.gflops / p for r, p in zip(found["fledge"], peaks, strict=True))
    for who, runs in found.items():
        figures[f"{who}.peak_rss_bytes"] = max(r.told["peak_rss_bytes"] for r in runs)
    figures["fledge.first_step_s"] = found["fledge"][0].told["seconds"][0]
    return figures


def apart(ours: Run, theirs: Run) -> float:
    """Return by how much our mean loss over the same rows is above theirs, relatively."""
    steps = min(len(ours.told["losses"]), len(theirs.told["losses"]))
    means = [statistics.fmean(r.told["losses"][:steps]) for r in (ours, theirs)]
    return means[0] / means[1] - 1


def with_options(model: Path, rows: Path, name: str, plain: float) -> dict[str, float]:
    """Return the rate of either option over the default's, and the seconds spent on what is computed once."""
    figures = {}
    for option, settings in OPTIONS.items():
        found = run("fledge", model, rows, steps=SETS[name][1], options=settings)
        figures[f"{option}.over default"] = found.rate() / plain
        figures[f"{option}.once_s"] = found.told["remembering_s"]
    return figures


def verdicts(model: str, name: str, figures: dict[str, float]) -> list[str]:
    """Return a line per target: reached or missed."""
    memory = figures["fledge.peak_rss_bytes"] / figures["trl-tuned.peak_rss_bytes"]
    checks = [
        ("peak RSS over trl-tuned's", memory, "<=", 1.0),
        ("loss against trl-float32", abs(figures["loss against trl-float32"]), "<=", LOSS_WITHIN),
    ]
    if model == "smollm2-135m":
        default, tuned = TARGETS[name]
        checks.append(("over trl-default", figures["over trl-default"], ">=", default))
        checks += [(f"over trl-{how}", figures[f"over trl-{how}"], ">=", tuned) for how in ("tuned", "packed")]
        if name in SHARE:
            checks.append(("share of the GEMM peak", figures["share_of_peak"], ">=", SHARE[name]))
    if model == LARGER:
        checks.append((f"seconds for {TOKENS:,} tokens", TOKENS / figures["fledge.tokens_per_s"], "<=", WITHIN_S))
    return [
        f"{'reached' if (value >= bound if sign == '>=' else value <= bound) else 'MISSED '}  {what} = {value:.3f}"
        f"  (target {sign} {bound:g})"
        for what, value, sign, bound in checks
    ]


def cold_start(model: Path, rows: Path) -> dict[str, float]:
    """Return what the very first run pays: kernels compiled, nothing cached; and the same again when they are."""
    with tempfile.TemporaryDirectory() as empty:
        cold = run("fledge", model, rows, steps=3, FLEDGE_HOME=empty)
        warm = run("fledge", model, rows, steps=3, FLEDGE_HOME=empty)
    plain = run("fledge", model, rows, steps=3, FLEDGE_KERNELS="plain")
    return {
        "cold.setup_s": cold.told["setup_s"],
        "warm.setup_s": warm.told["setup_s"],
        "warm.step_s": warm.told["seconds"][-1],
        "without_compiler.step_s": plain.told["seconds"][-1],
    }


def growth(model: Path, rows: Path, folder: Path) -> dict[str, float]:
    """Return seconds, computed tokens and peak memory of one pass over 10 to 10,000 rows."""
    lines = rows.read_text(encoding="utf-8").splitlines()
    figures = {}
    for count in (10, 100, 1000, 10_000):
        # Rows differ in one token of the question, as variants of a template do.
        many = folder / f"growth-{count}.jsonl"
        varied = [json.loads(lines[i % len(lines)]) for i in range(count)]
        for i, row in enumerate(varied):
            place = next(k for k, w in enumerate(row["weights"]) if w > 0) - 6
            row["ids"][place] = 1000 + i % 40_000
        many.write_text("".join(json.dumps(row) + "\n" for row in varied), encoding="utf-8")
        told = run("fledge", model, many, steps=math.ceil(count / 8)).told
        figures |= {
            f"rows {count}.seconds": sum(told["seconds"]),
            f"rows {count}.computed": sum(told["computed"]),
            f"rows {count}.computed_per_s": sum(told["computed"]) / sum(told["seconds"]),
            f"rows {count}.peak_rss_bytes": told["peak_rss_bytes"],
        }
        print(f"  {count} rows: {sum(told['seconds']):.1f} s, {told['peak_rss_bytes'] / 1e6:.0f} MB", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="abcd")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--growth", action="store_true", help="growth alone")
    told = parser.parse_args()
    from fledge.data.template import ChatTemplate
    from fledge.model.tokenizer import load_tokenizer
    from fledge.model.weights import open_weights

    versions = processor_versions()
    everything: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starter = make_model("smollm2-135m", folder)
        template = ChatTemplate(load_tokenizer(open_weights(starter)))
        for key in SETS:
            write_rows(folder / f"{key}.jsonl", examples_of(key, template))
        for model in () if told.growth else told.models:
            for key in (k for k in MODELS[model] if k in told.sets):
                print(f"{model}, set ({key})", flush=True)
                figures = compare(
                    make_model(model, folder),
                    folder / f"{key}.jsonl",
                    key,
                    rounds=told.rounds if model == "smollm2-135m" else 2,
                )
                everything[f"engine {model} ({key})"] = figures
                if model == "smollm2-135m" and key in OPTION_SETS:
                    rate = figures["fledge.tokens_per_s"]
                    figures |= with_options(starter, folder / f"{key}.jsonl", key, rate)
                lines = verdicts(model, key, figures)
                rates = [f"{n} = {v:.4g}" for n, v in figures.items()]
                print("  " + "\n  ".join([*rates, *lines]), flush=True)
                append(f"engine {model} ({key})", figures, versions)
        more = {} if told.growth else {"engine start": cold_start(starter, folder / "a.jsonl")}
        if not told.no_growth:
            more["engine growth"] = growth(starter, folder / "a.jsonl", folder)
        for what, figures in more.items():
            print(what, *(f"{n} = {v:.4g}" for n, v in figures.items()), sep="\n  ", flush=True)
            append(what, figures, versions)
    draw(HERE / "results.csv", HERE / "engine.svg")


if __name__ == "__main__":
    main()
