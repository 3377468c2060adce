"""Rows and base model -> everything a run is made of, resolved; and the model, the batches, the references."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fledge
from fledge.config import Config
from fledge.data.course import Course, plan_course
from fledge.data.ends import read_at_end
from fledge.data.packed import PackedExamples
from fledge.data.template import ChatTemplate
from fledge.data.tree import Places
from fledge.model.adapter import SCORE
from fledge.model.causal import CausalModel
from fledge.model.engine.decoder import held_bytes
from fledge.model.extended import Extended, extend
from fledge.model.hardware import DTYPES, Machine, survey
from fledge.model.load import load_model, plain_reason, prepare_plain
from fledge.model.lora import LoraSettings, layer_of
from fledge.model.memory import rss_bytes
from fledge.model.pull import resolve as resolve_model
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import GgufWeights, Weights, open_weights
from fledge.project import sha256_of
from fledge.recipes.once import check_options, places_of, quantised, remembered_bytes
from fledge.recipes.prepare import Lesson, Rows, read_project, teach
from fledge.recipes.prompts import resolve_rl, teach_prompts
from fledge.recipes.reference import with_reference
from fledge.recipes.spread import spread_of
from fledge.recipes.texts import texts_of
from fledge.records import Judged, Learnt, Preference
from fledge.training.aims import aim_of, compares, rolls_out, unheard
from fledge.training.auto import Means, layers_of, lora_settings, resolve
from fledge.training.batch import Batch, Memory, batches, num_steps
from fledge.training.memory_plan import MemoryPlan
from fledge.training.optim import adamw, optimizer_of


def _quiet(_: object) -> None: ...


@dataclass(frozen=True)
class Setup:
    """Everything a run is made of, resolved: no `auto` is left."""

    config: Config
    weights: Weights
    base_sha256: str
    template: ChatTemplate
    lesson: Lesson
    held_out: Lesson
    threads: int
    plain: str
    plan: MemoryPlan
    places: Places | None
    course: Course
    spread: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    @property
    def identity(self) -> str:
        """A hash of all that decides the outcome; a checkpoint goes on only under the same one."""
        parts = {
            "base": self.base_sha256,
            "rows": self.lesson.digest,
            "course": self.course.digest,
            "knobs": self.config.model_dump(include=self._deciding),
            "threads": self.threads,
        } | ({"added": dict(self.weights.added)} if self.weights.added else {})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def _deciding(self) -> set[str]:
        """The sections of the knobs that decide what is trained."""
        own = {"preference"} if compares(self.config) else {"rl", "generate", "evaluate"} if self.rolls_out else set()
        return {"objective", "method", "train"} | own

    @property
    def rolls_out(self) -> bool:
        """Whether it learns from replies that it samples itself."""
        return rolls_out(self.config)

    @property
    def lora(self) -> LoraSettings:
        return lora_settings(self.config.train, self.weights.shape.num_layers)

    @property
    def steps(self) -> int:
        train = self.config.train
        assert train.epochs != "auto" and train.rows_per_step != "auto"
        once = num_steps(self.course.rows_per_epoch, epochs=train.epochs, rows_per_step=train.rows_per_step)
        return once * (self.config.rl.updates if self.rolls_out else 1)

    @property
    def steps_per_epoch(self) -> int:
        assert self.config.train.rows_per_step != "auto"
        once = math.ceil(self.course.rows_per_epoch / self.config.train.rows_per_step)
        return once * (self.config.rl.updates if self.rolls_out else 1)


def prepare(
    project: Path,
    config: Config,
    *,
    threads: int | None = None,
    today: datetime.date | None = None,
    say: Callable[[str], None] = _quiet,
) -> Setup:
    """Read rows and model, decide what is taught, resolve every `auto`. Nothing is written.

    `threads` and `today` are those of an interrupted run that goes on: its sums and its prompts depend on them.
    """
    today = today or datetime.date.today()
    rows = read_project(project, config)
    weights = extend(open_weights(resolve_model(config.model, base_dir=project)), config.data.add_tokens)
    template = ChatTemplate(load_tokenizer(weights), today=today)
    config, rl_choices = resolve_rl(config, rows.train, project=project)
    lesson, held_out, spread = _lessons(rows, template, config, context_tokens=weights.shape.context_tokens)
    machine = survey(say)
    torch.set_num_threads(threads or machine.threads)
    plain = plain_reason(weights, dora=config.train.dora)
    check_options(config, weights, plain=plain)
    all_logits = bool(plain) and prepare_plain(weights)
    # What a run samples is not known before: nothing of it can be computed once.
    places = None if lesson.asked else places_of(config.train, lesson.examples, plain=plain)
    held = remembered_bytes(config.train, places, weights.shape, dtype=machine.dtype)
    held += weights.learnt_bytes if isinstance(weights, Extended) and config.method != "full" else 0
    course = plan_course(
        lesson.rows,
        weights=rows.weights,
        temperature=config.data.temperature,
        order=config.data.order,
        seed=config.train.seed,
    )
    means = _means(weights, machine, rss_bytes() + held, plain=bool(plain), all_logits=all_logits)
    texts, unseen = bool(texts_of(rows.train)), held_out.examples
    resolved, choices, plan = resolve(config, lesson.examples, unseen, course=course, means=means, texts=texts)
    notes = _notes(rows, lesson, held_out, course, config, weights, plain)
    return Setup(
        resolved,
        weights,
        base_sha256=_base_digest(weights.path),
        template=template,
        lesson=lesson,
        held_out=held_out,
        threads=torch.get_num_threads(),
        plain=plain,
        plan=plan,
        places=places,
        course=course,
        spread=spread,
        notes=(*notes, *map(str, (*rl_choices, *choices))),
    )


def _lessons(
    rows: Rows, template: ChatTemplate, config: Config, *, context_tokens: int
) -> tuple[Lesson, Lesson, dict[str, Any]]:
    """Return what is taught, what is held out, and how the rows are spread."""
    teacher = partial(teach_prompts if rolls_out(config) else teach, template=template, config=config)
    lesson = teacher(rows.train, context_tokens=context_tokens)
    held_out = teacher(rows.held_out, context_tokens=context_tokens, held_out=True)
    spread = spread_of(() if lesson.asked else rows.train, lesson.examples)
    if aim_of(config).judges:
        # An answer is scored as a whole, where it has ended.
        lesson, held_out = (
            replace(part, examples=PackedExamples(map(read_at_end, part.examples))) for part in (lesson, held_out)
        )
    return lesson, held_out, spread


def _means(weights: Weights, machine: Machine, process_bytes: int, *, plain: bool, all_logits: bool) -> Means:
    counts = {name: torch.Size(weights.tensor_shape(name)).numel() for name in weights.names()}
    return Means(
        weights.shape,
        sum(counts.values()),
        machine,
        process_bytes,
        layer_params=sum(count for name, count in counts.items() if layer_of(name) == 0),
        stored_bytes=(lambda dtype: held_bytes(weights, DTYPES[dtype])) if quantised(weights) else None,
        plain=plain,
        all_logits=all_logits,
    )


def _notes(
    rows: Rows, lesson: Lesson, held_out: Lesson, course: Course, config: Config, weights: Weights, plain: str
) -> list[str]:
    """Return what a person should know before the first step, in words."""
    taught = f"{lesson.num_taught} tokens are taught: {_what_is_taught(rows.train)}"
    if lesson.asked:
        group, longest = config.rl.group, config.rl.max_tokens
        taught = f"{lesson.num_rows} prompts, {group} replies of up to {longest} tokens to each, which are compared"
    if aim_of(config).judges:
        taught = f"{len(lesson.examples)} answers are scored, each where its turn has ended"
    notes = [*rows.notes, taught]
    notes += [*lesson.notes, *([lesson.left_out] if lesson.left_out else [])]
    notes += course.notes
    notes += _notes_of_added(lesson, weights)
    if lesson.asked and config.generate.stop:
        notes.append("WARNING: generate.stop: what is sampled ends with the token of a turn, at no text")
    if unused := unheard(config):
        notes.append(f"WARNING: {', '.join(unused)}: says nothing to {config.objective}")
    notes += [f"held out: {held_out.left_out}"] if held_out.left_out else []
    if config.train.after_prompt and not isinstance(weights, GgufWeights):
        notes.append("train.after_prompt: the adapter opens in PEFT; to export and serve it, train on a GGUF file")
    if (plain or lesson.asked) and config.train.top_layers is not None:
        notes.append("train.top_layers saves less here: the lower layers are computed in every step")
    return notes


def _notes_of_added(lesson: Lesson, weights: Weights) -> list[str]:
    """Return where added tokens have their rows, and which of them no row holds."""
    if not isinstance(weights, Extended):
        return []
    found: set[int] = set().union(*(set(weights.ids).intersection(example.ids) for example in lesson.examples))
    own = "of the embedding that no token used" if weights.shape.vocab_size > weights.ids.stop else "of their own"
    notes = [f"{len(weights.ids)} tokens are added, ids {weights.ids[0]} to {weights.ids[-1]}, in rows {own}"]
    absent = [text for text, number in weights.added.items() if number not in found]
    if absent:
        few = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        notes.append(f"WARNING: data.add_tokens: {few}: in no row that is learnt from, so nothing is learnt of it")
    return notes


def _what_is_taught(rows: Sequence[Learnt]) -> str:
    if isinstance(rows[0], Preference | Judged):
        return "the answers that are compared, and the token that ends each"
    texts = len(texts_of(rows))
    answers = "the answers and the token that ends them"
    whole = f"every token of {texts:,} text{'s' if texts > 1 else ''}"
    return answers if not texts else whole if texts == len(rows) else f"{answers}, and {whole}"


def _base_digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()


def build(setup: Setup) -> tuple[CausalModel, dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Return the model, what of it is trained and the optimizer of that, as the run begins with them."""
    train = setup.config.train
    assert train.dtype != "auto"
    torch.manual_seed(train.seed)
    assert train.recompute != "auto"
    model = load_model(
        setup.weights,
        dtype=DTYPES[train.dtype],
        plain=setup.plain,
        recompute=train.recompute,
        stay=setup.config.method == "qlora",
    )
    if setup.config.method == "full":
        span = layers_of(train, setup.weights.shape.num_layers)
        model.train_weights(setup.weights, span, masters=DTYPES[train.masters])
    else:
        model.add_adapter(setup.lora, seed=train.seed)
        if isinstance(setup.weights, Extended):
            model.train_rows(setup.weights)
    parameters, aim = model.parameters(), aim_of(setup.config)
    if aim.judges or aim.critic:
        parameters[SCORE] = model.add_scalar_head()
    if setup.config.method == "full":
        return model, parameters, optimizer_of(train.optimizer, parameters, weight_decay=train.weight_decay)
    return model, parameters, adamw(parameters, weight_decay=train.weight_decay, lora_plus=train.lora_plus)


def stream(setup: Setup, *, first_step: int = 0, memory: Memory | None = None) -> Iterator[Batch]:
    """Yield the run's batches from `first_step` on."""
    train = setup.config.train
    assert train.rows_per_step != "auto" and train.tokens_per_piece != "auto"
    return batches(
        setup.lesson.examples,
        rows_per_step=train.rows_per_step,
        tokens_per_piece=train.tokens_per_piece,
        course=setup.course,
        first_step=first_step,
        steps=setup.steps,
        trunk=not setup.plain,
        memory=memory,
        unit=setup.lesson.unit,
        aside=setup.lesson.aside,
    )


def refer(setup: Setup, model: CausalModel, say: Callable[[str], None] = _quiet) -> Setup:
    """Return the setup with what the model as it was makes of the rows, where the objective compares with it."""
    train = setup.config.train
    if not aim_of(setup.config).reference:
        return setup
    assert train.tokens_per_piece != "auto"
    key = f"{setup.base_sha256} {train.dtype} {setup.threads} {model.path} {fledge.__version__}"
    key += f" {list(setup.weights.added)}" if setup.weights.added else ""
    size = min(train.tokens_per_piece, setup.plan.tokens)
    lesson, held_out = (
        with_reference(model, part, key=key, tokens_per_piece=size, say=say) for part in (setup.lesson, setup.held_out)
    )
    return replace(setup, lesson=lesson, held_out=held_out)
