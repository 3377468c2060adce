"""A reward and a project's rows to what the reward is good for: `fledge reward try`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fledge.config import Config
from fledge.data.checks.language import NAMES, language_of
from fledge.data.formats import as_conversation, open_records
from fledge.data.mix import with_system
from fledge.data.sources import files_in
from fledge.errors import DataError, Finding
from fledge.evaluation.scorers import SCORERS, Template
from fledge.recipes.prepare import inside
from fledge.recipes.target import serve_target
from fledge.records import Conversation, Message, Problem, Record
from fledge.rewards.builtin import TESTS, Handed, known
from fledge.rewards.by_model import Worths
from fledge.rewards.file import RewardFile
from fledge.rewards.record import Reward, Sample, weights_for
from fledge.rewards.trial import Figures, Trial, try_rewards
from fledge.runtime.llama import Llama, Sampling

# So many replies to one prompt make a group.
GROUP = 4
PARALLEL = 8
# Around a prompt the chat template writes so much at most, in tokens.
TEMPLATE_TOKENS = 256
# More rows would say no more about a reward.
MAX_ROWS = 64

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """samples: how many of the model's own replies are judged, in groups of four to a prompt; 0 for none."""

    data: Path | None = None
    samples: int = 32
    weights: tuple[float, ...] = ()


def handed(config: Config, project: Path = Path()) -> Handed:
    """Return what rewards take from the scorers of evaluation, the checks of data and the runs of a project."""
    template = None if config.evaluate.template is None else Template(config.evaluate.template)
    return Handed(
        scorers={name: partial(_scored, name) for name in ("number", "exact", "contains")},
        template=None
        if template is None
        else lambda prompt, reply, answer: template.adheres(reply, _row(prompt, answer)),
        language_of=language_of,
        languages=frozenset(NAMES),
        judge=partial(_judge, project),
    )


def _judge(project: Path, run: str) -> Worths:
    # Needs torch, which other rewards do without.
    from fledge.recipes.judge import judge_named

    return judge_named(project, run).worth


def _scored(name: str, prompt: str, reply: str, answer: str) -> bool:
    return SCORERS[name](reply, _row(prompt, answer))


def _row(prompt: str, answer: str) -> Conversation:
    return Conversation((Message("user", prompt),), "", answer)


@contextmanager
def open_rewards(
    specs: Sequence[str], config: Config, *, project: Path, say: Say = lambda _: None
) -> Iterator[list[Reward]]:
    """Yield the rewards that `specs` name: Python files, or names of fledge's own. Files run until the block ends.

    Raises ConfigError for a name that is not known, RewardError for a file that can't be used, RunError for such a run.
    """
    rewards: list[Reward] = []
    files: list[RewardFile] = []
    try:
        for spec in specs:
            if spec.endswith(".py"):
                files.append(RewardFile(inside(project, Path(spec)), say=say))
                rewards += files[-1].rewards
            else:
                rewards.append(known(spec, handed(config, project)))
        yield rewards
    finally:
        for file in files:
            file.close()


def try_on_project(
    specs: Sequence[str],
    config: Config,
    options: Options,
    *,
    project: Path,
    say: Say = lambda _: None,
    progress: Progress = lambda what, done, total: None,
) -> Trial:
    """Return how the rewards judge the rows' answers, bad answers, and what the project's model says by itself.

    Raises what `open_rewards` raises, DataError where there is nothing to judge, and what a missing model raises.
    """
    with open_rewards(specs, config, project=project, say=say) as rewards:
        weights = weights_for(rewards, options.weights)
        rows = _rows(config, options.data, project=project, tests=any(each.name == TESTS for each in rewards))
        good = good_samples(rows)
        if not good and not options.samples:
            raise DataError("data.empty", "no row has an answer of its own, and the model is not to be asked.",
                            remedy="Give rows with answers, or leave --no-samples out.")  # fmt: skip
        groups = _sampled(rows, config, options.samples, project=project, say=say, progress=progress)
        judged = partial(progress, "judging replies")
        return try_rewards(rewards, weights, good=good, bad=bad_samples(good), groups=groups, progress=judged)


def _rows(config: Config, data: Path | None, *, project: Path, tests: bool) -> list[Conversation]:
    """Return the first rows that ask something; a bare prompt has no reply, and none where its answer is `tests`."""
    given = [inside(project, data)] if data is not None else [project / path for path in config.data.train_paths]
    records = (record for place in given for file in files_in(place) for record in _records(file, config))
    rows: list[Conversation] = []
    findings: list[Finding] = []
    for record in records:
        if isinstance(record, Finding):
            findings.append(record)
        elif isinstance(record, Problem) and (tests or not record.answer):
            rows.append(Conversation(record.prompt, record.origin, record.answer or None))
        elif (row := as_conversation(record)) is not None:
            rows.append(row)
        if len(rows) == MAX_ROWS:
            break
    if findings:
        raise DataError.from_findings(findings)
    if not rows:
        where = ", ".join(str(path) for path in given)
        raise DataError(
            "data.empty", "no row asks anything.", where=where, remedy="Name rows with prompts: --data PATH."
        )
    return [row for row in with_system(rows, config.data.system) if isinstance(row, Conversation)]


def _records(file: Path, config: Config) -> Iterator[Record | Finding]:
    _, reading = open_records(file, config.data)
    yield from reading.records


def good_samples(rows: Sequence[Conversation]) -> list[Sample]:
    """Return the rows' own answers as replies."""
    return [_sample(row, row.reply, "the row's own answer") for row in rows if row.reply.strip()]


def bad_samples(good: Sequence[Sample]) -> list[Sample]:
    """Return bad replies for each good one: nothing, its first half, another row's answer where one differs."""
    bad: list[Sample] = []
    for place, sample in enumerate(good):
        others = (good[(place + step) % len(good)] for step in range(1, len(good)))
        other = next((each for each in others if each.reply != sample.reply and each.answer != sample.answer), None)
        replies = {"an empty answer": ""}
        if half := sample.reply[: len(sample.reply) // 2]:
            replies["half of the answer"] = half
        if other is not None:
            replies["the answer of another row"] = other.reply
        bad += (replace(sample, reply=reply, what=what) for what, reply in replies.items())
    return bad


def _sample(row: Conversation, reply: str, what: str) -> Sample:
    asked = next((message.content for message in reversed(row.prompt) if message.role == "user"), "")
    return Sample(asked, reply, row.reply if row.answer is None else row.answer, row.origin, what, row.prompt)


def _sampled(
    rows: Sequence[Conversation], config: Config, samples: int, *, project: Path, say: Say, progress: Progress
) -> list[list[Sample]]:
    """Return what the project's model says to the first prompts at temperature 1, four times each."""
    by_prompt = {row.prompt: row for row in rows}
    asked = list(by_prompt.values())[: samples // GROUP]
    if not asked:
        return []
    served = serve_target(project, config.model, say=say)
    longest = max(sum(len(message.content.encode()) for message in row.prompt) for row in asked)
    room = min(config.train.max_tokens, longest + TEMPLATE_TOKENS) + config.generate.max_tokens
    groups: list[list[Sample]] = [[] for _ in asked]
    with Llama(served.path, adapter=served.adapter, parallel=PARALLEL, context_tokens=room) as llama:
        for turn in range(GROUP):
            # A seed of its own for each turn; otherwise the four replies would be one.
            sampling = Sampling(
                temperature=1.0,
                max_tokens=config.generate.max_tokens,
                stop=tuple(config.generate.stop),
                seed=config.train.seed + turn,
            )
            prompts = [row.prompt for row in asked]

            def on_done(done: int, turn: int = turn) -> None:
                progress(f"asking {served.label}", turn * len(asked) + done, GROUP * len(asked))

            for group, row, reply in zip(
                groups, asked, llama.ask_all(prompts, sampling=sampling, on_done=on_done), strict=True
            ):
                group.append(_sample(row, reply.text, f"a sample of {served.label}"))
    return groups


def as_json(trial: Trial) -> dict[str, Any]:
    """Return the one JSON object of `fledge reward try`."""
    return {
        "rewards": [_told(figures) for figures in trial.rewards],
        "total": _told(trial.total),
        "verdict": trial.verdict.value,
        "why": trial.why,
        "notes": list(trial.notes),
    }


def _told(figures: Figures) -> dict[str, Any]:
    names = ("name", "good", "bad", "samples", "spread", "flat_groups")
    errors = [error.as_dict() for error in figures.errors]
    return {name: getattr(figures, name) for name in names} | {"errors": errors}
