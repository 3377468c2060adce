"""On the real starter model bfloat16 learns as float32 does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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


@pytest.fixture(scope="module")
def starter(starter_gguf: Path) -> tuple[Weights, list[Example]]:
    weights = open_weights(starter_gguf)
    template = ChatTemplate(load_tokenizer(weights))
    rows = taught_of(read_records(read_rows(ROWS)), ROWS)
    return weights, [example for row in rows for example in template.examples(row)]


def losses(
    weights: Weights, examples: list[Example], dtype: torch.dtype, *, masters: torch.dtype = torch.float32
) -> torch.Tensor:
    """The losses of 50 steps of 8 rows, as a run takes them; `masters`: what the adapter is rounded to after each."""
    model = load_model(weights, dtype=dtype)
    model.add_adapter(LoraSettings(rank=16, alpha=32.0), seed=0)
    course = plain(len(examples), seed=0)
    stream = batches(examples, rows_per_step=8, tokens_per_piece=2048, course=course, first_step=0, steps=STEPS)
    optimizer = adamw(model.parameters(), weight_decay=0.0)

    @torch.no_grad()
    def rounded(*_: object) -> None:
        for parameter in model.parameters().values():
            parameter.copy_(parameter.to(masters))

    optimizer.register_step_post_hook(rounded)
    plan = Plan(STEPS, 0, Schedule(5e-4, STEPS, 0.1), 1.0, 1e9, lambda step: None)
    return torch.tensor([step.loss for step in fit(model, stream, sft, optimizer, plan)], dtype=torch.float64)


@pytest.mark.slow
def test_bfloat16_follows_float32_for_fifty_steps(starter: tuple[Weights, list[Example]]) -> None:
    weights, examples = starter
    exact, rough = (losses(weights, examples, dtype) for dtype in (torch.float32, torch.bfloat16))
    faulty = losses(weights, examples, torch.bfloat16, masters=torch.float8_e5m2)
    assert exact[-WINDOW:].mean() < 0.2 * exact[:WINDOW].mean(), "it learns"
    apart = (rough - exact).abs().mean() / exact.mean()
    print(f"bf16 against fp32: {apart:.4f} of the mean loss, {exact.mean():.4f} and {rough.mean():.4f}")
    assert float(apart) <= 0.01
    fault = (faulty - exact).abs().mean() / exact.mean()
    print(f"with masters in eight bits: {fault:.4f}")
    assert float(fault) > 0.01, "negative control: masters that are rounded are noticed"


@pytest.mark.slow
def test_on_all_threads_in_bfloat16_the_same_steps_give_the_same_bits(starter: tuple[Weights, list[Example]]) -> None:
    weights, examples = starter

    def bits(tokens: int) -> list[torch.Tensor]:
        model = load_model(weights, dtype=torch.bfloat16)
        model.add_adapter(LoraSettings(rank=16, alpha=32.0), seed=0)
        course = plain(len(examples), seed=0)
        stream = batches(examples, rows_per_step=8, tokens_per_piece=tokens, course=course, first_step=0, steps=6)
        optimizer = adamw(model.parameters(), weight_decay=0.0)
        list(fit(model, stream, sft, optimizer, Plan(6, 0, Schedule(5e-4, 6, 0.1), 1.0, 1e9, lambda step: None)))
        return [tensor.clone() for tensor in model.adapter_tensors().values()]

    first, second, otherwise = bits(2048), bits(2048), bits(256)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, otherwise, strict=True)), "another order of sums shows"
