"""How much memory a run will take, before it begins, and how its steps are cut to stay inside a budget.

What is counted: the process as it stands, the frozen weights, the adapter with its optimizer, the workspaces of a
pass, the tile of the LM head. Larger pieces are faster up to a point; keeping only layer inputs costs a third of the
speed, so that is done only where nothing else fits.

Shapes: N tokens of the largest piece, C of the trunk, U scored tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from fledge.data.course import Course, plain
from fledge.data.tree import split
from fledge.errors import TrainError
from fledge.model.catalog import MODELS
from fledge.model.engine.decoder import site_widths
from fledge.model.engine.head import tile_rows
from fledge.model.engine.kernels import sums_dtype
from fledge.model.engine.sites import wanted
from fledge.model.engine.workspace import bytes_per_token
from fledge.model.lora import LoraSettings
from fledge.model.shape import Shape
from fledge.records import Example

# Beyond 2,048 tokens a piece gains nothing: the weights are read once for so many products that reading is free.
PIECES = (2048, 1024, 512, 256)
# Steps that are cut for a trial: the first ones, and the heaviest of so many epochs; and how much larger one may be.
TRIAL_STEPS, TRIAL_EPOCHS, MARGIN = 12, 3, 1.1
# Threads' scratch, compiled kernels, Python objects of a step.
SUNDRY_BYTES = 120 << 20
SPREAD_BYTES = 4 << 20
MIN_TOKENS = 32
# Ways out that are named where nothing fits; more are not read.
MOST_CHANGES = 3
# What autograd keeps of transformers' own layers over what the engine keeps of its own: 1.6 in bfloat16, 2.1 in float32
# for the 135M, and room for other families.
PLAIN_ACTIVATIONS = 2.5


@dataclass(frozen=True)
class FullJob:
    """What training the weights themselves takes beside them.

    num_params: how many are trained. bytes_each: of masters, where they are not what is multiplied with, of gradients
    and of the optimizer's state. layers: None for all, and for what stands outside the layers too.
    """

    num_params: int
    bytes_each: float
    layers: range | None = None


@dataclass(frozen=True)
class Job:
    """What is to be trained, as far as memory goes. all_logits: the model gives those of all tokens or none.

    unit: so many examples in sequence are one row and are computed at once. weight_bytes: what the frozen weights take
    where it is not `num_params` numbers in `dtype`. lora: None where weights are trained themselves, as `full` says.
    """

    shape: Shape
    dtype: torch.dtype
    lora: LoraSettings | None
    num_params: int
    rows_per_step: int
    course: Course
    threads: int
    trunk: bool = True
    all_logits: bool = False
    unit: int = 1
    weight_bytes: int | None = None
    full: FullJob | None = None

    @property
    def layers(self) -> range:
        """The layers in which something is trained."""
        told = self.lora.layers if self.lora is not None else self.full.layers if self.full is not None else None
        return told or range(self.shape.num_layers)

    def numbers(self, rows: Sequence[int]) -> list[int]:
        """Return the numbers of the examples of some rows."""
        return [row * self.unit + part for row in rows for part in range(self.unit)]


_NO_OTHERS: Mapping[str, Job] = MappingProxyType({})


@dataclass(frozen=True)
class MemoryPlan:
    """`parts` are bytes by what they are for; the largest piece has `tokens`, the trunk `trunk_tokens`."""

    tokens_per_piece: int
    recompute: bool
    tokens: int
    trunk_tokens: int
    parts: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


def plan_memory(
    examples: Sequence[Example],
    job: Job,
    *,
    budget_bytes: int,
    process_bytes: int,
    tokens_per_piece: int | None = None,
    recompute: bool | None = None,
    others: Mapping[str, Job] = _NO_OTHERS,
) -> MemoryPlan:
    """Return the fastest way to stay inside the budget; None means that the plan may choose.

    others: jobs that would teach the same in less memory, by what has to be written for each. Raises TrainError
    `train.memory` with the nearest changes that would fit, the smallest first.
    """
    sizes = [tokens_per_piece] if tokens_per_piece is not None else list(PIECES)
    plans = []
    largest = _Pieces(examples)
    for again in (False, True) if recompute is None else (recompute,):
        for size in sizes:
            tokens, trunk_tokens, scored = largest.of(job, size)
            parts = {"process": process_bytes, **parts_of(job, tokens, trunk_tokens, scored, recompute=again)}
            plans.append(MemoryPlan(size, again, tokens, trunk_tokens, parts))
            if plans[-1].bytes <= budget_bytes:
                return plans[-1]
    least = min(plans, key=lambda plan: plan.bytes)
    process = least.parts["process"]
    fitting = [words for words, other in others.items() if _least(process, largest, other).bytes <= budget_bytes]
    freed = _least(process, largest, job, sizes=(*PIECES, least.tokens_per_piece))
    raise _too_little(least, examples, job, budget_bytes, freed=freed, fitting=fitting)


def parts_of(job: Job, tokens: int, trunk_tokens: int, scored: int, *, recompute: bool) -> dict[str, int]:
    """Return the bytes of everything that a step of this size holds, by what it is for."""
    shape, layers = job.shape, job.shape.num_layers
    exact = sums_dtype(job.dtype).itemsize
    adapted = {} if job.lora is None else wanted(job.lora)
    ranks = {} if job.lora is None else {site: job.lora.rank * len(which) for site, which in adapted.items()}
    lowest = job.layers.start
    per_token = bytes_per_token(shape, ranks, dtype=job.dtype, lowest=lowest, recompute=recompute)
    # keys of the trunk, their gradients, and every thread's own sum of gradients by keys
    keys = 2 * shape.key_width
    trunk = trunk_tokens * (per_token + layers * keys * (exact + (job.dtype.itemsize if recompute else 0)))
    sums = job.threads * (tokens + trunk_tokens) * keys * exact
    streams = 5 * (tokens + trunk_tokens) * shape.width * exact
    rows = min(scored, tile_rows(shape.vocab_size))
    head = rows * (shape.vocab_size * exact + shape.width * job.dtype.itemsize) + 3 * scored * shape.width * exact
    if job.all_logits:
        # as they are, scaled or copied once, and their gradient
        head += 3 * tokens * shape.vocab_size * job.dtype.itemsize
    activations = tokens * per_token + trunk + sums + streams
    return {
        "weights": job.num_params * job.dtype.itemsize if job.weight_bytes is None else job.weight_bytes,
        **_learning(job, tokens, rows),
        "activations": activations if job.trunk else int(PLAIN_ACTIVATIONS * activations),
        "head": head,
        "sundry": SUNDRY_BYTES,
    }


def _learning(job: Job, tokens: int, head_rows: int) -> dict[str, int]:
    """Return the bytes of what is trained: an adapter, or weights with what an optimizer keeps of them."""
    shape, exact = job.shape, sums_dtype(job.dtype).itemsize
    if job.full is not None:
        # The first factor of a gradient's product is turned on its side.
        turned = max(tokens * 2 * shape.ffn_width, head_rows * shape.vocab_size) * job.dtype.itemsize
        return {"trained": int(job.full.num_params * job.full.bytes_each) + turned}
    assert job.lora is not None
    rank, trainable, copies = job.lora.rank, 0, 0
    for site, which in wanted(job.lora).items():
        ins, outs = site_widths(shape, site)
        trainable += rank * (len(which) * ins + sum(outs[i] for i in which))
        copies += rank * len(which) * (ins + sum(outs))
    # master, gradient, two moments of AdamW and one passing copy; and what is multiplied with
    return {"adapter": len(job.layers) * (5 * trainable * exact + copies * job.dtype.itemsize)}


def _largest(examples: Sequence[Example], job: Job, course: Course, size: int) -> tuple[int, int, int]:
    """Return (N, C, U) of the largest piece, trunk and set of scored tokens to be expected."""
    lengths = _lengths(examples, job)
    orders = [course.epoch(epoch) for epoch in range(TRIAL_EPOCHS)]
    every = [order[i : i + job.rows_per_step] for order in orders for i in range(0, len(order), job.rows_per_step)]
    # Rows of very different lengths meet by chance: a piece is largest where most of the long ones do.
    heaviest = sorted(every, key=lambda step: -sum(lengths[i] for i in step))[:TRIAL_STEPS]
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    steps = [*every[:TRIAL_STEPS], *heaviest, by_length[:1]]
    tokens = trunk_tokens = scored = 0
    for rows in steps:
        step = split([examples[i] for i in job.numbers(rows)], max_tokens=size, trunk=job.trunk, unit=job.unit)
        tokens = max(tokens, *(len(tree.ids_N) for _, tree in step.pieces))
        trunk_tokens = max(trunk_tokens, len(step.trunk.ids_N) if step.trunk else 0)
        scored = max(scored, *(len(tree.predictor_M) for _, tree in step.pieces))
    longest = lengths[by_length[0]]
    grown = min(int(tokens * MARGIN), max(size, longest))
    return grown, trunk_tokens, min(int(scored * MARGIN), grown + trunk_tokens)


class _Pieces:
    """The largest pieces of some rows: asked for by job after job, cut once for each size."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._known: dict[tuple[int, int, bool, int], tuple[int, int, int]] = {}

    def of(self, job: Job, size: int) -> tuple[int, int, int]:
        """Return what `_largest` does; jobs over one course differ for it in how their steps are made up only."""
        key = (job.rows_per_step, job.unit, job.trunk, size)
        if key not in self._known:
            self._known[key] = _largest(self._examples, job, job.course, size)
        return self._known[key]


def _lengths(examples: Sequence[Example], job: Job) -> list[int]:
    """Return the tokens of each row, those that its examples share counted as often."""
    lengths = [len(example.ids) for example in examples]
    return [sum(lengths[i : i + job.unit]) for i in range(0, len(lengths), job.unit)]


def _rows_within(examples: Sequence[Example], job: Job, size: int) -> list[int]:
    """Return the rows that a piece of `size` tokens holds whatever its examples share."""
    short = [len(example.ids) <= size // job.unit for example in examples]
    return [row for row in range(len(short) // job.unit) if all(short[i] for i in job.numbers([row]))]


def _fitting(least: MemoryPlan, examples: Sequence[Example], job: Job, budget_bytes: int) -> int:
    """Return a length of rows and pieces with which the run would fit, or 0 where none of the rows is so short."""
    size = max(_lengths(examples, job))
    while size >= MIN_TOKENS and (rows := _rows_within(examples, job, size)):
        kept = [examples[i] for i in job.numbers(rows)]
        tokens, trunk_tokens, scored = _largest(kept, job, plain(len(rows), seed=job.course.seed), size)
        parts = parts_of(job, tokens, trunk_tokens, scored, recompute=least.recompute)
        if least.parts["process"] + sum(parts.values()) <= budget_bytes:
            return size
        size = int(size * 0.9)
    return 0


def _least(process_bytes: int, largest: _Pieces, job: Job, *, sizes: Sequence[int] = PIECES) -> MemoryPlan:
    """Return the plan that takes least when neither pieces nor recomputing are told."""
    plans = []
    for size in sizes:
        tokens, trunk_tokens, scored = largest.of(job, size)
        parts = {"process": process_bytes, **parts_of(job, tokens, trunk_tokens, scored, recompute=True)}
        plans.append(MemoryPlan(size, True, tokens, trunk_tokens, parts))
    return min(plans, key=lambda plan: plan.bytes)


def _too_little(
    least: MemoryPlan,
    examples: Sequence[Example],
    job: Job,
    budget_bytes: int,
    *,
    freed: MemoryPlan,
    fitting: Sequence[str],
) -> TrainError:
    # The process itself differs by some hundred kilobytes from one start to the next.
    enough = -(-(least.bytes + SPREAD_BYTES) // 10**6)
    changes = [f"train.ram={enough:.0f}MB"]
    if freed.bytes <= budget_bytes:
        knobs: dict[str, tuple[object, object]] = {
            "recompute": (least.recompute, freed.recompute),
            "tokens_per_piece": (least.tokens_per_piece, freed.tokens_per_piece),
        }
        changes = [" ".join(f"train.{name}=auto" for name, (told, free) in knobs.items() if told != free)]
    elif size := _fitting(least, examples, job, budget_bytes):
        num_rows, longest = len(examples) // job.unit, size // job.unit
        left_out = num_rows - len(_rows_within(examples, job, size))
        shorter = f"train.max_tokens={longest} train.tokens_per_piece={size} ({left_out} of {num_rows} rows left out)"
        changes.append(shorter if left_out else f"train.tokens_per_piece={size}")
    changes = [*changes, *fitting][:MOST_CHANGES]
    smaller = _smaller_model(least, job, budget_bytes)
    told = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in least.parts.items())
    return TrainError(
        "train.memory",
        f"training takes at least {-(-least.bytes // 10**6):,} MB ({told}),"
        f" and {budget_bytes // 10**6:,} MB may be taken.",
        where="train.ram",
        remedy=f"The smallest change that fits: {' or '.join(changes)}; or a smaller model{smaller}.",
    )


def _smaller_model(least: MemoryPlan, job: Job, budget_bytes: int) -> str:
    """Return ", such as NAME" for the largest model of the catalog that should fit: memory goes with parameters."""
    process = least.parts["process"]
    share = (budget_bytes - process) / max(1, least.bytes - process)
    fitting = [model for model in MODELS.values() if model.params <= share * job.num_params]
    return f", such as {max(fitting, key=lambda model: model.params).name}" if fitting else ""
