"""The main job, end to end, with the figures it must reach. Minutes: `make test-slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_demo_reaches_what_it_promises(seed: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fledge", "demo", "demo", "--seed", str(seed), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    base, quantised = told["base"], told["quantised"]
    assert base["accuracy"] <= 0.05 and base["template_adherence"] <= 0.05
    assert quantised["accuracy"] >= 0.95 and quantised["template_adherence"] >= 0.95 and quantised["stopped"] == 1.0
    assert told["f16"]["parity_top1"] >= 0.999 and told["f16"]["parity_kl"] <= 1e-3
    assert quantised["parity_top1"] >= 0.99 and quantised["parity_kl"] <= 0.01
    assert quantised["bytes"] <= 150e6 and Path(tmp_path / quantised["file"]).stat().st_size == quantised["bytes"]
    assert told["peak_rss_bytes"] <= 3e9
    assert told["verdict"] == "better"
    report = tmp_path / "demo" / "runs" / told["run"] / "report.html"
    assert "</html>" in report.read_text(encoding="utf-8")
