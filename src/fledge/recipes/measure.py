"""Files -> verdict: held-out rows put to a GGUF file through llama.cpp, one file or two against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fledge.config import FILE_NAME, Config
from fledge.data.wanted import answers_of
from fledge.errors import DataError, writing
from fledge.evaluation.by_task import compare_by_task, figures_by_task, tasks_that_got_worse, words_on_tasks
from fledge.evaluation.scorers import Template, choose_scorer
from fledge.evaluation.tasks import Evaluation, evaluate, write_rows
from fledge.evaluation.verdict import Verdict, compare
from fledge.recipes.prepare import inside, read_project, read_taught
from fledge.records import Conversation, Message, Reply, Taught
from fledge.runtime.llama import Llama, Sampling

# Reading a weight once for eight answers is what makes a processor with two cores fast enough.
PARALLEL = 8
TEMPLATE_TOKENS = 256


@dataclass(frozen=True)
class Served:
    """A GGUF file that answers, with an adapter on top or not; `label` is what people call it."""

    label: str
    path: Path
    adapter: Path | None = None


def measure(
    served: Served,
    rows: Sequence[Conversation],
    config: Config,
    *,
    prompts: Sequence[Sequence[Message]] | None = None,
    on_done: Callable[[int], None] | None = None,
) -> Evaluation:
    """Return what `served` answers to `rows`, counted by evaluate.score and evaluate.template.

    Where the scorer is `auto`, each task gets the one that suits its rows. prompts: what is put to the model in place
    of the rows' own, which the answers are still held against.
    """
    asked = [row.prompt for row in rows] if prompts is None else prompts
    tasks: dict[str, list[Conversation]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    scorer = {task: choose_scorer(config.evaluate.score, own)[0] for task, own in tasks.items()}
    template = None if config.evaluate.template is None else Template(config.evaluate.template)
    sampling, room = sampling_of(config), room_for(asked, config)
    with Llama(served.path, adapter=served.adapter, parallel=PARALLEL, context_tokens=room) as llama:

        def ask(_: Sequence[Sequence[Message]]) -> list[Reply]:
            return llama.ask_all(asked, sampling=sampling, on_done=on_done)

        return evaluate(rows, ask, scorer=scorer, template=template)


def sampling_of(config: Config) -> Sampling:
    """Return how answers are sampled where they are measured."""
    return Sampling(
        temperature=config.generate.temperature,
        max_tokens=config.generate.max_tokens,
        stop=tuple(config.generate.stop),
        seed=config.train.seed,
    )


def room_for(prompts: Sequence[Sequence[Message]], config: Config) -> int:
    """Return the tokens of context that the longest prompt and its answer need; the key/value cache is paid in full."""
    # A token is at least one byte of text, so this is room enough.
    longest = max(sum(len(message.content.encode()) for message in prompt) for prompt in prompts)
    return min(config.train.max_tokens, longest + TEMPLATE_TOKENS) + config.generate.max_tokens


def versus(before: Evaluation, after: Evaluation) -> Verdict:
    """Return the paired verdict of two evaluations of the same rows: is `after` better?"""
    groups = [row.group for row in after.rows]
    return compare([row.correct for row in before.rows], [row.correct for row in after.rows], groups=groups)


def rows_to_ask(project: Path, config: Config, data: Path | None) -> list[Taught]:
    """Return the rows and texts of `data`, or those the project holds out. Raises DataError where there are none."""
    if data is not None:
        rows, _ = read_taught([inside(project, data)], config, project=project)
        return rows
    held_out = answers_of(read_project(project, config).held_out)
    if not held_out:
        raise DataError(
            "data.empty",
            "no rows are held out to ask.",
            where=str(project / FILE_NAME),
            remedy="Name a file of them: --data PATH, or data.eval in fledge.yaml.",
        )
    return held_out


def report(
    sides: Sequence[Served],
    evaluations: Sequence[Evaluation],
    *,
    project: Path,
    losses: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write every answer to a file and return what the contract says of `fledge eval`, one side or two.

    `losses` are the held-out losses of the tasks, where they are known.
    """
    served, evaluation = sides[0], evaluations[0]
    rows_file = answers_file(project, served.label)
    write_rows(evaluation, rows_file)
    # Perplexity is that of held-out texts (`reading`); forgetting needs questions of its own to be asked.
    verdicts = compare_by_task(evaluations[1], evaluation) if len(sides) > 1 else {}
    told: dict[str, Any] = _side(served, evaluation) | {
        "tasks": _tasks(evaluation, verdicts, losses or {}),
        "rows_file": str(rows_file),
        "against": None,
        "verdict": None,
        "p_value": None,
        "perplexity": None,
        "forgetting": None,
    }
    if len(sides) > 1:
        verdict = versus(evaluations[1], evaluation)
        told |= {
            "against": _side(sides[1], evaluations[1]),
            "verdict": verdict.outcome.value,
            "why": f"{verdict.why} {words_on_tasks(verdicts)}".strip(),
            "p_value": verdict.p_value,
            "difference": verdict.difference,
            "difference_interval": list(verdict.interval),
            "wins": verdict.wins,
            "losses": verdict.losses,
        }
    return told


def _tasks(
    evaluation: Evaluation, verdicts: Mapping[str, Verdict], losses: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return the figures of each task; with a verdict, also what was right before and how sure the difference is."""
    worse = tasks_that_got_worse(verdicts)
    told = []
    for figures in figures_by_task(evaluation):
        task = asdict(figures) | {"interval": list(figures.interval), "loss": losses.get(figures.task)}
        if verdict := verdicts.get(figures.task):
            task |= {
                "accuracy_before": figures.accuracy - verdict.difference,
                "verdict": verdict.outcome.value,
                "p_value": verdict.p_value,
                "worse": figures.task in worse,
            }
        told.append(task)
    return told


def answers_file(project: Path, label: str) -> Path:
    """Return the file for what a target answered; its folder is made."""
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in label)
    path = project.resolve() / "runs" / "answers" / f"{name}.jsonl"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _side(served: Served, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "target": served.label,
        "file": str(served.path),
        "rows": len(evaluation.rows),
        "scorer": evaluation.scorer,
        "accuracy": evaluation.accuracy,
        "interval": list(evaluation.interval),
        "template_adherence": evaluation.template_adherence,
        "stopped": evaluation.stopped,
        "tokens_per_s": evaluation.tokens_per_s,
    }
