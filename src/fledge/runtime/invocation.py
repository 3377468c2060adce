"""An adapter that acts only from some tokens on (aLoRA): how its file says so, and where that is in a text."""

from __future__ import annotations

from collections.abc import Sequence

# under which an adapter file holds the tokens from which on it acts
KEY = "adapter.alora.invocation_tokens"


def begins_at(ids: Sequence[int], invocation: Sequence[int]) -> int | None:
    """Return where `invocation` stands in `ids` for the last time, or None; nothing to look for stands at 0."""
    if not invocation:
        return 0
    length, wanted = len(invocation), list(invocation)
    return next((i for i in range(len(ids) - length, -1, -1) if list(ids[i : i + length]) == wanted), None)
