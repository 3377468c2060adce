"""What fits: every model by every method and type of file, in memory, bytes and time on this machine, before anything
is fetched.

Memory is what the plan of a run says for a model of that shape, time what a few of its layers were timed with, the file
what its tensors take in their types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fledge.advise.gpu import gpu_bytes, smallest_card
from fledge.advise.serving import CACHE_TYPES, cache_bytes, serving
from fledge.config import Config, TrainConfig
from fledge.data.course import plain
from fledge.errors import ModelError, TrainError
from fledge.model import catalog
from fledge.model.catalog_shape import shape_of
from fledge.model.causal import CausalModel
from fledge.model.engine.decoder import held_bytes
from fledge.model.hardware import DTYPES, Machine, survey
from fledge.model.lora import layer_of
from fledge.model.memory import memory_bytes, rss_bytes
from fledge.model.random_weights import RandomWeights
from fledge.model.safetensors_file import read_object
from fledge.model.shape import Shape, shape_from_config
from fledge.model.weights import GgufWeights, Weights, open_weights
from fledge.recipes.fit_rows import RowsToLearn, rows_to_learn
from fledge.recipes.licence import licence_of_model
from fledge.recipes.serving_speed import tokens_per_s
from fledge.recipes.which import which
from fledge.records import Example
from fledge.release import quantize
from fledge.training.auto import Means, lora_settings, resolve
from fledge.training.batch import Batch, batches, num_steps
from fledge.training.memory_plan import MemoryPlan
from fledge.training.optim import adamw, optimizer_of
from fledge.training.probe import DEEP, Rate, probe

METHODS, TYPES = ("lora", "qlora", "full"), ("q8_0", "q4_k_m")
CONTEXT = 2048
# The numbers in which a graphics card holds weights that are not quantised.
ON_CARD = torch.bfloat16
# What an operating system and a browser leave of a machine's memory.
LEFT = 0.8
# Machines as they are sold.
MACHINES = tuple(gigabytes * 10**9 for gigabytes in (4, 8, 16, 24, 32, 64, 96, 128, 192, 256, 512, 1024))
# The vocabulary of a GGUF file: texts, scores, types and merges, bytes a token (28 in the starter's).
VOCABULARY_BYTES = 28
ENDLESS = "1000000GB"
# Lengths of conversations at which growth is told.
LENGTHS = (512, 2048, 4096, 8192, 16_384, 32_768, 65_536)


@dataclass(frozen=True)
class Wish:
    """What is asked for. ram_bytes: of the machine it is for, None for this one. models: catalog names or folders.

    rows, tokens: how many rows of which length, None for the project's own.
    """

    ram_bytes: int | None = None
    models: Sequence[str] = ()
    methods: Sequence[str] = METHODS
    types: Sequence[str] = TYPES
    rows: int | None = None
    tokens: int | None = None
    context_tokens: int = CONTEXT
    cache_type: str = "f16"
    measure: bool = True
    goal: str = ""


@dataclass(frozen=True)
class Candidate:
    """A model that may be chosen. stored: the ggml type of each tensor of a file that is there already."""

    name: str
    shape: Shape
    licence: str
    stored: Mapping[str, str] | None = None

    @property
    def num_params(self) -> int:
        return sum(map(math.prod, self.tensors.values()))

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor by its GGUF name."""
        weights = RandomWeights(self.shape, self.shape.num_layers)
        return {weights.weights[name].gguf: weights.tensor_shape(name) for name in weights.names()}

    def types(self, kind: str) -> dict[str, str]:
        """Return the ggml type of each tensor in a file of this kind."""
        return quantize.plan(kind, self.tensors, num_layers=self.shape.num_layers, tied=self.shape.tied)

    def base_types(self, kind: str) -> Mapping[str, str]:
        """Return the types of the base that is trained over: a file's own, else those of a file of this kind."""
        return self.types(kind) if self.stored is None else self.stored

    def file_bytes(self, kind: str) -> int:
        types, tensors = self.types(kind), self.tensors
        held = sum(quantize.num_bytes(types[name], shape) for name, shape in tensors.items())
        return held + VOCABULARY_BYTES * self.shape.vocab_size


@dataclass(frozen=True)
class Training:
    """What training a candidate takes. why: what stands in its way, or how it was made to fit."""

    plan: MemoryPlan
    config: Config
    fits: bool
    why: str
    least_bytes: int
    gpu_bytes: int
    tokens: int = 0


def candidates(models: Sequence[str], project: Path) -> list[Candidate]:
    """Return the models that are named, or all of the catalog. Raises ModelError where a name is none."""
    if not models:
        return [_known(model) for model in catalog.MODELS.values()]
    return [_candidate(name, project) for name in models]


def _known(model: catalog.CatalogModel) -> Candidate:
    return Candidate(model.name, shape_of(model), model.licence)


def _candidate(name: str, project: Path) -> Candidate:
    path = project / name
    if (path / "config.json").is_file():
        config = read_object(path / "config.json")
        licence = licence_of_model(name, project) or "unknown"
        return Candidate(path.name, shape_from_config(config, where=str(path / "config.json")), licence)
    if path.suffix == ".gguf" and path.is_file():
        weights = open_weights(path)
        assert isinstance(weights, GgufWeights)
        stored = {tensor: info.type for tensor, info in weights.header.tensors.items()}
        return Candidate(path.name, weights.shape, licence_of_model(name, project) or "unknown", stored)
    try:
        return _known(catalog.get(name))
    except ModelError as error:
        raise ModelError(
            error.code, error.message, where=error.where, remedy=f"{error.remedy} A folder with a config.json does too."
        ) from None


@dataclass(frozen=True)
class Place:
    """Where it is to run: this machine's speed, what may be taken, and what the program takes before it begins."""

    machine: Machine
    budget_bytes: int
    process_bytes: int


def train_of(
    candidate: Candidate,
    method: str,
    kind: str,
    rows: Sequence[Example],
    place: Place,
    *,
    train: TrainConfig | None = None,
) -> Training:
    """Return what training takes. kind: the type of the file that a quantised base is trained over.

    train: the knobs that a project sets; auto else.

    Where nothing fits into the budget, the least that there is, and the change that would make it fit.
    """
    shape = candidate.shape
    layer = RandomWeights(shape, 1)
    per_layer = sum(math.prod(layer.tensor_shape(name)) for name in layer.names() if layer_of(name) == 0)
    course = plain(len(rows), seed=0)
    types = candidate.base_types(kind)

    def stored_bytes(dtype: str) -> int:
        return held_bytes(RandomWeights(shape, shape.num_layers, stored=types), DTYPES[dtype])

    means = Means(
        shape,
        candidate.num_params,
        place.machine,
        place.process_bytes,
        layer_params=per_layer,
        stored_bytes=stored_bytes if method == "qlora" else None,
    )
    knobs: dict[str, Any] = {"ram": f"{place.budget_bytes / 1e6:.0f}MB", "eval_every": 0.0}
    knobs = (train or TrainConfig()).model_dump() | knobs
    asked = Config(model=candidate.name, method=method, train=TrainConfig(**knobs))
    free = asked.train.model_copy(update={"ram": ENDLESS, "recompute": True, "tokens_per_piece": 256})
    spared, _, least = resolve(asked.model_copy(update={"train": free}), rows, (), course=course, means=means)
    held = stored_bytes("bfloat16") if method == "qlora" else ON_CARD.itemsize * candidate.num_params
    card = gpu_bytes(least.parts, held)
    try:
        config, _, plan = resolve(asked, rows, (), course=course, means=means)
    except TrainError as error:
        return _with_tokens(Training(least, spared, False, error.remedy, least.bytes, card), rows)
    why = "what layers compute is computed twice, to save memory" if plan.recompute else ""
    return _with_tokens(Training(plan, config, True, why, min(least.bytes, plan.bytes), card), rows)


def _with_tokens(training: Training, rows: Sequence[Example]) -> Training:
    """Return it with the distinct tokens that its steps compute."""
    train = training.config.train
    assert train.epochs != "auto" and train.rows_per_step != "auto"
    once = math.ceil(len(rows) / train.rows_per_step)
    epoch = _steps(rows, train, once)
    steps = num_steps(len(rows), epochs=train.epochs, rows_per_step=train.rows_per_step)
    return replace(training, tokens=round(sum(batch.num_tokens for batch in epoch) * steps / once))


def _steps(rows: Sequence[Example], train: TrainConfig, count: int) -> Iterator[Batch]:
    assert train.rows_per_step != "auto" and train.tokens_per_piece != "auto"
    return batches(
        rows,
        rows_per_step=train.rows_per_step,
        tokens_per_piece=train.tokens_per_piece,
        course=plain(len(rows), seed=0),
        first_step=0,
        steps=count,
    )


def rate_of(candidate: Candidate, training: Training, types: Mapping[str, str], rows: Sequence[Example]) -> Rate:
    """Return how fast steps like the run's own go here: some layers of the shape, with random numbers, are timed."""
    train, method = training.config.train, training.config.method
    assert train.dtype != "auto"
    [batch] = _steps(rows, train, 1)

    def trained(model: CausalModel, weights: Weights) -> torch.optim.Optimizer:
        if method == "full":
            model.train_weights(weights, None, masters=DTYPES[train.masters])
            return optimizer_of(train.optimizer, model.parameters(), weight_decay=0.0)
        model.add_adapter(lora_settings(train, weights.shape.num_layers), seed=0)
        return adamw(model.parameters(), weight_decay=0.0)

    return probe(
        candidate.shape,
        batch,
        trained,
        dtype=DTYPES[train.dtype],
        recompute=training.plan.recompute,
        stored=types if method == "qlora" else None,
    )


def fit(
    project: Path, wish: Wish, *, say: Callable[[str], None], progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Return what the contract says of `fledge advise fit`: every option, what it takes, and whether it fits.

    Raises ModelError for a model that is unknown or has no fast path.
    """
    chosen = candidates(wish.models, project)
    machine = survey(say)
    asked = machine.ram_bytes if wish.ram_bytes is None else wish.ram_bytes
    place = Place(machine, int(asked * LEFT), rss_bytes())
    learnt = rows_to_learn(project, wish.rows, wish.tokens)
    jobs = [(one, method) for one in chosen for method in wish.methods]
    options: list[dict[str, Any]] = []
    # How a file answers does not depend on how it was trained.
    speeds: dict[str, dict[str, float]] = {}
    for done, (one, method) in enumerate(jobs):
        progress(done, len(jobs), f"{one.name} {method}")
        options += _options(one, method, learnt, place, wish, speeds.setdefault(one.name, {}))
    progress(len(jobs), len(jobs), "")
    found = asdict(machine) | {"asked_ram_bytes": asked, "usable_ram_bytes": place.budget_bytes}
    return {
        "machine": found,
        "rows": len(learnt.examples),
        "tokens": learnt.longest,
        "learnt": learnt.words,
        "context": wish.context_tokens,
        "options": options,
        "pick": pick(project, wish, options),
    }


def pick(project: Path, wish: Wish, options: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """Return the smallest model that suits the goal and fits, and why; None without a goal, "" for model where none is.

    The first method that fits counts: full training costs more and reaches no more on few rows.
    """
    if not wish.goal:
        return None
    told = which(project, list(dict.fromkeys(option["model"] for option in options)), wish.goal)
    against = {one["name"]: one["against"] for one in told["models"]}
    fitting = [option for option in options if option["fits"]]
    suiting = [option for option in fitting if not against[option["model"]]]
    if not suiting:
        why = "nothing fits" if not fitting else "of what fits nothing suits the goal"
        named = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in against.items() if reasons)
        return {"model": "", "method": "", "quant": "", "why": f"{why}. {named}".strip()}
    best = min(suiting, key=lambda option: (option["params"], METHODS.index(option["method"])))
    left = [f"{name} ({reasons[0]})" for name, reasons in against.items() if reasons]
    why = "the smallest that suits and fits" + (f"; passed over: {', '.join(left)}" if left else "")
    return {"model": best["model"], "method": best["method"], "quant": best["quant"], "why": why}


def _machine(taken_bytes: int) -> int | None:
    """Return the memory of the smallest machine, as they are sold, on which a program may take so much."""
    return next((size for size in MACHINES if LEFT * size >= taken_bytes), None)


def _options(
    one: Candidate, method: str, learnt: RowsToLearn, place: Place, wish: Wish, speeds: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Yield the options of a model and a method, one for each type of file. speeds: of the model's files, by type."""
    training, rate = None, None
    rows, longest = learnt.examples, learnt.longest
    for kind in wish.types:
        if training is None or method == "qlora":
            # Only over a quantised base it matters what kind of file that is.
            training = train_of(one, method, kind, rows, place, train=learnt.train)
        served = serving(
            one.shape,
            one.file_bytes(kind),
            context_tokens=min(wish.context_tokens, one.shape.context_tokens),
            cache_type=wish.cache_type,
        )
        why = training.why
        if training.fits and served.bytes > place.budget_bytes:
            why = "it trains here, but its file does not fit while it is served"
        if longest > one.shape.context_tokens:
            why = f"its context holds {one.shape.context_tokens:,} tokens, fewer than a row has"
        fits = training.fits and served.bytes <= place.budget_bytes and longest <= one.shape.context_tokens
        if wish.measure and fits and (rate is None or method == "qlora"):
            rate = _rate_here(one, training, kind, rows, place)
            why = why if rate is not None else "too large to be timed in what is free here"
        if wish.measure and fits and kind not in speeds:
            speeds[kind] = tokens_per_s(one.shape, one.tensors, one.types(kind), one.file_bytes(kind))
        yield {
            "model": one.name,
            "method": method,
            "quant": kind,
            "params": one.num_params,
            "licence": one.licence,
            "train_ram_bytes": training.plan.bytes,
            "least_machine_bytes": _machine(max(training.least_bytes, served.bytes)),
            "train_parts": training.plan.parts,
            "gpu_bytes": training.gpu_bytes,
            "gpu_gib": smallest_card(training.gpu_bytes),
            "serve_ram_bytes": served.bytes,
            "serve_parts": asdict(served),
            "file_bytes": served.file_bytes,
            "train_tokens": training.tokens,
            "train_s": rate.seconds(one.shape.num_layers, training.tokens) if rate is not None and fits else None,
            "tokens_per_s": speeds.get(kind) if fits else None,
            "fits": fits,
            "why": why,
        }


def _rate_here(one: Candidate, training: Training, kind: str, rows: Sequence[Example], place: Place) -> Rate | None:
    """Return the rate, or None where the layers that would be timed do not fit into what is free now."""
    few = replace(one, shape=RandomWeights(one.shape, min(DEEP, one.shape.num_layers)).shape)
    timed = train_of(few, training.config.method, kind, rows, place)
    # Both depths are there at once, and none is larger than the deeper.
    if 2 * timed.plan.bytes > memory_bytes()[1]:
        return None
    return rate_of(one, training, one.base_types(kind), rows)


def growth(project: Path, model: str, cache_type: str) -> dict[str, Any]:
    """Return how the cache of one model grows with the tokens of a conversation, and why, in words."""
    [one] = candidates([model], project)
    shape = one.shape
    longest = shape.context_tokens
    lengths = [tokens for tokens in LENGTHS if tokens < longest] + [longest]
    points = [{"tokens": n, "bytes": cache_bytes(shape, n, cache_type=cache_type)} for n in lengths]
    numbers = 2 * shape.key_width
    block, block_bytes = CACHE_TYPES[cache_type]
    words = (
        f"{one.name}: each of {shape.num_layers} layers keeps a key and a value of each token, "
        f"{shape.num_kv_heads} of each with {shape.head_width} numbers: "
        f"{numbers * block_bytes / block:,.0f} bytes a token and layer in {cache_type}."
    )
    fewer = shape.num_heads / shape.num_kv_heads
    if fewer > 1:
        words += f" {shape.num_heads} heads ask and share them; had each its own, it were {fewer:.0f} times as much."
    windows = [shape.style.window(layer) for layer in range(shape.num_layers)]
    if sliding := [window for window in windows if window]:
        words += f" {len(sliding)} of the layers look back {sliding[0]} tokens only and keep no more than they need."
    return {"model": one.name, "cache": cache_type, "points": points, "words": words}
