"""Before the first step: what the run would take, and whether it can work at all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fledge.config import Config
from fledge.model.causal import CausalModel
from fledge.model.memory import memory_bytes
from fledge.recipes.once import remember
from fledge.recipes.reference import with_columns
from fledge.recipes.rollouts import open_source
from fledge.recipes.setup import Setup, build, prepare, stream
from fledge.training.aims import aim_of, before_of, objective_of
from fledge.training.checkpoint import KEPT
from fledge.training.optim import STATE_BYTES
from fledge.training.ranks import Ranks
from fledge.training.score import scored_pieces, step_facts

# The first step warms caches up; the second is timed.
PROBE_STEPS = 2


def forecast(project: Path, config: Config, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Take two probe steps that change nothing and return what the contract says of `fledge train --dry-run`."""
    setup = prepare(project, config, say=say)
    for note in setup.notes:
        say(note)
    model, parameters, _ = build(setup)
    objective, before = objective_of(setup.config), before_of(setup.config)
    if model.scalar_head is not None:
        # It begins at zero, and nothing would flow back through it.
        torch.nn.init.constant_(model.scalar_head.weight, 1e-3)
    if aim_of(setup.config).reference:
        # Any numbers do to see how long a step takes.
        lesson = setup.lesson
        setup = replace(setup, lesson=with_columns(lesson, [0.0] * (len(lesson.examples) + len(lesson.aside))))
    seconds_per_token, loss, num_tokens = 0.0, 0.0, 0
    started = time.perf_counter()
    memory = remember(model, setup.config.train, setup.places, say)
    once_s = time.perf_counter() - started
    with ExitStack() as stack:
        steps = stream(setup, memory=memory)
        if setup.rolls_out:
            source = stack.enter_context(open_source(setup, model, project=project, run=None, say=say))
            steps = source.batches(0)
        # Where replies are sampled, a step begins with that.
        started = time.perf_counter()
        for batch in islice(steps, PROBE_STEPS):
            shares = []
            for scored in scored_pieces(model, batch, step_facts(model, batch, before, Ranks.here())):
                share = objective(scored)
                share.value.backward()  # type: ignore[no-untyped-call]
                shares.append(float(share.value.detach()))
            loss = math.fsum(shares)
            seconds_per_token = (time.perf_counter() - started) / batch.num_tokens
            num_tokens = batch.num_tokens * setup.steps
            started = time.perf_counter()
    if not setup.rolls_out:
        num_tokens = sum(batch.num_tokens for batch in stream(setup, memory=memory))
    told = {
        "seconds": once_s + seconds_per_token * num_tokens,
        "ram_bytes": setup.plan.bytes,
        "ram_parts": setup.plan.parts,
        "disk_bytes": _disk_bytes(setup.config, parameters.values()),
    }
    gradients = model.gradients()
    full = setup.config.method == "full"
    layers = sum(".lora_A." in name for name in gradients)
    learns = f"{len(gradients)} weights themselves" if full else f"adapters beside {layers} layers"
    learns += f" and rows of {len(model.token_ids)} added tokens" if model.token_ids else ""
    without = [name for name, grad in gradients.items() if not bool(torch.isfinite(grad).all()) or not grad.any()]
    # B starts at zero, so the first step gives A none.
    without = [name for name in without if ".lora_A." not in name]
    return {"forecast": told, "checks": [*_checks(setup, learns, loss, without), _path(model)]}


def _disk_bytes(config: Config, parameters: Iterable[nn.Parameter]) -> int:
    """Return what the run writes: what was trained, in float32, and checkpoints of it with the optimizer's state.

    One checkpoint more than are kept exists while it is being written, and of the best state one more than is kept.
    """
    best = 2 if config.train.keep == "best" else 0
    state = STATE_BYTES[config.train.optimizer if config.method == "full" else "adamw"]
    whole = KEPT + 1
    return int(sum(p.numel() * (4 + (best + whole) * p.element_size() + whole * state) for p in parameters))


def _checks(setup: Setup, learns: str, loss: float, without: list[str]) -> list[dict[str, Any]]:
    lesson = setup.lesson
    num_tokens = sum(len(example.ids) for example in lesson.examples)
    control = {token: text for text, token in setup.template.tokenizer.control.items()}
    names = (
        ", ".join(control.get(token, "an ordinary token") for token in sorted(lesson.ends))
        or "there are no turns, only texts"
    )
    _, free_bytes = memory_bytes()
    return [
        _check("taught tokens", lesson.num_taught > 0, f"{lesson.num_taught} of {num_tokens}"),
        _check("the end of a turn is taught", all(token in control for token in lesson.ends), names),
        _check("what learns", True, learns),
        _check("loss of the probe is finite", math.isfinite(loss), f"{loss:.3f}"),
        _check("all that learns gets a gradient", not without, f"{len(without)} get none"),
        # The probe has been through a whole step by now: what is free still is what a step leaves.
        _check("memory", free_bytes > 0, f"{free_bytes / 1e9:.1f} GB stay free during a step"),
    ]


def _path(model: CausalModel) -> dict[str, Any]:
    return _check("computed by", True, model.path)


def _check(what: str, ok: bool, found: str) -> dict[str, Any]:
    return {"what": what, "ok": ok, "found": found}
