"""Who samples a run's replies: batches in torch, or llama.cpp with the adapter of the moment; both are tried."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from fledge.errors import ConfigError
from fledge.model.causal import CausalModel
from fledge.model.decode import Drawing, Drawn, sample
from fledge.model.weights import GgufWeights
from fledge.project import RunFolder, write_text_atomic
from fledge.recipes.setup import Setup
from fledge.release.adapter_gguf import write_adapter_gguf
from fledge.runtime.llama import Llama
from fledge.runtime.sampling import sample_tokens
from fledge.training.rollout import Make, RolloutPlan, seed_of, to_prompts

TORCH, LLAMA = "torch", "llama"
# So many replies llama.cpp works on at once: more hardly make it faster on a few cores.
PARALLEL = 16
# Both are tried on the first prompts, with replies of at most so many tokens.
PROBE_TOKENS = 32

Say = Callable[[str], None]


def drawing_of(setup: Setup, *, temperature: float) -> Drawing:
    """Return how replies are drawn."""
    assert setup.config.rl.max_tokens != "auto"
    return Drawing(temperature, setup.config.rl.max_tokens, setup.lesson.ends)


def torch_maker(model: CausalModel, setup: Setup, drawing: Drawing) -> Make:
    """Return a maker that samples in batches from the model as it is when it is asked."""
    size = setup.config.train.tokens_per_piece
    assert size != "auto"

    def make(prompts: Sequence[Sequence[int]], asked: Sequence[tuple[int, int]]) -> list[Drawn]:
        return sample(model, to_prompts(prompts, max_tokens=size), asked, drawing)

    return make


def llama_maker(model: CausalModel, setup: Setup, drawing: Drawing) -> Make:
    """Return a maker that starts llama.cpp on the base file with the adapter as it is when it is asked."""

    def make(prompts: Sequence[Sequence[int]], asked: Sequence[tuple[int, int]]) -> list[Drawn]:
        adapter = model.adapter(setup.lora, base_name=setup.config.model)
        room = max(map(len, prompts)) + drawing.max_tokens + 1
        with tempfile.TemporaryDirectory(prefix="fledge-sampler-") as folder:
            written = write_adapter_gguf(Path(folder) / "adapter.gguf", adapter, setup.weights, "f32")
            with Llama(
                setup.weights.path,
                adapter=written.path,
                context_tokens=room,
                parallel=min(PARALLEL, len(asked)),
                threads=setup.threads,
            ) as llama:
                replies = sample_tokens(
                    llama,
                    [prompts[place] for place, _ in asked],
                    [seed for _, seed in asked],
                    temperature=drawing.temperature,
                    max_tokens=drawing.max_tokens,
                )
        return [Drawn(reply.ids, reply.logps, reply.ids[-1] in drawing.ends) for reply in replies]

    return make


MAKERS: dict[str, Callable[[CausalModel, Setup, Drawing], Make]] = {TORCH: torch_maker, LLAMA: llama_maker}


def without_llama(setup: Setup) -> str:
    """Return why llama.cpp can't sample for this run, or ""."""
    if setup.weights.added:
        return "its base does not know the added tokens"
    if not isinstance(setup.weights, GgufWeights):
        return "the base is no .gguf file"
    if setup.config.method == "full":
        return "there is no adapter to put on its file"
    if setup.config.train.dora:
        return "it can't run a DoRA adapter"
    if setup.config.rl.temperature != 1:
        return "it tells log-probabilities at temperature 1 alone"
    return ""


def check_sampler(setup: Setup) -> None:
    """Raise ConfigError where llama.cpp is asked for and can't sample."""
    if setup.config.rl.sampler == LLAMA and (reason := without_llama(setup)):
        raise ConfigError(
            "config.bad_value", f"llama.cpp can't sample here: {reason}.", where="rl.sampler", remedy="Take auto."
        )


def choose_sampler(setup: Setup, model: CausalModel, plan: RolloutPlan, run: RunFolder | None, *, say: Say) -> str:
    """Return who samples: as rl.sampler says, as the run was begun with, or whoever is faster on the first prompts.

    What was found is kept in run.yaml. Raises ConfigError where llama.cpp is asked for and can't.
    """
    check_sampler(setup)
    if (wanted := setup.config.rl.sampler) != "auto":
        return wanted
    if without_llama(setup) or run is None:
        return TORCH
    record = yaml.safe_load(run.knobs.read_text(encoding="utf-8"))
    if "sampler" in record:
        return str(record["sampler"]["who"])
    rates = {who: _tokens_per_s(make, setup, model, plan) for who, make in MAKERS.items()}
    who = max(rates, key=rates.__getitem__)
    told = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())
    said = f"rl.sampler = {who}: the faster on the first prompts ({told})"
    say(said)
    record["notes"] = [*record.get("notes", ()), said]
    record["sampler"] = {"who": who, "tokens_per_s": {name: round(rate, 1) for name, rate in rates.items()}}
    write_text_atomic(run.knobs, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    return who


def _tokens_per_s(
    maker: Callable[[CausalModel, Setup, Drawing], Make], setup: Setup, model: CausalModel, plan: RolloutPlan
) -> float:
    """Return how fast the first batch's replies are drawn, to PROBE_TOKENS of each, starting up included."""
    drawing = drawing_of(setup, temperature=plan.temperature)
    drawing = replace(drawing, max_tokens=min(drawing.max_tokens, PROBE_TOKENS))
    prompts = [plan.prompts[row] for row in plan.rows(0)]
    asked = [(place, seed_of(place, turn)) for place in range(len(prompts)) for turn in range(plan.group)]
    started = time.perf_counter()
    replies = maker(model, setup, drawing)(prompts, asked)
    return sum(len(reply.ids) for reply in replies) / (time.perf_counter() - started)
