"""`fledge advise trial`: the same held-out rows through a prompt, examples, retrieval, a trained model, and both."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fledge.advise.trial import ARMS, MIN_ROWS, RETRIEVING, TRAINED, Difference, Tried, advise
from fledge.config import Config, DataConfig
from fledge.data.canonical import as_line
from fledge.data.split import split_records
from fledge.errors import ConfigError, DataError
from fledge.evaluation.tasks import Evaluation
from fledge.evaluation.verdict import Outcome, compare
from fledge.knowledge.index import Index
from fledge.knowledge.retrieve import as_context, retrieve
from fledge.project import find_run, write_text_atomic
from fledge.recipes.measure import Served, measure, room_for, sampling_of
from fledge.recipes.prepare import read_project
from fledge.recipes.target import serve_target
from fledge.recipes.texts import conversations_in
from fledge.records import Conversation, Message
from fledge.runtime.embeddings import Embedder
from fledge.runtime.llama import Llama

# Fewer rows than this tell too little; how many are asked at most.
WANTED_ROWS, ASKED_ROWS = 20, 50
# Who goes on for so many times the longest right answer is wrong by then. A token has about three letters.
TOO_LONG, TOKEN_CHARS, LEAST_TOKENS = 2, 3, 32
EXAMPLES, CHUNKS = 4, 3
# So many answers are asked for alone, to see how long one takes.
TIMED = 5
HOURS_A_MONTH = 730
KNOWLEDGE = "knowledge"
ASKED = "Answer with what stands here, in short and as asked.\n\n{context}\n\nQuestion: {question}"


@dataclass(frozen=True)
class Order:
    """What is tried. requests: a month; hour_price: of a machine like this one."""

    knowledge: Path | None = None
    prompt: str | None = None
    requests: int = 10_000
    hour_price: float = 0.04
    most_rows: int = ASKED_ROWS
    arms: Sequence[str] = ARMS


@dataclass(frozen=True)
class Progress:
    """How long work is shown: what is said, how many of an arm's answers are there, and a run being trained."""

    say: Callable[[str], None] = field(default=lambda _: None)
    asked: Callable[[str, int, int], None] = field(default=lambda what, done, total: None)
    train: Callable[[Path, Config], dict[str, Any]] | None = None


def trial(project: Path, config: Config, order: Order, *, progress: Progress = Progress()) -> dict[str, Any]:
    """Return what the contract says of `fledge advise trial`.

    Raises DataError where fewer than 10 rows can be held out, ConfigError for an objective that teaches no answers.
    """
    if config.objective != "sft":
        raise ConfigError("config.bad_value", "only what answers questions can be tried.", where="objective")
    train, held = _split(project, config, order.most_rows)
    config = _short(config, held)
    base = serve_target(project, config.model, say=progress.say)
    with (
        tempfile.TemporaryDirectory(prefix="fledge-trial-") as folder,
        _knowledge(Path(folder), project, order, train, base, progress) as find,
    ):
        tuned, train_s = (
            _trained(Path(folder), project, config, train, progress) if TRAINED & set(order.arms) else (base, 0.0)
        )
        told: list[tuple[Tried, Evaluation]] = []
        for arm in order.arms:
            served = tuned if arm in TRAINED else base
            prompts = [_prompt(arm, row, train, order, config, find) for row in held]
            count = partial(_count, progress, arm, len(held))
            evaluation = measure(served, held, config, prompts=prompts, on_done=count)
            told.append((_tried(arm, evaluation, served, prompts, config), evaluation))
    groups = [row.group for row in held]
    advice = advise([one for one, _ in told], partial(_difference, groups))
    return {
        "rows": len(held),
        "learnt": len(train),
        "train_s": train_s,
        "arms": [_told(one, evaluation, order, train_s) for one, evaluation in told],
        "advice": advice.words,
        "arm": advice.arm,
        "why": advice.why,
        "requests": order.requests,
        "hour_price": order.hour_price,
    }


def _count(progress: Progress, arm: str, total: int, done: int) -> None:
    progress.asked(arm, done, total)


def _difference(groups: Sequence[str | None], before: Sequence[bool], after: Sequence[bool]) -> Difference:
    found = compare(before, after, groups=groups)
    few = found.outcome is Outcome.TOO_FEW_ROWS
    return Difference(found.outcome is Outcome.BETTER, few, found.p_value)


def _short(config: Config, held: Sequence[Conversation]) -> Config:
    """Return the configuration with answers that end where no right one would go on."""
    longest = TOO_LONG * max(len(row.reply) for row in held) // TOKEN_CHARS
    most = min(config.generate.max_tokens, max(LEAST_TOKENS, longest))
    return config.model_copy(update={"generate": config.generate.model_copy(update={"max_tokens": most})})


def _split(project: Path, config: Config, most: int) -> tuple[list[Conversation], list[Conversation]]:
    """Return the rows to learn from and those to ask, at most so many of them."""
    rows = read_project(project, config)
    train, held = conversations_in(rows.train), conversations_in(rows.held_out)
    if len(held) < WANTED_ROWS and config.data.eval == "auto" and len(train) + len(held) >= 3 * WANTED_ROWS:
        # A tenth of few rows is too few to ask; here as many are wanted as tell something.
        whole = [*train, *held]
        train, held, _ = split_records(whole, share=WANTED_ROWS / len(whole), seed=config.train.seed)
    if len(held) < MIN_ROWS:
        raise DataError(
            "data.empty",
            f"{len(held)} rows are held out, and fewer than {MIN_ROWS} tell nothing.",
            where=", ".join(config.data.train_paths),
            remedy="Give more rows, or a file of rows to ask in data.eval.",
        )
    return train, random.Random(config.train.seed).sample(held, min(most, len(held)))


@contextmanager
def _knowledge(
    work: Path, project: Path, order: Order, train: Sequence[Conversation], base: Served, progress: Progress
) -> Iterator[Callable[[str], str]]:
    """Give a function from a question to what stands in the documents about it; the rows themselves where none are."""
    if not RETRIEVING & set(order.arms):
        yield str
        return
    folder = order.knowledge or project / KNOWLEDGE
    if not folder.is_dir():
        if order.knowledge is not None:
            raise DataError("data.not_found", "there is no such folder of documents.", where=str(folder))
        progress.say(f"no folder {KNOWLEDGE}/ here: what is retrieved from are the rows to learn from")
        folder = work / "rows"
        folder.mkdir()
        write_text_atomic(folder / "rows.jsonl", "".join(map(as_line, train)))
    with Index(work / "index.db") as index, Embedder(base.path) as embed:
        told = index.update(folder, embed=embed, embedder=base.path.name)
        for problem in told.unreadable:
            progress.say(f"warning: {problem}")
        yield lambda question: as_context(retrieve(index, question, count=CHUNKS, embed=embed))


def _prompt(
    arm: str,
    row: Conversation,
    train: Sequence[Conversation],
    order: Order,
    config: Config,
    find: Callable[[str], str],
) -> tuple[Message, ...]:
    """Return what is put to the model for a row. What was trained is asked as it was taught."""
    prompt = row.prompt
    if arm in ("prompt", "few_shot", "rag") and order.prompt is not None and prompt[0].role != "system":
        prompt = (Message("system", order.prompt), *prompt)
    if arm == "few_shot":
        shown = random.Random(config.train.seed).sample(train, min(EXAMPLES, len(train)))
        turns = [message for one in shown for message in one.messages if message.role != "system"]
        head = prompt[:1] if prompt[0].role == "system" else ()
        return (*head, *turns, *prompt[len(head) :])
    if arm in RETRIEVING:
        last = prompt[-1]
        asked = ASKED.format(context=find(last.content), question=last.content)
        return (*prompt[:-1], replace(last, content=asked))
    return prompt


def _trained(
    work: Path, project: Path, config: Config, train: Sequence[Conversation], progress: Progress
) -> tuple[Served, float]:
    """Train on the rows in a folder of its own; return the base with the adapter, and how long it took."""
    from fledge.recipes.ship import export, open_run
    from fledge.recipes.tune import tune

    folder = work / "project"
    folder.mkdir()
    write_text_atomic(folder / "train.jsonl", "".join(map(as_line, train)))
    data = config.data.model_copy(update={"train": "train.jsonl", "eval": "auto", "format": "auto", "columns": {}})
    # What stands in the project is named from there.
    model = project / config.model
    name = str(model.resolve()) if model.exists() else config.model
    own = config.model_copy(update={"model": name, "data": DataConfig(**data.model_dump())})
    progress.say(f"training on {len(train)} rows")
    summary = progress.train(folder, own) if progress.train is not None else tune(folder, own)
    run = find_run(folder, summary["run"])
    export(
        open_run(folder, run), types=["q8_0"] if config.method != "qlora" else [], with_adapter=config.method == "qlora"
    )
    return serve_target(folder, run.path.name), float(summary["seconds"])


def _tried(
    arm: str, evaluation: Evaluation, served: Served, prompts: Sequence[Sequence[Message]], config: Config
) -> Tried:
    """Return the arm's figures; some rows are asked again, alone, to see how long one waits."""
    sampling, some = sampling_of(config), prompts[:TIMED]
    seconds, read = [], []
    with Llama(served.path, adapter=served.adapter, context_tokens=room_for(some, config), reuse_prompt=False) as llama:
        for prompt in some:
            started = time.perf_counter()
            reply = llama.chat(prompt, sampling=sampling)
            seconds.append(time.perf_counter() - started)
            read.append(reply.prompt_tokens)
    written = statistics.fmean(row.tokens for row in evaluation.rows)
    right = tuple(row.correct for row in evaluation.rows)
    return Tried(arm, right, statistics.median(seconds), statistics.fmean(read) + written)


def _told(one: Tried, evaluation: Evaluation, order: Order, train_s: float) -> dict[str, Any]:
    hours = order.requests * one.seconds / 3600
    return {
        "arm": one.arm,
        "accuracy": one.accuracy,
        "interval": list(evaluation.interval),
        "template_adherence": evaluation.template_adherence,
        "seconds": one.seconds,
        "tokens": one.tokens,
        # A machine that is busy for more than a month has to be had more than once.
        "machines": max(1, -(-hours // HOURS_A_MONTH)),
        "cost": hours * order.hour_price,
        "train_cost": train_s / 3600 * order.hour_price if one.arm.startswith("tuned") else 0.0,
    }
