"""On the real starter model: bfloat16 learns as float32 does, and a run takes the memory that was forecast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fledge.data.course import plain
from fledge.data.formats import read_records, taught_of
from fledge.data.sources import read_rows
from fledge.data.template import ChatTemplate
from fledge.model.load import load_model
from fledge.model.lora import LoraSettings
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import Weights, open_weights
from fledge.objective.sft import sft
from fledge.records import Example
from fledge.training.batch import batches
from fledge.training.loop import Plan, fit
from fledge.training.optim import Schedule, adamw

ROWS = Path(__file__).parents[2] / "examples" / "python-stdlib" / "data" / "train.jsonl"
STEPS, WINDOW = 50, 10


def losses(weights: Weights, examples: list[Example], dtype: torch.dtype) -> torch.Tensor:
    """The losses of 50 steps of 8 rows, as a run takes them."""
    model = load_model(weights, dtype=dtype)
    model.add_adapter(LoraSettings(rank=16, alpha=32.0), seed=0)
    course = plain(len(examples), seed=0)
    stream = batches(examples, rows_per_step=8, tokens_per_piece=2048, course=course, first_step=0, steps=STEPS)
    optimizer = adamw(model.parameters(), weight_decay=0.0)
    plan = Plan(STEPS, 0, Schedule(5e-4, STEPS, 0.1), 1.0, 1e9, lambda step: None)
    return torch.tensor([step.loss for step in fit(model, stream, sft, optimizer, plan)], dtype=torch.float64)


@pytest.mark.slow
def test_bfloat16_follows_float32_for_fifty_steps(starter_gguf: Path) -> None:
    weights = open_weights(starter_gguf)
    template = ChatTemplate(load_tokenizer(weights))
    rows = taught_of(read_records(read_rows(ROWS)), ROWS)
    examples = [example for row in rows for example in template.examples(row)]
    exact, rough = (losses(weights, examples, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact[-WINDOW:].mean() < 0.2 * exact[:WINDOW].mean(), "it learns"
    apart = (rough - exact).abs().mean() / exact.mean()
    print(f"bf16 against fp32: {apart:.4f} of the mean loss, {exact.mean():.4f} and {rough.mean():.4f}")
    assert float(apart) <= 0.01


def fledge(project: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "fledge", "train", "-C", str(project), "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("words", "knobs"),
    [(10, []), (300, ["train.rows_per_step=4"]), (300, ["train.rows_per_step=4", "train.ram=1.2GB"])],
)
def test_a_run_takes_the_memory_that_was_forecast(
    words: int, knobs: list[str], starter_gguf: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    row = "\n".join(
        json.dumps({"question": f"Number {n}?", "answer": " ".join(f"{n}{i}" for i in range(words // (1 + n % 3)))})
        for n in range(16)
    )
    (tmp_path / "data" / "train.jsonl").write_text(row, encoding="utf-8")
    (tmp_path / "fledge.yaml").write_text(
        yaml.safe_dump({"model": "smollm2-135m", "data": {"eval": "none"}, "train": {"epochs": 1}}), encoding="utf-8"
    )
    forecast = fledge(tmp_path, "--dry-run", *knobs)["forecast"]
    measured = fledge(tmp_path, *knobs)
    print(f"forecast {forecast['ram_bytes'] / 1e6:.0f} MB, measured {measured['peak_rss_bytes'] / 1e6:.0f} MB")
    assert measured["peak_rss_bytes"] == pytest.approx(forecast["ram_bytes"], rel=0.15)
    if "train.ram=1.2GB" in knobs:
        assert measured["peak_rss_bytes"] <= 1.2e9
