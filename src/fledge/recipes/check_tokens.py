"""How long rows are in tokens: all rows where they are few, else every n-th of them, and that is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fledge.data.checks.view import warning
from fledge.data.formats import as_conversation, read_records
from fledge.data.prose import text_examples
from fledge.data.template import ChatTemplate
from fledge.errors import DataError, Finding
from fledge.records import Row, Text

# So much of the files is tokenised; a sample of it tells totals to a percent.
SAMPLE_BYTES = 6 << 20
HISTOGRAM_BINS = 12


@dataclass(frozen=True)
class Lengths:
    """Token counts, estimated where `sampled` is less than `rows`; histograms as (from, to, rows of the sample)."""

    taught_tokens: int | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    sampled: int = 0
    estimated: bool = False
    too_long: int = 0
    prompts: list[dict[str, int]] = field(default_factory=list)
    answers: list[dict[str, int]] = field(default_factory=list)


def count_tokens(
    samples: Sequence[tuple[str, str]],
    template: ChatTemplate,
    *,
    limit: int,
    taught: Literal["all", "last"],
    rows: int,
    step: Callable[[int, int], None],
) -> tuple[Lengths, list[Finding]]:
    """Return how long the rows are, and the rows that are longer than `limit` or that the template refuses."""
    prompts: list[int] = []
    answers: list[int] = []
    longest = 0
    found: list[Finding] = []
    for done, (origin, line) in enumerate(samples, start=1):
        try:
            examples = _examples(origin, line, template, taught, limit)
        except DataError as error:
            found.append(Finding(error.code, error.where or origin, error.message, error.remedy))
            continue
        if not examples:
            continue
        size = max(len(example.ids) for example in examples)
        longest = max(longest, size)
        answers.append(sum(example.num_taught for example in examples))
        prompts.append(sum(len(example.ids) for example in examples) - answers[-1])
        if size > limit:
            message = f"is {size:,} tokens long, more than {limit:,}: it would be left out."
            found.append(
                warning("data.too_long", origin, message, "Raise train.max_tokens, or shorten or cut the row.")
            )
        step(done, len(samples))
    scale = rows / len(samples)
    return Lengths(
        round(sum(answers) * scale), round(sum(prompts) * scale), longest, len(samples), len(samples) < rows,
        sum(f.code == "data.too_long" for f in found), histogram(prompts), histogram(answers),
    ), found  # fmt: skip


def _examples(origin: str, line: str, template: ChatTemplate, taught: Literal["all", "last"], limit: int) -> list[Any]:
    reading = read_records([Row(json.loads(line), origin)])
    examples = []
    for record in reading.records:
        if isinstance(record, Text):
            examples += text_examples(record, template, limit=limit)
            continue
        conversation = None if isinstance(record, Finding) else as_conversation(record)
        if conversation is not None and conversation.messages[-1].role == "assistant":
            examples += template.examples(conversation, taught=taught)
    return examples


def histogram(values: Sequence[int]) -> list[dict[str, int]]:
    """Return how many values lie in each of a few equal ranges, as {from, to, rows}; `to` is the largest inside."""
    if not values:
        return []
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // HISTOGRAM_BINS))
    counts = [0] * -(-(high - low + 1) // width)
    for value in values:
        counts[(value - low) // width] += 1
    return [{"from": low + n * width, "to": low + (n + 1) * width - 1, "rows": count} for n, count in enumerate(counts)]
