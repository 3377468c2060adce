"""Prompts with answers to other prompts: how likely they are found tells how far a model has moved as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fledge.records import Example


def mismatched(examples: Sequence[Example], *, limit: int) -> list[Example]:
    """Return each example's prompt with the answer of the next one that has another prompt.

    Where all prompts are the same it is the next one's. Answers are cut so that no example is longer than `limit`
    tokens; at least one of them remains.
    """
    starts = [_answer_at(example) for example in examples]
    found = []
    for i, example in enumerate(examples):
        prompt = example.ids[: starts[i]]
        others = [(i + step) % len(examples) for step in range(1, len(examples))]
        j = next((j for j in others if examples[j].ids[: starts[j]] != prompt), others[0] if others else i)
        room = max(1, limit - len(prompt))
        ids, weights = examples[j].ids[starts[j] :][:room], examples[j].weights[starts[j] :][:room]
        found.append(replace(example, ids=prompt + ids, weights=[0.0] * len(prompt) + weights))
    return found


def _answer_at(example: Example) -> int:
    """Return the place of the first taught token."""
    return next(i for i, weight in enumerate(example.weights) if weight > 0)
