"""Every knob that says `auto`, resolved from model, rows and machine, each with its reason in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fledge.config import Config, PreferenceConfig, TrainConfig, layer_range, size_bytes
from fledge.data.course import Course
from fledge.data.wanted import LEARNS_FROM, UNITS
from fledge.model.engine.kernels import sums_dtype
from fledge.model.hardware import DTYPES, Machine
from fledge.model.lora import LoraSettings
from fledge.model.shape import Shape
from fledge.records import Example
from fledge.training.aims import aim_of, compares, rolls_out
from fledge.training.looks import looks
from fledge.training.memory_plan import FullJob, Job, MemoryPlan, plan_memory
from fledge.training.optim import STATE_BYTES
from fledge.training.rollout import as_rollouts, rollout_bytes

# Row visits after which a 135M model with rank 16 had learnt tens to hundreds of facts by heart (benchmarks/README.md).
ROW_VISITS = 1300
MIN_EPOCHS, MAX_EPOCHS = 1, 15
ROWS_PER_STEP = 8
# Of text: how often it is read, and how much of it makes a step (docs/decisions.md).
TEXT_EPOCHS = 3
TEXT_STEP_TOKENS = 2048
# Of answers that are compared: how many times in all, at least and at most so often each, and the share of the usual
# learning rate (docs/decisions.md).
COMPARISONS, LEAST_COMPARED, MOST_COMPARED, COMPARISON_LR = 1200, 3, 8, 0.2
# Of replies that are rewarded: steps, and the share of the usual learning rate (docs/decisions.md).
ROLLOUT_STEPS, ROLLOUT_LR = 150, 0.25
# Of answers that are scored: the same share.
SCORE_LR = 0.5
# Share of LoRA's learning rate that all weights want.
FULL_LR = 0.1
# Share of the free memory that a run takes for itself where nobody says how much.
RAM_SHARE = 0.8


@dataclass(frozen=True)
class Choice:
    """A knob that was chosen for the user."""

    knob: str
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.knob} = {self.value}: {self.reason}"


@dataclass(frozen=True)
class Means:
    """What a run has to work with.

    num_params: all numbers of the base model; layer_params: those of one layer. stored_bytes: what they take in a
    dtype where they stay in their blocks; None where they are not quantised.
    plain: the path without contexts. all_logits: see memory_plan.Job.
    """

    shape: Shape
    num_params: int
    machine: Machine
    process_bytes: int
    layer_params: int = 0
    stored_bytes: Callable[[str], int] | None = None
    plain: bool = False
    all_logits: bool = False


def resolve(
    config: Config,
    examples: Sequence[Example],
    held_out: Sequence[Example] = (),
    *,
    course: Course,
    means: Means,
    texts: bool = True,
) -> tuple[Config, list[Choice], MemoryPlan]:
    """Return the config without any `auto` under `train`, what was chosen, and what memory it will take.

    texts: whether there are documents among the rows, which an objective of text takes but does not need. Raises
    TrainError `train.memory` where nothing fits into train.ram, and ConfigError for what needs held-out rows where
    there are none.
    """
    machine, prose = means.machine, texts and config.objective == "text"
    compared = compares(config)
    preference, told = _preference(config, examples)
    rules: dict[str, tuple[object, str]] = {
        "epochs": _reads()
        if prose
        else _comparisons(course.rows_per_epoch)
        if compared
        else _epochs(course.rows_per_epoch),
        "lr": _lr(means.num_params, config, compared=compared),
        "rank": (16, "enough for hundreds of facts in a small model; more costs time, not quality"),
        "rows_per_step": _passages_per_step(examples) if prose else _rows_per_step(course.rows_per_epoch),
        **(_rollouts(course.rows_per_epoch, means.num_params, config) if rolls_out(config) else {}),
        "dtype": _dtype(config, means),
        "ram": _ram(machine),
    }
    if config.method == "full":
        # Weights that are trained themselves have none.
        del rules["rank"]
    chosen = {knob: rule for knob, rule in rules.items() if getattr(config.train, knob) == "auto"}
    train = config.train.model_copy(update={knob: value for knob, (value, _) in chosen.items()})
    plan = _plan(config.model_copy(update={"train": train}), examples, course, means)
    more = {"tokens_per_piece": _piece_reason(plan), "recompute": _recompute_reason(plan)}
    chosen |= {knob: rule for knob, rule in more.items() if getattr(train, knob) == "auto"}
    if rolls_out(config) and train.eval_every == "auto":
        chosen["eval_every"] = (0.0, "")
        train = train.model_copy(update={"eval_every": 0.0})
    chosen |= looks(train, examples=examples, course=course, held_out=held_out, by_loss=prose or compared)
    values = config.train.model_dump() | {knob: value for knob, (value, _) in chosen.items()}
    # What leaves nothing to choose has no reason and is not told.
    choices = [Choice(f"train.{knob}", value, why) for knob, (value, why) in chosen.items() if why] + told
    update = {"train": TrainConfig.model_validate(values), "preference": preference}
    return config.model_copy(update=update), choices, plan


def _preference(config: Config, examples: Sequence[Example]) -> tuple[PreferenceConfig, list[Choice]]:
    """Return the preference knobs, those that the objective hears of without any `auto`, and what was chosen."""
    aim = aim_of(config)
    labels = [example.columns["label"] for example in examples if "label" in example.columns]
    good = sum(label > 0 for label in labels)
    bad = len(labels) - good
    # The rarer side counts so much more that both weigh the same (Ethayarajh et al. 2024, section 4.2).
    balanced = f"{good} answers are good and {bad} bad: both sides weigh the same"
    rules: dict[str, tuple[float, str]] = {
        "beta": (aim.beta, f"the usual one of {config.objective}"),
        "good_weight": (max(1.0, bad / good) if good and bad else 1.0, balanced),
        "bad_weight": (max(1.0, good / bad) if good and bad else 1.0, balanced),
    }
    heard = {*aim.terms, *aim.facts_terms}
    chosen = {k: rule for k, rule in rules.items() if k in heard and getattr(config.preference, k) == "auto"}
    values = config.preference.model_dump() | {knob: value for knob, (value, _) in chosen.items()}
    choices = [Choice(f"preference.{k}", round(v, 3), why) for k, (v, why) in chosen.items()]
    return PreferenceConfig.model_validate(values), choices


def layers_of(train: TrainConfig, num_layers: int) -> range | None:
    """Return the layers that are trained; None for all."""
    if train.layers is not None:
        return layer_range(train.layers)
    return None if train.top_layers is None else range(num_layers - train.top_layers, num_layers)


def lora_settings(train: TrainConfig, num_layers: int) -> LoraSettings:
    """Return the adapter that resolved knobs ask for. Alpha is twice the rank, so B A is added doubled at any rank."""
    assert train.rank != "auto"
    return LoraSettings(
        train.rank,
        2.0 * train.rank,
        dropout=train.dropout,
        rslora=train.rslora,
        dora=train.dora,
        targets=tuple(train.targets) or None,
        layers=layers_of(train, num_layers),
    )


def _full(train: TrainConfig, means: Means) -> FullJob:
    """Return what training the weights themselves takes."""
    assert train.dtype != "auto"
    layers = layers_of(train, means.shape.num_layers)
    masters, exact = DTYPES[train.masters].itemsize, sums_dtype(DTYPES[train.masters]).itemsize
    apart = 0 if train.masters == train.dtype else masters
    count = means.num_params if layers is None else len(layers) * means.layer_params
    return FullJob(count, apart + exact + STATE_BYTES[train.optimizer], layers)


def _others(config: Config, means: Means) -> dict[str, Config]:
    """Return other ways to teach the same in less memory, by what has to be written for them."""
    found: dict[str, dict[str, object]] = {}
    if config.method == "full":
        if not means.plain and config.train.dtype == "bfloat16":
            small = {"optimizer": "adamw8bit", "masters": "bfloat16"}
            found[" ".join(f"train.{knob}={value}" for knob, value in small.items())] = dict(small)
        found["method=lora"] = {"rank": 16}
    if config.method != "qlora" and means.stored_bytes is not None and not means.plain:
        found["method=qlora"] = {"rank": 16 if config.train.rank == "auto" else config.train.rank}
    return {
        words: config.model_copy(
            update={
                "method": words.removeprefix("method=") if words.startswith("method=") else config.method,
                "train": config.train.model_copy(update=knobs),
            }
        )
        for words, knobs in found.items()
    }


def _job(config: Config, course: Course, means: Means) -> Job:
    train = config.train
    assert train.rows_per_step != "auto" and train.dtype != "auto"
    full = config.method == "full"
    return Job(
        means.shape,
        DTYPES[train.dtype],
        None if full else lora_settings(train, means.shape.num_layers),
        means.num_params,
        train.rows_per_step * (config.rl.group if rolls_out(config) else 1),
        course,
        means.machine.threads,
        trunk=not means.plain,
        all_logits=means.all_logits,
        unit=UNITS[LEARNS_FROM[config.objective]],
        weight_bytes=means.stored_bytes(train.dtype) if means.stored_bytes and config.method == "qlora" else None,
        full=_full(train, means) if full else None,
    )


def _plan(config: Config, examples: Sequence[Example], course: Course, means: Means) -> MemoryPlan:
    train, sampling = config.train, 0
    assert train.rows_per_step != "auto" and train.dtype != "auto"
    if rolls_out(config):
        sizes = {"prompts": train.rows_per_step, "group": config.rl.group, "itemsize": DTYPES[train.dtype].itemsize}
        sampling = rollout_bytes(examples, means.shape, **sizes)
        examples, course = as_rollouts(examples, config.rl.group, seed=train.seed)
    return plan_memory(
        examples,
        _job(config, course, means),
        budget_bytes=size_bytes(train.ram),
        process_bytes=means.process_bytes + sampling,
        tokens_per_piece=None if train.tokens_per_piece == "auto" else train.tokens_per_piece,
        recompute=None if train.recompute == "auto" else train.recompute,
        others={words: _job(other, course, means) for words, other in _others(config, means).items()},
    )


def _ram(machine: Machine) -> tuple[str, str]:
    megabytes = int(machine.ram_free_bytes * RAM_SHARE / 1e6)
    return f"{megabytes}MB", f"{RAM_SHARE:.0%} of the {machine.ram_free_bytes / 1e9:.1f} GB that are free now"


def _piece_reason(plan: MemoryPlan) -> tuple[int, str]:
    trunk = f" on a shared beginning of {plan.trunk_tokens}" if plan.trunk_tokens else ""
    size = plan.parts["activations"] / 1e6
    return plan.tokens_per_piece, (
        f"steps have up to {plan.tokens} tokens at once{trunk}, {size:,.0f} MB of activations;"
        " another size changes sums by rounding alone"
    )


def _recompute_reason(plan: MemoryPlan) -> tuple[bool, str]:
    if plan.recompute:
        return True, "memory is too small to keep what all layers compute; costs a third of the speed"
    return False, f"everything fits: {plan.bytes / 1e9:.2f} GB"


def _epochs(num_rows: int) -> tuple[int, str]:
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, round(ROW_VISITS / num_rows)))
    return epochs, f"{num_rows} rows are seen about {ROW_VISITS} times in all, {MIN_EPOCHS} to {MAX_EPOCHS} times each"


def _reads() -> tuple[int, str]:
    return TEXT_EPOCHS, f"documents are read {TEXT_EPOCHS} times; more often is learning them by heart"


def _passages_per_step(examples: Sequence[Example]) -> tuple[int, str]:
    mean = sum(len(example.ids) for example in examples) / len(examples)
    rows = max(1, min(ROWS_PER_STEP, round(TEXT_STEP_TOKENS / mean)))
    return rows, f"passages have {mean:.0f} tokens in the mean; about {TEXT_STEP_TOKENS} tokens make a step"


def _comparisons(num_rows: int) -> tuple[int, str]:
    epochs = min(MOST_COMPARED, max(LEAST_COMPARED, round(COMPARISONS / num_rows)))
    each = f"{LEAST_COMPARED} to {MOST_COMPARED} times each"
    return epochs, f"{num_rows} rows are compared about {COMPARISONS:,} times in all, {each}"


def _dtype(config: Config, means: Means) -> tuple[str, str]:
    if config.method == "full" and means.plain:
        return "float32", "on the plain path weights are their own masters"
    return means.machine.dtype, means.machine.dtype_reason


def _lr(num_params: int, config: Config, *, compared: bool) -> tuple[float, str]:
    lr = 1e-3 if num_params < 200e6 else 5e-4 if num_params < 800e6 else 2e-4
    if config.method == "full" and config.train.optimizer == "adafactor":
        return lr * (COMPARISON_LR if compared else 1.0), "adafactor's steps are shares of a weight's own size"
    if config.method == "full":
        lr *= FULL_LR
    if aim_of(config).judges:
        return SCORE_LR * lr, "a score is learnt faster than an answer, and comparing has no end of its own"
    if compared:
        return COMPARISON_LR * lr, "comparing answers wants a smaller rate than learning them: it has no end of its own"
    size = f"{num_params / 1e6:.0f}M"
    if config.method == "full":
        return lr, f"all weights want about a tenth of LoRA's rate, and less the larger the model ({size} parameters)"
    return (
        lr,
        f"LoRA wants about ten times the rate of full training, and less the larger the model ({size} parameters)",
    )


def _rollouts(num_rows: int, num_params: int, config: Config) -> dict[str, tuple[object, str]]:
    rows = max(1, min(ROWS_PER_STEP, num_rows))
    usual, _ = _lr(num_params, config, compared=False)
    return {
        "epochs": (ROLLOUT_STEPS * rows / num_rows, f"{ROLLOUT_STEPS} batches of replies show whether it learns"),
        "lr": (ROLLOUT_LR * usual, "rewards are a noisy teacher: smaller steps than where answers are told"),
        "rows_per_step": (rows, "so many prompts a batch, each with its group of replies"),
    }


def _rows_per_step(num_rows: int) -> tuple[int, str]:
    rows = max(1, min(ROWS_PER_STEP, num_rows // 4))
    return rows, "small steps learn more per row; this many share their prefix and keep the processor busy"
