"""Rows -> adapter: the life of a training run, top to bottom."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import fledge
from fledge.config import Config
from fledge.data.course import Course, plan_course
from fledge.data.template import ChatTemplate
from fledge.data.tree import Places
from fledge.errors import ConfigError, RunError
from fledge.model.adapter import save_adapter
from fledge.model.causal import CausalModel
from fledge.model.engine.decoder import held_bytes
from fledge.model.hardware import DTYPES, survey
from fledge.model.load import load_model, plain_reason, prepare_plain
from fledge.model.lora import LoraSettings
from fledge.model.memory import peak_rss_bytes, rss_bytes
from fledge.model.pull import resolve as resolve_model
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import GgufWeights, OtherWeights, Weights, open_weights
from fledge.project import RunFolder, new_run, sha256_of, write_json_atomic, write_text_atomic
from fledge.recipes.held_out import measure, summary_of_tasks
from fledge.recipes.once import check_options, places_of, remember, remembered_bytes
from fledge.recipes.prepare import Lesson, read_project, teach
from fledge.recipes.reference import with_reference
from fledge.recipes.report import write_report
from fledge.recipes.spread import spread_of
from fledge.recipes.texts import texts_of
from fledge.records import Judged, Learnt, Preference
from fledge.training import checkpoint
from fledge.training.aims import aim_of, before_of, objective_of
from fledge.training.auto import Means, lora_settings, resolve
from fledge.training.batch import Batch, Memory, batches, num_steps
from fledge.training.log import MetricsLog, read
from fledge.training.loop import Plan, Step, Summary, fit
from fledge.training.memory_plan import MemoryPlan
from fledge.training.optim import Schedule, adamw


def _quiet(_: object) -> None: ...


@dataclass(frozen=True)
class Listener:
    """Who wants to know: `say` gets words for people, `step` every optimizer step."""

    say: Callable[[str], None] = _quiet
    step: Callable[[Step], None] = _quiet


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
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def _deciding(self) -> set[str]:
        """The sections of the knobs that decide what is trained."""
        compares = aim_of(self.config).learns_from != "answers"
        return {"objective", "method", "train"} | ({"preference"} if compares else set())

    @property
    def lora(self) -> LoraSettings:
        return lora_settings(self.config.train)

    @property
    def steps(self) -> int:
        train = self.config.train
        assert train.epochs != "auto" and train.rows_per_step != "auto"
        return num_steps(self.course.rows_per_epoch, epochs=train.epochs, rows_per_step=train.rows_per_step)


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
    weights = open_weights(resolve_model(config.model, base_dir=project))
    template = ChatTemplate(load_tokenizer(weights), today=today)
    context = weights.shape.context_tokens
    lesson = teach(rows.train, template, config, context_tokens=context)
    held_out = teach(rows.held_out, template, config, context_tokens=context, held_out=True)
    machine = survey(say)
    torch.set_num_threads(threads or machine.threads)
    num_params = sum(torch.Size(weights.tensor_shape(name)).numel() for name in weights.names())
    plain = plain_reason(weights, dora=config.train.dora)
    check_options(config, weights, plain=plain)
    all_logits = bool(plain) and prepare_plain(weights)
    places = places_of(config.train, lesson.examples, plain=plain)
    held = remembered_bytes(config.train, places, weights.shape, dtype=machine.dtype)
    course = plan_course(
        lesson.rows,
        weights=rows.weights,
        temperature=config.data.temperature,
        order=config.data.order,
        seed=config.train.seed,
    )
    stays = config.method == "qlora"
    means = Means(
        weights.shape,
        num_params,
        machine,
        rss_bytes() + held,
        weight_bytes=(lambda dtype: held_bytes(weights, DTYPES[dtype])) if stays else None,
        plain=bool(plain),
        all_logits=all_logits,
    )
    texts = bool(texts_of(rows.train))
    resolved, choices, plan = resolve(config, examples=lesson.examples, course=course, means=means, texts=texts)
    notes = [*rows.notes, f"{lesson.num_taught} tokens are taught: {_what_is_taught(rows.train)}"]
    notes += [*lesson.notes, *([lesson.left_out] if lesson.left_out else [])]
    notes += course.notes
    notes += [f"held out: {held_out.left_out}"] if held_out.left_out else []
    if config.train.after_prompt and not isinstance(weights, GgufWeights):
        notes.append("train.after_prompt: the adapter opens in PEFT; to export and serve it, train on a GGUF file")
    if plain and config.train.top_layers is not None:
        notes.append("train.top_layers saves less here: the plain path computes the lower layers in every step")
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
        spread=spread_of(rows.train, lesson.examples),
        notes=(*notes, *map(str, choices)),
    )


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


def tune(project: Path, config: Config, *, listener: Listener | None = None) -> dict[str, Any]:
    """Train a new run of the project and return what the contract says of `fledge train`.

    Ctrl-C leaves a run that `resume` finishes with the same bytes.
    """
    listener = listener or Listener()
    setup = prepare(project, config, say=listener.say)
    label = f"{config.objective}-{_slug(config.model)}"
    run = new_run(project, label)
    # From here on the run can be found and resumed: all that `resume` needs stands in run.yaml.
    record = {
        "fledge": fledge.__version__,
        "threads": setup.threads,
        "date": setup.template.today,
        "identity": setup.identity,
        "notes": list(setup.notes),
        "spread": setup.spread,
        "knobs": setup.config.model_dump(),
    }
    write_text_atomic(run.knobs, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    return _train(run, setup, listener)


def resume(project: Path, run: RunFolder, *, listener: Listener | None = None) -> dict[str, Any]:
    """Finish an interrupted run, bit by bit as if it had not been interrupted. A finished run is only reported.

    Raises RunError where the model, the rows or the knobs are not those the run was begun with.
    """
    listener = listener or Listener()
    if run.finished:
        listener.say(f"{run.path.name} is finished already.")
        return dict(json.loads(run.manifest.read_text(encoding="utf-8"))["summary"])
    try:
        record = yaml.safe_load(run.knobs.read_text(encoding="utf-8"))
        config, identity, threads = Config.model_validate(record["knobs"]), record["identity"], int(record["threads"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(
            "run.not_resumable", "its run.yaml is missing or damaged.", where=str(run.path), remedy="Start a new run."
        ) from error
    setup = prepare(project, config, threads=threads, today=record.get("date"), say=listener.say)
    if setup.identity != identity:
        raise RunError(
            "run.not_resumable",
            "the base model, the rows or the knobs have changed since it was interrupted.",
            where=str(run.path),
            remedy="Put them back as they were, or start a new run with `fledge train`.",
        )
    return _train(run, setup, listener)


def build(setup: Setup) -> tuple[CausalModel, dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Return the model with its adapter, the adapter's parameters and their optimizer, as the run begins with them."""
    train = setup.config.train
    assert train.rank != "auto" and train.dtype != "auto"
    torch.manual_seed(train.seed)
    assert train.recompute != "auto"
    model = load_model(
        setup.weights,
        dtype=DTYPES[train.dtype],
        plain=setup.plain,
        recompute=train.recompute,
        stay=setup.config.method == "qlora",
    )
    model.add_adapter(setup.lora, seed=train.seed)
    parameters = model.parameters()
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
    size = min(train.tokens_per_piece, setup.plan.tokens)
    lesson, held_out = (
        with_reference(model, part, key=key, tokens_per_piece=size, say=say) for part in (setup.lesson, setup.held_out)
    )
    return replace(setup, lesson=lesson, held_out=held_out)


def _train(run: RunFolder, setup: Setup, listener: Listener) -> dict[str, Any]:
    train = setup.config.train
    assert train.lr != "auto"
    for note in setup.notes:
        listener.say(note)
    with _locked(run):
        model, parameters, optimizer = build(setup)
        listener.say(model.path)
        setup = refer(setup, model, listener.say)
        first_step = _restore(run, setup, parameters, optimizer, listener)
        plan = Plan(
            steps=setup.steps,
            first_step=first_step,
            schedule=Schedule(train.lr, setup.steps, train.warmup),
            clip_norm=train.clip_norm,
            checkpoint_s=train.checkpoint_s,
            checkpoint=lambda step: checkpoint.save(
                run.checkpoints, step=step, identity=setup.identity, parameters=parameters, optimizer=optimizer
            ),
            before=before_of(setup.config),
        )
        objective = objective_of(setup.config)
        memory = remember(model, train, setup.places, listener.say)
        steps = stream(setup, first_step=first_step, memory=memory)
        with closing(MetricsLog(run.metrics, first_step=first_step)) as log:
            fit(model, steps, objective, optimizer, plan, [log, listener.step])
        adapter = model.adapter(setup.lora, base_name=setup.config.model)
        if train.after_prompt:
            adapter = replace(adapter, invocation_tokens=tuple(setup.template.invocation_ids()))
        save_adapter(adapter, run.adapter)
        return _finish(run, setup, model, sum(p.numel() for p in parameters.values()))


def _restore(
    run: RunFolder, setup: Setup, parameters: dict[str, Any], optimizer: torch.optim.Optimizer, listener: Listener
) -> int:
    found = checkpoint.latest(run.checkpoints)
    if found is None:
        if any(run.checkpoints.glob("step-*")):
            listener.say("every checkpoint is damaged: begins anew with step 1")
        return 0
    step = checkpoint.load(found, identity=setup.identity, parameters=parameters, optimizer=optimizer)
    listener.say(f"goes on after step {step} of {setup.steps}")
    return step


def _finish(run: RunFolder, setup: Setup, model: CausalModel, num_trainable: int) -> dict[str, Any]:
    """Measure the held-out loss, write the manifest (which makes the run usable) and return the summary."""
    measured = measure(model, setup.held_out, setup.config, max_tokens=setup.plan.tokens)
    with model.disabled():
        before = measure(model, setup.held_out, setup.config, max_tokens=setup.plan.tokens)
    totals = _totals(run)
    summary = {
        "run": run.path.name,
        "method": setup.config.method,
        "objective": setup.config.objective,
        "rows": setup.lesson.num_rows,
        "rows_too_long": len(setup.lesson.too_long),
        **asdict(totals),
        "tokens_per_s": totals.tokens_effective / totals.seconds,
        "sharing": totals.tokens_effective / totals.tokens_computed,
        "eval_loss": measured.loss,
        "eval_metrics": dict(measured.metrics),
        "eval_before": {"loss": before.loss, **before.metrics},
        "tasks": summary_of_tasks(setup.course, setup.held_out.rows, measured.losses),
        "trainable_params": num_trainable,
        "peak_rss_bytes": peak_rss_bytes(),
        "adapter": str(run.adapter.resolve()),
        "exportable": not isinstance(setup.weights, OtherWeights),
        "diagnoses": [],
    }
    manifest = {
        "fledge": fledge.__version__,
        "model": setup.config.model,
        "base_path": str(setup.weights.path),
        "base_sha256": setup.base_sha256,
        "rows_sha256": setup.lesson.digest,
        "identity": setup.identity,
        "adapter_sha256": sha256_of(run.adapter / "adapter_model.safetensors"),
        "summary": summary,
    }
    write_json_atomic(run.manifest, manifest)
    write_report(run)
    return summary


def _totals(run: RunFolder) -> Summary:
    """Return the totals over all steps of the run, those before an interruption included."""
    steps = [Step(**line) for line in read(run.metrics)]
    return Summary.of(steps)


@contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    """Keep a second process from training the same run. The lock dies with the process that holds it."""
    with (run.path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError("run.busy", "another process is training this run.", where=str(run.path)) from error
        yield


def _slug(model: str) -> str:
    name = Path(model).stem if "/" in model or model.endswith(".gguf") else model
    slug = "".join(c if c.isalnum() or c in "._-" else "-" for c in name.lower()).strip("-.")
    if not slug:
        raise ConfigError("config.bad_value", f"model '{model}' has no name to call a run by.")
    return slug
