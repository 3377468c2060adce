"""Measure on this machine: `make bench`, or `python benchmarks/run.py --seeds 0 1`. Appends to benchmarks/results.csv.

Each line of the results is one figure: when, commit, machine, versions, what was run, name, value. Two runs are
compared by their ratio, on one machine, in turn; machines differ and so do their quiet and busy hours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

from results import append, processor_versions

TARGETS = {
    "quantised.accuracy": (">=", 0.95),
    "quantised.template_adherence": (">=", 0.95),
    "quantised.stopped": (">=", 1.0),
    "train_s": ("<=", 240),
    "total_s": ("<=", 420),
    "peak_rss_bytes": ("<=", 3e9),
    "quantised.bytes": ("<=", 150e6),
    "f16.parity_top1": (">=", 0.999),
    "f16.parity_kl": ("<=", 1e-3),
    "quantised.parity_top1": (">=", 0.99),
    "quantised.parity_kl": ("<=", 0.01),
}


def fledge(*arguments: str) -> dict[str, Any]:
    """Return the JSON object of a command; its progress goes where ours goes."""
    done = subprocess.run([sys.executable, "-m", "fledge", *arguments, "--json"], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in a nested object by their dotted names."""
    found: dict[str, float] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= flat(item, f"{prefix}{key}.")
        elif isinstance(item, int | float):
            found[f"{prefix}{key}"] = item
    return found


def verdicts(figures: dict[str, float]) -> list[str]:
    """Return a line per target: reached or missed."""
    lines = []
    for name, (sign, bound) in TARGETS.items():
        value = figures[name]
        reached = value >= bound if sign == ">=" else value <= bound
        lines.append(f"{'reached' if reached else 'MISSED '}  {name} = {value:.6g}  (target {sign} {bound:g})")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    machine = fledge("doctor")
    versions = processor_versions(machine["torch"])
    append("doctor", flat({"gemm_gflops": machine["gemm_gflops"]}), versions)
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            figures = flat(fledge("demo", f"{folder}/demo", "--seed", str(seed)))
        append(f"demo seed {seed}", figures, versions)
        print(f"demo, seed {seed}:", *verdicts(figures), sep="\n  ")


if __name__ == "__main__":
    main()
