"""What a run will take is told before it begins: the largest piece, whatever rows meet, and the smallest change."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data import course
from fledge.errors import TrainError
from fledge.model.lora import LoraSettings
from fledge.model.shape import Shape
from fledge.records import Example
from fledge.training.batch import batches, num_steps
from fledge.training.memory_plan import TRIAL_EPOCHS, FullJob, Job, MemoryPlan, plan_memory

SHAPE = Shape("llama", 30, 576, 1536, 9, 3, 64, 49152, 2048, 1e5, None, 1e-5, True)
JOB = Job(SHAPE, torch.bfloat16, LoraSettings(16, 32.0), 135_000_000, 8, course.plain(0, seed=0), 2)
PROCESS = 300 << 20


def uneven(count: int, *, seed: int, long: int) -> list[Example]:
    """Rows of which one in twelve is long."""
    numbers = random.Random(seed)
    lengths = [long if numbers.random() < 1 / 12 else numbers.randint(10, 40) for _ in range(count)]
    return [
        Example(
            [numbers.randrange(5000) for _ in range(length)], [0.0] * (length // 2) + [1.0] * (length - length // 2), ""
        )
        for length in lengths
    ]


def plan(examples: list[Example], job: Job = JOB, *, budget: float = 1e12, **told: int | bool | None) -> MemoryPlan:
    job = replace(job, course=course.plain(len(examples), seed=0))
    return plan_memory(examples, job, budget_bytes=int(budget), process_bytes=PROCESS, **told)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(9, 300), size=st.sampled_from([2048, 256]))
def test_no_piece_of_the_run_is_larger_than_what_was_planned_for(seed: int, count: int, size: int) -> None:
    """Long rows meet by chance, in some step of some epoch."""
    examples = uneven(count, seed=seed, long=300)
    told = plan(examples, tokens_per_piece=size)
    steps = num_steps(count, epochs=TRIAL_EPOCHS, rows_per_step=JOB.rows_per_step)
    largest = trunk = 0
    for batch in batches(
        examples,
        rows_per_step=JOB.rows_per_step,
        tokens_per_piece=size,
        course=course.plain(count, seed=0),
        first_step=0,
        steps=steps,
    ):
        largest = max(largest, *(piece.num_tokens for piece in batch.pieces))
        trunk = max(trunk, batch.trunk.num_tokens if batch.trunk else 0)
    assert largest <= told.tokens <= max(1.15 * largest, 305)
    assert trunk <= max(told.trunk_tokens, 3), "but for what random rows have in common"


def error_of(examples: list[Example], budget: float, **told: int | bool) -> TrainError:
    with pytest.raises(TrainError) as caught:
        plan(examples, budget=budget, **told)
    assert caught.value.code == "train.memory"
    return caught.value


def test_the_smallest_change_is_to_let_the_plan_choose_where_that_is_enough() -> None:
    examples = uneven(60, seed=1, long=600)
    least = plan(examples, tokens_per_piece=256, recompute=True).bytes
    kept = plan(examples, tokens_per_piece=2048, recompute=False).bytes
    assert least < kept / 1.5
    for told, expected in (
        ({"recompute": False}, "train.recompute=auto;"),
        ({"tokens_per_piece": 2048, "recompute": True}, "train.tokens_per_piece=auto;"),
        ({"tokens_per_piece": 2048, "recompute": False}, "train.recompute=auto train.tokens_per_piece=auto;"),
    ):
        error = error_of(examples, least * 1.001, **told)
        assert f"The smallest change that fits: {expected}" in error.remedy
        freed = {knob: value for knob, value in told.items() if f"train.{knob}=auto" not in error.remedy}
        assert plan(examples, budget=least * 1.001, **freed).bytes <= least * 1.001, "as it was told"


def test_other_ways_are_named_where_they_fit() -> None:
    examples = uneven(60, seed=1, long=600)
    lora = replace(JOB, course=course.plain(60, seed=0))
    full = replace(lora, lora=None, full=FullJob(JOB.num_params, 16.0))
    others = {"method=lora": lora, "method=qlora": replace(lora, weight_bytes=80_000_000)}
    for words, job in others.items():
        least = plan(examples, job, recompute=True, tokens_per_piece=256).bytes
        with pytest.raises(TrainError) as caught:
            plan_memory(examples, full, budget_bytes=int(least * 1.01), process_bytes=PROCESS, others=others)
        assert ("method=lora" in caught.value.remedy) == (words == "method=lora")
        assert " or method=qlora" in caught.value.remedy


def test_a_smaller_model_is_named() -> None:
    large = replace(JOB, num_params=8_000_000_000)
    with pytest.raises(TrainError) as caught:
        plan(uneven(60, seed=1, long=600), large, budget=3.5e9)
    assert "or a smaller model, such as qwen2.5-1.5b" in caught.value.remedy


def test_the_budget_that_is_named_is_enough_and_no_more_is_asked_for() -> None:
    examples = uneven(60, seed=1, long=600)
    error = error_of(examples, 4e8)
    named = int(error.remedy.split("train.ram=")[1].split("MB")[0]) * 10**6
    assert plan(examples, budget=named).bytes <= named
    error_of(examples, named - 6e6)


def test_a_model_that_gives_all_logits_or_none_is_planned_for() -> None:
    examples = uneven(60, seed=1, long=600)
    some, every = (plan(examples, replace(JOB, trunk=False, all_logits=which)) for which in (False, True))
    assert every.parts["head"] - some.parts["head"] == 3 * some.tokens * SHAPE.vocab_size * 2
