"""When held-out rows are looked at, what is made of it, and that the best state is kept apart from checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.config import TrainConfig
from fledge.data.course import plain
from fledge.errors import ConfigError, RunError
from fledge.training import checkpoint
from fledge.training.evaluations import (
    Evaluation,
    EvaluationLog,
    best_of,
    looks_in_vain,
    most_looks,
    steps_to_look_after,
)
from fledge.training.looks import PATIENCE, looks
from fledge.training.optim import adamw
from tiny import random_examples

EXAMPLES = random_examples(80)
COURSE = plain(80, seed=0)


def evaluation(step: int, loss: float) -> Evaluation:
    return Evaluation(step, step / 3, loss, {"a": loss}, {"accuracy": 0.5}, 0.1)


@pytest.mark.parametrize(
    ("between", "per_epoch", "steps", "expected"),
    [
        (1, 3, 12, {3, 6, 9, 12}),
        (0.5, 10, 20, {5, 10, 15, 20}),
        (1, 3, 11, {3, 6, 9, 11}),
        (0.1, 30, 9, {3, 6, 9}),
        (5, 3, 6, {6}),
        (0, 3, 12, set()),
        (0.01, 3, 4, {1, 2, 3, 4}),
        (2.5, 1, 5, {2, 5}),
    ],
)
def test_looks_come_every_so_many_epochs_and_at_the_end(
    between: float, per_epoch: float, steps: int, expected: set[int]
) -> None:
    assert steps_to_look_after(epochs_between=between, steps_per_epoch=per_epoch, steps=steps) == expected


@given(st.floats(0.01, 20), st.integers(1, 50), st.integers(1, 500))
def test_looks_are_evenly_spaced(between: float, per_epoch: int, steps: int) -> None:
    found = sorted(steps_to_look_after(epochs_between=between, steps_per_epoch=per_epoch, steps=steps))
    assert found[-1] == steps
    assert found[0] >= 1
    gaps = [b - a for a, b in zip(found, found[1:-1], strict=False)]
    assert all(abs(gap - between * per_epoch) <= 1 or gap == 1 for gap in gaps)


def test_the_best_is_the_first_of_the_lowest_and_what_follows_is_in_vain() -> None:
    losses = [3.0, 2.0, math.nan, 2.0, 2.5]
    seen = [evaluation(step, loss) for step, loss in enumerate(losses, start=1)]
    best = best_of(seen)
    assert best is not None
    assert best.step == 2
    assert [looks_in_vain(seen[:n]) for n in range(1, 6)] == [0, 0, 1, 2, 3]
    assert best_of([]) is None
    assert best_of(seen[2:3]) is None
    assert looks_in_vain(seen[2:3]) == 1


def test_looks_behind_a_checkpoint_are_dropped_and_a_torn_line_with_them(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    log = EvaluationLog(path, first_step=0)
    for step in (3, 6, 9):
        log.add(evaluation(step, 1 / 3))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 12, "ep')
    again = EvaluationLog(path, first_step=6)
    assert again.kept == [evaluation(3, 1 / 3), evaluation(6, 1 / 3)], "the very same numbers"
    again.add(evaluation(9, 0.1))
    assert [seen.step for seen in EvaluationLog(path, first_step=99).kept] == [3, 6, 9]
    assert len(path.read_text().splitlines()) == 3


def chosen(held_out: int, *, by_loss: bool = True, **knobs: Any) -> dict[str, tuple[object, str]]:
    train = TrainConfig(epochs=knobs.pop("epochs", 8), **knobs)
    return looks(train, examples=EXAMPLES, course=COURSE, held_out=EXAMPLES[:held_out], by_loss=by_loss)


def values(found: dict[str, tuple[object, str]]) -> tuple[object, ...]:
    return tuple(found[knob][0] for knob in ("eval_every", "patience", "keep"))


def test_auto_looks_once_an_epoch_ten_times_at_most_and_never_long() -> None:
    assert values(chosen(8)) == (1.0, PATIENCE, "best")
    assert values(chosen(8, by_loss=False)) == (1.0, None, "last"), "answers are not right by their loss"
    assert chosen(8, by_loss=False, patience=2)["keep"][0] == "best", "who says when to stop says what counts"
    assert values(chosen(8, epochs=30)) == (3.0, PATIENCE, "best")
    assert values(chosen(8, epochs=3)) == (1.0, None, "best"), "three looks do not tell when to stop"
    assert values(chosen(8, epochs=1)) == (1.0, None, "last")
    assert values(chosen(0)) == (0.0, None, "last")
    # 80 rows held out of 80: a look takes a third of an epoch, and a tenth of eight epochs has room for two.
    assert values(chosen(80)) == (4.0, None, "best")
    assert values(chosen(80, epochs=2)) == (0.0, None, "last")
    assert chosen(8)["patience"][1]
    assert not chosen(0)["patience"][1], "where there is no choice nothing is told"


@given(st.integers(1, 10**7), st.integers(0, 10**6))
def test_looks_take_a_tenth_of_the_time_at_most(run_tokens: int, held_out_tokens: int) -> None:
    count = most_looks(run_tokens=run_tokens, held_out_tokens=held_out_tokens)
    assert 0 <= count <= 10
    assert count * held_out_tokens / 3 <= 0.1 * run_tokens * (1 + 1e-9)


def test_what_is_said_stays_and_asks_for_rows() -> None:
    assert chosen(8, eval_every=0.5, patience=2, keep="last") == {}
    assert values(chosen(8, eval_every=0.5) | {"eval_every": (0.5, "")}) == (0.5, PATIENCE, "best")
    for knob, value in (("eval_every", 1.0), ("patience", 2), ("keep", "best")):
        with pytest.raises(ConfigError, match=f"train.{knob} is {value}, and no rows are held out") as caught:
            chosen(0, **{knob: value})
        assert caught.value.where == f"train.{knob}"
    assert chosen(0, eval_every=0, patience=None, keep="last") == {}, "what a resumed run of no held-out rows says"


def test_the_best_state_is_no_checkpoint_and_stays_until_a_better_one(tmp_path: Path) -> None:
    parameters = {"w": torch.nn.Parameter(torch.arange(6.0))}
    optimizer = adamw(parameters, weight_decay=0.0)

    def save(step: int) -> None:
        checkpoint.save(tmp_path, step=step, identity="x", parameters=parameters, optimizer=optimizer)

    def save_best(step: int, value: float) -> None:
        with torch.no_grad():
            parameters["w"].fill_(value)
        checkpoint.save_best(tmp_path, step=step, identity="x", parameters=parameters)

    save_best(2, 2.0)
    for step in (3, 4, 5, 6):
        save(step)
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert latest.name == "step-000006"
    assert checkpoint.best_is_kept(tmp_path, step=2)
    save_best(7, 7.0)
    assert sorted(path.name for path in tmp_path.glob("best-*")) == ["best-000007"]
    assert checkpoint.best_is_kept(tmp_path, step=2), "a run that goes on behind step 2 comes to step 7 again"
    assert not checkpoint.best_is_kept(tmp_path, step=8)
    with torch.no_grad():
        parameters["w"].zero_()
    checkpoint.load_best(tmp_path, step=7, parameters=parameters)
    assert parameters["w"].tolist() == [7.0] * 6
    state = tmp_path / "best-000007" / checkpoint.STATE
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    assert not checkpoint.best_is_kept(tmp_path, step=2)
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.load_best(tmp_path, step=7, parameters=parameters)
    checkpoint.remove_best(tmp_path)
    assert not list(tmp_path.glob("best-*"))
