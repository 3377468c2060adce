"""The learning rate rises, falls and never leaves its bounds; every choice for the user has a reason."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fledge.config import Config, TrainConfig
from fledge.data.course import plain
from fledge.errors import TrainError
from fledge.model.hardware import Machine
from fledge.model.shape import Shape
from fledge.records import Example
from fledge.training.auto import Means, resolve
from fledge.training.batch import batches
from fledge.training.optim import FINAL_SHARE, Schedule, adamw
from tiny import random_examples


@given(steps=st.integers(1, 2000), warmup=st.floats(0, 0.99), peak=st.floats(1e-6, 1e-1))
def test_the_rate_rises_to_its_peak_and_falls_to_a_tenth_of_it(steps: int, warmup: float, peak: float) -> None:
    schedule = Schedule(peak, steps, warmup)
    rates = [schedule.lr(step) for step in range(steps)]
    top = max(1, round(warmup * steps)) - 1
    slack = 1 + 1e-12
    assert all(a < b for a, b in zip(rates[:top], rates[1:], strict=False))
    assert all(b <= a * slack for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
    assert rates[top] == pytest.approx(peak)
    assert all(0 < rate <= peak * slack for rate in rates)
    if steps > top + 2:
        assert rates[-1] == pytest.approx(FINAL_SHARE * peak)


def test_the_fall_is_a_cosine() -> None:
    schedule = Schedule(1.0, 111, 0.1)
    assert [schedule.lr(step) for step in (0, 4, 10)] == pytest.approx([1 / 11, 5 / 11, 1.0])
    middle = schedule.lr(11 + 99 // 3)
    assert middle == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 3)))


def test_the_optimizer_is_decoupled_adam() -> None:
    """One step by the formula of Loshchilov & Hutter: after it, every weight has moved by lr, less its decay."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = adamw({"weight": weight}, weight_decay=0.1)
    weight.grad = torch.tensor([0.5, -3.0])
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    decayed = torch.tensor([1.0, -2.0]) * (1 - 0.01 * 0.1)
    torch.testing.assert_close(weight.detach(), decayed - 0.01 * torch.tensor([1.0, -1.0]))
    with pytest.raises(AssertionError, match="float32"):
        adamw({"weight": nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))}, weight_decay=0.0)


SHAPE = Shape("llama", 30, 576, 1536, 9, 3, 64, 49152, 2048, 1e5, None, 1e-5, True)


def machine(*, free: int = 8 << 30) -> Machine:
    return Machine("cpu", 2, 16 << 30, free, {"float32": 100.0, "bfloat16": 10.0}, "float32", "measured")


@given(
    rows=st.integers(1, 60), held_out=st.integers(0, 9), free=st.integers(1 << 20, 1 << 40), params=st.floats(1e6, 1e11)
)
def test_every_auto_is_resolved_with_a_reason_and_within_what_the_knob_takes(
    rows: int, held_out: int, free: int, params: float
) -> None:
    examples = random_examples(rows)
    means = Means(SHAPE, int(params), machine(free=free), 300 << 20)
    try:
        config, choices, plan = resolve(
            Config(), examples, examples[:held_out], course=plain(rows, seed=0), means=means
        )
    except TrainError as error:
        assert error.code == "train.memory"
        assert params * 4 > 0.3 * free or free < 2 << 30, "there was room"
        return
    assert plan.bytes <= 0.8 * free
    chosen = {choice.knob: choice for choice in choices}
    autos = {f"train.{k}" for k, v in TrainConfig().model_dump().items() if v == "auto"}
    # Of few rows, and of none held out, nothing is left to choose between some.
    assert autos - {"train.eval_every", "train.patience", "train.keep"} <= set(chosen) <= autos
    assert "auto" not in config.train.model_dump().values()
    for choice in choices:
        assert choice.reason
        assert str(choice).startswith(f"{choice.knob} = {choice.value}: ")
    assert isinstance(config.train.tokens_per_piece, int)


def test_what_the_user_said_stays() -> None:
    said = TrainConfig(
        epochs=3,
        lr=2e-5,
        rank=7,
        rows_per_step=2,
        tokens_per_piece=99,
        dtype="bfloat16",
        targets=["q_proj"],
        ram="6GB",
        recompute=True,
        eval_every=0,
        patience=None,
        keep="last",
    )
    means = Means(SHAPE, 10**8, machine(), 300 << 20)
    course = plain(4, seed=0)
    config, choices, _ = resolve(Config(train=said), examples=random_examples(4), course=course, means=means)
    assert (config.train, choices) == (said, [])


def test_memory_is_planned_for_the_longest_step_of_a_curriculum() -> None:
    """Its first steps are the shortest; a plan that looks at those only would be far too small."""
    rows = [Example([n] * 4 + list(range(2, 6 + n)), [0.0] * 4 + [1.0] * (4 + n), f"row {n}") for n in range(200)]
    course = plain(200, seed=0, order="curriculum", lengths=[len(row.ids) for row in rows])
    config = Config(train=TrainConfig(rows_per_step=8, tokens_per_piece=2048))
    _, _, plan = resolve(config, examples=rows, course=course, means=Means(SHAPE, 10**8, machine(), 300 << 20))
    stream = batches(rows, rows_per_step=8, tokens_per_piece=2048, course=course, first_step=0, steps=50)
    largest = max(piece.num_tokens for batch in stream for piece in batch.pieces)
    assert largest <= plan.tokens
