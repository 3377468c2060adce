"""The rows that advice reckons with: the project's own, or as many as are asked for, of one length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.config import FILE_NAME, Config, TrainConfig
from fledge.config_file import load_config
from fledge.data.template import ChatTemplate
from fledge.errors import DataError, ModelError
from fledge.model.pull import on_this_machine
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.recipes.prepare import read_project, teach
from fledge.records import Example

# What is assumed where there are no rows to look at.
ROWS, ROW_TOKENS, TAUGHT = 300, 256, 0.5
# Fewer than any vocabulary has.
TOKENS = 30_000


@dataclass(frozen=True)
class RowsToLearn:
    """Rows to reckon with, in words what they are, and the knobs that the project sets."""

    examples: Sequence[Example]
    words: str
    train: TrainConfig | None = None

    @property
    def longest(self) -> int:
        return max(len(example.ids) for example in self.examples)


def rows_to_learn(project: Path, rows: int | None, tokens: int | None) -> RowsToLearn:
    """Return the project's rows where neither number is given and it has some that can be read, else such rows.

    Tokens are those of the project's own model; another has a vocabulary of its own and up to a third more or fewer.
    """
    why = ""
    if rows is None and tokens is None and (project / FILE_NAME).is_file():
        try:
            return _own(project, load_config(project))
        except (DataError, ModelError) as error:
            why = f" (those of the project are not counted: {error})"
    count, length = rows or ROWS, tokens or ROW_TOKENS
    return RowsToLearn(_random(count, length), f"{count} rows of {length} tokens that share nothing{why}")


def _own(project: Path, config: Config) -> RowsToLearn:
    path = on_this_machine(config.model, base_dir=project)
    if path is None:
        return RowsToLearn(
            _random(ROWS, ROW_TOKENS),
            f"{ROWS} rows of {ROW_TOKENS} tokens (the project's own once {config.model} is on this machine)",
        )
    weights = open_weights(path)
    rows = read_project(project, config)
    template = ChatTemplate(load_tokenizer(weights))
    lesson = teach(rows.train, template, config, context_tokens=weights.shape.context_tokens)
    examples = [Example([i % TOKENS for i in one.ids], one.weights, "") for one in lesson.examples]
    longest = max(len(one.ids) for one in examples)
    return RowsToLearn(examples, f"the project's {len(examples)} rows of up to {longest} tokens", config.train)


def _random(rows: int, tokens: int) -> list[Example]:
    numbers = random.Random(0)
    prompt = round(tokens * (1 - TAUGHT))
    weights = [0.0] * prompt + [1.0] * (tokens - prompt)
    return [Example(numbers.choices(range(TOKENS), k=tokens), weights, "") for _ in range(rows)]
