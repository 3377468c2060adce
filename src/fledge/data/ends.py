"""Answers that are judged as a whole: where a number is read from what a model has made of them."""

from __future__ import annotations

from dataclasses import replace

from fledge.records import Example


def read_at_end(example: Example) -> Example:
    """Return the example with one supervised place: behind its last taught token, of a conversation the end of a turn.

    What stands there predicts nothing and is read by nobody, so it is that token once more; what follows is left out.
    """
    end = max(i for i, weight in enumerate(example.weights) if weight > 0) + 1
    ids = [*example.ids[:end], example.ids[end - 1]]
    return replace(example, ids=ids, weights=[0.0] * end + [1.0])
