"""What `fledge advise fit` tells against what `fledge train` takes: `python benchmarks/fit.py`. Appends to results.csv.

Three models by four settings. Each is advised about and then trained, in processes of their own that take turns; of
times the ratio of medians over rounds counts. The limits are 15 % of the peak of memory and 20 % of the time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import append, processor_versions
from sets import make_model

MODELS = ("smollm2-135m", "qwen2.5-0.5b", "gemma-3-270m")
MEMORY_WITHIN, TIME_WITHIN = 0.15, 0.20
# Words of the starter's vocabulary, of about one token each.
WORDS = "time year people way day man thing woman life child world school state family student group country problem hand".split()  # noqa: E501, SIM905


@dataclass(frozen=True)
class Setting:
    """One way to train: a method over a base of this type ("" for the folder), with rows of about so many tokens."""

    name: str
    method: str
    tokens: int
    rows: int
    base: str = ""
    knobs: tuple[str, ...] = ()


# Long enough that the start does not count for much.
SETTINGS = (
    Setting("lora, short rows", "lora", 100, 96),
    Setting("lora, long rows", "lora", 500, 32),
    Setting("full", "full", 200, 48),
    Setting("qlora", "qlora", 200, 48, "q8_0"),
)
# Where the file cannot be written, the fourth is LoRA in little memory.
INSTEAD = Setting("lora, layers computed twice", "lora", 200, 48, knobs=("train.recompute=true",))


def write_project(folder: Path, model: Path, setting: Setting) -> None:
    """Write a project with rows that share nothing but their template."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = random.Random(0)
    half = max(4, (setting.tokens - 12) // 2)
    rows = [
        {"question": " ".join(numbers.choices(WORDS, k=half)), "answer": " ".join(numbers.choices(WORDS, k=half))}
        for _ in range(setting.rows)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    knobs = "".join(f"  {knob.removeprefix('train.').replace('=', ': ')}\n" for knob in setting.knobs)
    text = f"model: {model}\nmethod: {setting.method}\ndata:\n  train: train.jsonl\n"
    text += f"train:\n  epochs: 1\n  eval_every: 0\n  checkpoint_s: 3600\n{knobs}"
    (folder / "fledge.yaml").write_text(text, encoding="utf-8")


def told_by(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Return what a command of fledge prints as JSON."""
    command = [sys.executable, "-m", "fledge", *arguments, "-C", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout))


def compare(model: Path, setting: Setting, rounds: int, work: Path) -> dict[str, float]:
    """Advise and train, `rounds` times in turn; return what was told and what it took."""
    kind = setting.base or "q8_0"
    base = base_file(model, kind, work) if setting.base else model
    folder = work / f"{model.name}-{setting.name.replace(' ', '-').replace(',', '')}"
    write_project(folder, base, setting)
    told, taken = [], []
    for _ in range(rounds):
        advice = told_by(["advise", "fit", str(base), "--method", setting.method, "--quant", kind, "--probe"], folder)
        told.append(advice["options"][0])
        taken.append(told_by(["train"], folder))
    return {
        "told_bytes": statistics.median(one["train_ram_bytes"] for one in told),
        "peak_bytes": statistics.median(one["peak_rss_bytes"] for one in taken),
        "told_s": statistics.median(one["train_s"] for one in told),
        "taken_s": statistics.median(one["seconds"] for one in taken),
        "time_ratio": statistics.median(
            one["train_s"] / other["seconds"] for one, other in zip(told, taken, strict=True)
        ),
    }


def base_file(folder: Path, kind: str, work: Path) -> Path:
    """Return a quantised base: the starter's own file as it is, of others one that is written here."""
    from fledge.model.pull import pull
    from fledge.model.weights import open_weights
    from fledge.release.gguf import write_gguf

    if folder.name == "smollm2-135m":
        return pull(folder.name).path
    path = work / f"{folder.name}-{kind}.gguf"
    write_gguf(path, open_weights(folder), None, kind)
    return path


def show(what: str, found: Mapping[str, float]) -> None:
    memory = found["told_bytes"] / found["peak_bytes"] - 1
    time = found["time_ratio"] - 1
    met = abs(memory) <= MEMORY_WITHIN and abs(time) <= TIME_WITHIN
    print(
        f"{'reached' if met else 'MISSED '}  {what}: "
        f"told {found['told_bytes'] / 1e9:.2f} GB of {found['peak_bytes'] / 1e9:.2f} ({memory:+.0%}), "
        f"{found['told_s']:.0f} s of {found['taken_s']:.0f} ({time:+.0%})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--settings", nargs="+", type=int, default=[0, 1, 2, 3], help="places in the list of settings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-record", action="store_true", help="append nothing to results.csv")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in told.models:
            model = make_model(name, Path(folder) / "models")
            for number in told.settings:
                setting = SETTINGS[number]
                if setting.base and name.startswith("gemma"):
                    setting = INSTEAD
                found = compare(model, setting, told.rounds, Path(folder))
                show(f"{name}, {setting.name}", found)
                if not told.no_record:
                    append(f"advise fit {name} {setting.name}", found, processor_versions())


if __name__ == "__main__":
    main()
