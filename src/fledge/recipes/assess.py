"""`fledge eval`: questions are asked, texts are read; one target, or two against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fledge.config import Config
from fledge.recipes.measure import Served, measure, report
from fledge.recipes.reading import read_texts, report_texts, texts_alone
from fledge.recipes.texts import conversations_in, texts_of
from fledge.records import Taught

Progress = Callable[[str, int, int], None]


def assess(
    sides: Sequence[Served],
    rows: Sequence[Taught],
    config: Config,
    *,
    project: Path,
    losses: Mapping[str, float] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Return what the contract says of `fledge eval`. Where there are texts, `texts` says how well they are foretold.

    The verdict is on the answers where there are questions, and on the texts where there are none.
    """
    asked, texts = conversations_in(rows), texts_of(rows)
    told: dict[str, Any] = {}
    if texts:
        read = read_texts(sides, texts, config, on_done=partial(progress, "reading texts"))
        told = report_texts(sides, read, project=project)
    if not asked:
        return texts_alone(sides, told)

    def asking(side: Served) -> Callable[[int], None]:
        return lambda done: progress(f"asking {side.label}", done, len(asked))

    evaluations = [measure(side, asked, config, on_done=asking(side)) for side in sides]
    result = report(sides, evaluations, project=project, losses=losses) | {"texts": told or None}
    return result | {"perplexity": told["perplexity"]} if told else result
