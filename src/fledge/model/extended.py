"""A model with tokens of one's own: its embedding and its head with rows for them, its vocabulary with their texts.

Ids go behind the tokenizer's own: into rows that the embedding has and no token uses, and beyond them it grows. A row
begins as the mean of the rows of the pieces that the text was made of before, in which the model knows it already.

Shapes: V vocabulary, D width, A added tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fledge.data.tokenizer import Place, Tokenizer
from fledge.errors import ConfigError, ModelError
from fledge.model.adapter import Adapter
from fledge.model.names import ARCHITECTURES
from fledge.model.tokenizer import first_free_id, load_tokenizer
from fledge.model.weights import OtherWeights, Weights

WHERE = "data.add_tokens"


class Extended(Weights):
    """The weights of `base` with `rows` [A, D] for the tokens of `added`, whose ids follow each other."""

    def __init__(self, base: Weights, added: Mapping[str, int], rows: Mapping[str, NDArray[np.float32]]) -> None:
        self._base, self._added, self.rows = base, dict(added), dict(rows)
        self.path, self.weights, self.kind = base.path, base.weights, base.kind
        self.ids = range(min(added.values()), max(added.values()) + 1)
        assert len(self.ids) == len(added), "added tokens follow each other"
        self.shape = replace(base.shape, vocab_size=max(base.shape.vocab_size, self.ids.stop))

    @property
    def origin(self) -> Weights:
        return self._base.origin

    @property
    def added(self) -> Mapping[str, int]:
        return self._added

    @property
    def learnt_bytes(self) -> int:
        """What learning the rows takes: how they began, masters, gradients and two moments, float32."""
        return 5 * sum(rows.nbytes for rows in self.rows.values())

    def is_stored(self, name: str) -> bool:
        return name not in self.rows and self._base.is_stored(name)

    def read(self, name: str) -> NDArray[np.float32]:
        return self.read_rows(name, 0, self.shape.vocab_size) if name in self.rows else self._base.read(name)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        if name not in self.rows:
            return self._base.read_rows(name, start, stop)
        stop, own = min(stop, self.shape.vocab_size), self._base.shape.vocab_size
        found = np.zeros((max(0, stop - start), self.shape.width), dtype=np.float32)
        if start < min(stop, own):
            found[: min(stop, own) - start] = self._base.read_rows(name, start, min(stop, own))
        first, last = max(start, self.ids.start), min(stop, self.ids.stop)
        if first < last:
            found[first - start : last - start] = self.rows[name][first - self.ids.start : last - self.ids.start]
        return found

    def with_rows(self, adapter: Adapter, *, where: str) -> Extended:
        """Return the same with the rows that a run has learnt. Raises ModelError where they are missing or others."""
        problem = ""
        if not adapter.token_rows:
            problem = f"it holds no rows for the added tokens {_few(self._added)}: they were added, but not saved"
        elif adapter.token_ids != tuple(self.ids) or set(adapter.token_rows) != set(self.rows):
            problem = f"its rows are of tokens {_ids(adapter.token_ids)}, not of {_ids(self.ids)} ({_few(self._added)})"
        elif any(rows.shape != self.rows[name].shape for name, rows in adapter.token_rows.items()):
            problem = f"the rows of its added tokens do not have the base's width of {self.shape.width}"
        if problem:
            raise ModelError(
                "model.bad_adapter", f"cannot be used: {problem}.", where=where, remedy="Train the run again."
            )
        return Extended(self._base, self._added, adapter.token_rows)


def extend(weights: Weights, texts: Sequence[str]) -> Weights:
    """Return the model with a token for each of `texts`; itself where there are none.

    Raises ConfigError for a text that is a token already or is in the way of another one.
    """
    if not texts:
        return weights
    if isinstance(weights, OtherWeights):
        raise ConfigError(
            "config.bad_value",
            f"tokens are added on the fast path only, and {weights.why}.",
            where=WHERE,
            remedy="Leave them out, or choose another model.",
        )
    own = load_tokenizer(weights)
    _check(texts, own)
    first = first_free_id(weights, own)
    added = {text: first + number for number, text in enumerate(texts)}
    architecture = ARCHITECTURES[weights.shape.architecture]
    names = [architecture.embedding, *([] if weights.shape.tied else [architecture.head])]
    pieces = [own.encode(text, Place.INSIDE) for text in texts]
    return Extended(weights, added, {name: np.stack([_mean(weights, name, ids) for ids in pieces]) for name in names})


def _mean(weights: Weights, name: str, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the mean of some rows; of all, where a text was made of nothing that the model knows."""
    rows = np.concatenate([weights.read_rows(name, i, i + 1) for i in ids]) if ids else weights.read(name)
    mean: NDArray[np.float32] = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _check(texts: Sequence[str], own: Tokenizer) -> None:
    """Raise one ConfigError with all texts that can be no tokens of their own beside those that there are."""
    problems = [f"{_shown(text)} is a token of the model already; leave it out" for text in texts if _known(text, own)]
    theirs = [token.content for token in own.backend.get_added_tokens_decoder().values()]
    # Where two overlap, programs differ in which of them they find first.
    problems += [
        f"{_shown(first)} and {_shown(second)} overlap: it would hang on the program which of them is found; rename one"
        for first, second in _pairs(texts, [*theirs, *own.added])
        if _overlap(first, second)
    ]
    problems += [
        f"{_shown(text)} is part of the model's token {_shown(longer)}; choose another text"
        for text in texts
        for longer in (*theirs, *own.added)
        if text in longer and text != longer
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        told = "; ".join(problems[:3])
        raise ConfigError("config.bad_value", f"{told}{more}.", where=WHERE, remedy="For example: [<cv>, <skill>]")


def _known(text: str, own: Tokenizer) -> bool:
    if text in own.control or text in own.added:
        return True
    ids = own.encode(text, Place.INSIDE)
    return len(ids) == 1 and own.decode(ids) == text


def _pairs(texts: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts):
        yield from ((text, other) for other in (*texts[number + 1 :], *theirs))


def _overlap(first: str, second: str) -> bool:
    """Whether the end of one is the beginning of the other, and none is part of the other."""
    if first in second or second in first:
        return False
    shorter = min(len(first), len(second))
    return any(first.endswith(second[:n]) or second.endswith(first[:n]) for n in range(1, shorter))


def _shown(text: str) -> str:
    return f"'{text if len(text) <= 40 else text[:39] + '…'}'"


def _few(texts: Mapping[str, int]) -> str:
    shown = [_shown(text) for text in texts]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _ids(ids: Sequence[int]) -> str:
    return f"{min(ids)} to {max(ids)}" if ids else "none"
