"""Put held-out rows to a model through a function handed in, and count what comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fledge.errors import DataError
from fledge.evaluation.proportion import Interval, effective_rows, number_groups, wilson
from fledge.evaluation.scorers import SCORERS, Template, expected
from fledge.project import write_text_atomic
from fledge.records import Conversation, FinishReason, Message, Reply

Ask = Callable[[Sequence[Sequence[Message]]], list[Reply]]


@dataclass(frozen=True)
class RowResult:
    """One row and what became of it. `adheres` is None without a template; `tokens` counts the reply's.

    task: the source the row is from.
    """

    origin: str
    group: str | None
    prompt: tuple[Message, ...]
    expected: str
    reply: str
    correct: bool
    adheres: bool | None
    stopped: bool
    tokens: int
    task: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What a model answered to all rows. Shares are 0..1; `interval` is the 95 % interval of `accuracy`.

    `stopped` is the share of replies that the model ended by itself; `tokens_per_s` is generated tokens over wall time.
    """

    scorer: str
    accuracy: float
    interval: Interval
    template_adherence: float | None
    stopped: float
    tokens_per_s: float
    rows: tuple[RowResult, ...]


def evaluate(
    rows: Sequence[Conversation], ask: Ask, *, scorer: str | Mapping[str, str], template: Template | None = None
) -> Evaluation:
    """Ask every row once, in one call of `ask`, which keeps the order, and return the totals with every row's result.

    `scorer` is a name in SCORERS, or one for each task. The interval is Wilson's with the effective number of rows, so
    rows that share a `group` count for as much as they tell (`proportion`). A cluster bootstrap was tried in its place:
    it gives no width when all rows are right, and on 6 to 10 groups its 95 % intervals held the truth in 56 to 94 % of
    simulations.
    Raises DataError when there is no row, and whatever `ask` raises.
    """
    if not rows:
        raise DataError("data.empty", "no row to evaluate on.", remedy="Name a file with held-out rows: --data PATH.")
    start_s = time.perf_counter()
    replies = ask([row.prompt for row in rows])
    wall_s = time.perf_counter() - start_s
    scorers = {row.task: scorer if isinstance(scorer, str) else scorer[row.task] for row in rows}
    results = tuple(_judge(row, reply, scorers[row.task], template) for row, reply in zip(rows, replies, strict=True))

    correct_R = np.array([result.correct for result in results], dtype=np.float64)
    accuracy = float(correct_R.mean())
    return Evaluation(
        scorer=", ".join(dict.fromkeys(scorers.values())),
        accuracy=accuracy,
        interval=wilson(accuracy, effective_rows(correct_R, number_groups([row.group for row in rows]))),
        template_adherence=None if template is None else _share([bool(result.adheres) for result in results]),
        stopped=_share([result.stopped for result in results]),
        tokens_per_s=sum(result.tokens for result in results) / wall_s,
        rows=results,
    )


def write_rows(evaluation: Evaluation, path: Path) -> None:
    """Write one JSON object a row to `path`, all or nothing. Raises DiskError (no room, no permission)."""
    values = (asdict(row) | {"prompt": [message.as_openai() for message in row.prompt]} for row in evaluation.rows)
    lines = (json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    # Half a surrogate pair has no UTF-8; written with a backslash it is the JSON escape of the same character.
    text = "".join(lines).encode("utf-8", "backslashreplace").decode("utf-8")
    write_text_atomic(path, text)


def _judge(row: Conversation, reply: Reply, scorer: str, template: Template | None) -> RowResult:
    return RowResult(
        origin=row.origin,
        group=row.group,
        prompt=row.prompt,
        expected=expected(scorer, row),
        reply=reply.text,
        correct=SCORERS[scorer](reply.text, row),
        adheres=None if template is None else template.adheres(reply.text, row),
        stopped=reply.finish is FinishReason.STOP,
        tokens=reply.tokens,
        task=row.task,
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
