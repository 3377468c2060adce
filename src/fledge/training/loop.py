"""The only loop. It knows neither the objective nor where batches come from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from fledge.errors import EngineError, RewardError, TrainError
from fledge.model.causal import CausalModel
from fledge.model.process import return_memory
from fledge.objective.scored import Before, Objective
from fledge.training.batch import Batch
from fledge.training.interrupt import interrupt_between_steps
from fledge.training.optim import Schedule
from fledge.training.ranks import Ranks
from fledge.training.score import scored_pieces, step_facts


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. `step` counts from 1; the loss is the exact mean over the step's tokens or rows.

    metrics: what else the objective tells, means over the step's rows.
    """

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    rows: int
    tokens_effective: int
    tokens_computed: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How long and how hard. `checkpoint` is called with the number of finished steps, every `checkpoint_s` seconds.

    before: what the objective has to know of a whole step, where it has to. ends_after: called with the number of
    finished steps after each; where it says True, that step was the last one. Its time counts for no step.
    """

    steps: int
    first_step: int
    schedule: Schedule
    clip_norm: float
    checkpoint_s: float
    checkpoint: Callable[[int], None]
    before: Before | None = None
    ends_after: Callable[[int], bool] = lambda _: False


@dataclass(frozen=True)
class Summary:
    """Totals over some steps. Tokens are counted as the model sees them: `effective` without sharing of prefixes."""

    steps: int
    loss_first: float
    loss_last: float
    grad_norm_last: float
    tokens_effective: int
    tokens_computed: int
    seconds: float

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Summary:
        return cls(
            steps=len(steps),
            loss_first=steps[0].loss,
            loss_last=steps[-1].loss,
            grad_norm_last=steps[-1].grad_norm,
            tokens_effective=sum(step.tokens_effective for step in steps),
            tokens_computed=sum(step.tokens_computed for step in steps),
            seconds=math.fsum(step.seconds for step in steps),
        )


def fit(
    model: CausalModel,
    batches: Iterator[Batch],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    on_step: Sequence[Callable[[Step], None]] = (),
) -> list[Step]:
    """Take the steps of `plan`, or fewer where it says so between two of them, and return them.

    Ctrl-C is let through after the step under way is whole and its state written; so are RewardError and EngineError,
    which `batches` may raise. Raises TrainError where the loss or the gradient is not finite, or a trainable parameter
    gets none; nothing is kept of that step.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    model.train()
    done: list[Step] = []
    saved_at, started = time.monotonic(), time.perf_counter()
    try:
        with interrupt_between_steps() as interrupted:
            for number, batch in enumerate(batches, start=plan.first_step + 1):
                step = _take(model, batch, objective, optimizer, parameters, plan, number)
                # with the making of its batch
                done.append(replace(step, seconds=time.perf_counter() - started))
                return_memory()
                for listener in on_step:
                    listener(done[-1])
                ended = plan.ends_after(number)
                due = time.monotonic() - saved_at >= plan.checkpoint_s
                if interrupted() or (due and number < plan.steps):
                    plan.checkpoint(number)
                    saved_at = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
                if ended:
                    break
                started = time.perf_counter()
    except (RewardError, EngineError):
        # A user's function or a process failed where the next step was to come from: what was learnt is kept.
        if done:
            plan.checkpoint(done[-1].step)
        raise
    finally:
        model.train(False)
    return done


def _take(
    model: CausalModel,
    batch: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    plan: Plan,
    number: int,
) -> Step:
    optimizer.zero_grad(set_to_none=True)
    ranks = Ranks.here()
    facts = step_facts(model, batch, plan.before, ranks)
    losses, metrics = [], []
    for scored in scored_pieces(model, batch, facts):
        loss = objective(scored)
        loss.value.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.value.detach()))
        metrics.append(loss.metrics)
    ranks.sum_gradients(parameters)
    if any(p.grad is None for p in parameters):
        raise TrainError("train.no_gradient", f"a trainable parameter got no gradient in step {number}.")
    total, effective, computed = ranks.sum_numbers([math.fsum(losses), batch.num_tokens_unshared, batch.num_tokens])
    norm = float(nn.utils.clip_grad_norm_(parameters, plan.clip_norm))
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise TrainError(
            "train.non_finite",
            f"the loss is {total} and the gradient norm {norm} in step {number}.",
            remedy="Start again with a lower train.lr, or with train.dtype=float32.",
        )
    lr = plan.schedule.lr(number - 1)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)
    optimizer.step()
    return Step(
        step=number,
        steps=plan.steps,
        loss=total,
        grad_norm=norm,
        lr=lr,
        rows=batch.num_rows,
        tokens_effective=int(effective),
        tokens_computed=int(computed),
        seconds=0.0,
        metrics=ranks.means(metrics),
    )
