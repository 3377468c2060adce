"""A run of objective reward, opened: what it thinks of answers, as a reward of others and by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from fledge.config import Config
from fledge.data.ends import read_at_end
from fledge.data.formats import as_conversation, open_records
from fledge.data.mix import with_system
from fledge.data.sources import files_in
from fledge.data.template import ChatTemplate
from fledge.data.wanted import sides
from fledge.errors import DataError, Finding, RunError
from fledge.evaluation.proportion import Interval, share_of
from fledge.model.hardware import DTYPES
from fledge.model.load import load_model, plain_reason
from fledge.model.lora import settings_of
from fledge.model.tokenizer import load_tokenizer
from fledge.objective.scored import Scored
from fledge.project import RunFolder, find_run, list_runs, read_json, staged_file
from fledge.recipes.prepare import inside
from fledge.recipes.ship import open_run
from fledge.records import Conversation, Example, Judged, Learnt, Message, Preference, Record
from fledge.rewards.record import Sample
from fledge.training.score import of_sequences

Progress = Callable[[int, int], None]
JUDGING, LATEST = "reward", "latest"


class Judge:
    """What a finished run of objective reward gives for answers: any number, higher for what people would prefer.

    Raises RunError for a run that is not finished and for one that was taught something else.
    """

    def __init__(self, project: Path, run: RunFolder) -> None:
        finished = open_run(project, run)
        self.name, self.config = run.path.name, finished.config
        adapter = finished.adapter
        if adapter is None or adapter.score is None:
            raise RunError(
                "run.not_found",
                f"it was taught {self.config.objective} and scores nothing.",
                where=self.name,
                remedy=f"Name a run of objective: {JUDGING}.",
            )
        # Its prompts say the date they said when it was trained.
        today = yaml.safe_load(run.knobs.read_text(encoding="utf-8")).get("date")
        self._template = ChatTemplate(load_tokenizer(finished.weights), today=today)
        train, weights = self.config.train, finished.weights
        assert train.dtype != "auto"
        self._model = load_model(
            weights,
            dtype=DTYPES[train.dtype],
            plain=plain_reason(weights, dora=train.dora),
            stay=self.config.method == "qlora",
        )
        self._model.add_adapter(settings_of(adapter), seed=0)
        self._model.load_adapter(adapter)

    def scores(self, rows: Sequence[Conversation], *, done: Callable[[int], None] = lambda _: None) -> list[float]:
        """Return what each conversation's last answer is worth, prompts that they share computed once.

        Raises DataError with every row that is longer than the model's context, or that its template refuses.
        """
        size = self.config.train.tokens_per_piece
        assert size != "auto"
        examples = [self._example(row) for row in with_system(rows, self.config.data.system)]
        limit = self._model.shape.context_tokens
        if findings := [_too_long(example, limit) for example in examples if len(example.ids) - 1 > limit]:
            raise DataError.from_findings(findings)
        return of_sequences(self._model, examples, Scored.last_values_S, tokens_per_piece=size, done=done)

    def _example(self, row: Conversation) -> Example:
        read = (replace(message, taught=False) for message in row.prompt)
        said = replace(row, messages=(*read, replace(row.messages[-1], taught=True)))
        return read_at_end(self._template.examples(said, taught="last")[-1])

    def worth(self, samples: Sequence[Sample]) -> list[float]:
        """Return what the replies of some samples are worth. Raises DataError as `scores` does."""
        return self.scores([_said(sample) for sample in samples])


def _too_long(example: Example, limit: int) -> Finding:
    what = f"it has {len(example.ids) - 1} tokens with its prompt; the model's context holds {limit}."
    return Finding("data.too_long", example.origin or "an answer", what, "Shorten it.")


def _said(sample: Sample) -> Conversation:
    prompt = sample.messages or (Message("user", sample.prompt),)
    return Conversation((*prompt, Message("assistant", sample.reply)), sample.origin)


def judge_named(project: Path, spec: str) -> Judge:
    """Return the judge that a run's number, name or folder means; `latest` is the newest that scores answers.

    Raises RunError as `Judge` does, and where none is found.
    """
    return Judge(project, newest_judge(project) if spec == LATEST else find_run(project, spec))


def newest_judge(project: Path) -> RunFolder:
    """Return the newest finished run that scores answers. Raises RunError where there is none."""
    # A run that learns from it is newer, and is no judge.
    finished = [run for run in reversed(list_runs(project)) if run.finished]
    for run in finished:
        if read_json(run.manifest)["summary"]["objective"] == JUDGING:
            return run
    raise RunError(
        "run.not_found",
        "no finished run scores answers.",
        where=str(project / "runs"),
        remedy=f"Train one with objective: {JUDGING}.",
    )


@dataclass(frozen=True)
class Scores:
    """What the answers of some rows are worth: a number for each, of a pair two, that of the better answer first."""

    rows: tuple[Learnt, ...]
    values: tuple[tuple[float, ...], ...]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(chosen, rejected) of each pair."""
        return [(own[0], own[1]) for own in self.values if len(own) == 2]

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what is told of each row."""
        for row, own in zip(self.rows, self.values, strict=True):
            told: dict[str, Any] = {"origin": row.origin}
            if isinstance(row, Preference):
                yield told | {"chosen": own[0], "rejected": own[1]}
            else:
                yield told | {"score": own[0]} | ({"good": row.good} if isinstance(row, Judged) else {})

    def won(self) -> tuple[float, Interval] | None:
        """Return how often the better answer gets the higher number, a tie counting half, and how sure that is."""
        if not self.pairs:
            return None
        wins = [0.5 * (1 + (a > b) - (a < b)) for a, b in self.pairs]
        return share_of(wins, [row.group for row in self.rows if isinstance(row, Preference)])


def score_file(
    judge: Judge, path: Path, config: Config, *, project: Path, progress: Progress = lambda done, total: None
) -> Scores:
    """Return what `judge` gives for every answer in a file or folder, both of each pair.

    Raises DataError with every faulty row, and where there is no answer to score.
    """
    place = inside(project, path)
    records = [record for file in files_in(place) for record in open_records(file, config.data)[1].records]
    if findings := [record for record in records if isinstance(record, Finding)]:
        raise DataError.from_findings(findings)
    rows = [row for record in records if (row := _answered(record)) is not None]
    if not rows:
        raise DataError(
            "data.empty", "no row has an answer to score.", where=str(place), remedy="Give answers, or pairs of them."
        )
    said = [[side for side in sides(row) if isinstance(side, Conversation)] for row in rows]
    flat = [side for each in said for side in each]
    values = iter(judge.scores(flat, done=lambda done: progress(done, len(flat))))
    return Scores(tuple(rows), tuple(tuple(next(values) for _ in each) for each in said))


def _answered(record: Record | Finding) -> Learnt | None:
    """Return the row as it is scored; None where it says nothing that could be."""
    return record if isinstance(record, Preference | Judged) else _conversation(record)


def _conversation(record: Record | Finding) -> Conversation | None:
    found = None if isinstance(record, Finding) else as_conversation(record)
    return found if found is not None and found.messages[-1].role == "assistant" else None


def write_scores(scores: Scores, out: Path) -> None:
    """Write one JSON object a row to `out`, all or nothing. Raises DiskError (no room, no permission)."""
    with staged_file(out) as file:
        file.writelines(json.dumps(line) + "\n" for line in scores.lines())


def as_json(judge: Judge, scores: Scores, path: Path, out: Path) -> dict[str, Any]:
    """Return the one JSON object of `fledge reward score`."""
    won = scores.won()
    return {
        "run": judge.name,
        "file": str(path),
        "rows": len(scores.rows),
        "pairs": len(scores.pairs),
        "accuracy": None if won is None else won[0],
        "interval": None if won is None else list(won[1]),
        "margin": None if won is None else fmean(a - b for a, b in scores.pairs),
        "mean": fmean(value for own in scores.values for value in own),
        "rows_file": str(out),
    }
