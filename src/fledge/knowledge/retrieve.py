"""What stands in the documents about a question: two rankings, by words and by meaning, joined into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fledge.knowledge.chunk import Chunk
from fledge.knowledge.index import Embed, Index

# Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods", 2009.
RANK_OFFSET = 60
# So many of each ranking are joined.
LOOKED_AT = 40


@dataclass(frozen=True)
class Found:
    """A chunk, and the places that it has in the rankings, from 1 on; 0 where it is not among them."""

    chunk: Chunk
    score: float
    by_words: int
    by_meaning: int


def fused(rankings: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """Return (number, score) of all that is ranked, best first: a score is the sum of 1 / (60 + rank) over rankings."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (RANK_OFFSET + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def retrieve(index: Index, question: str, *, count: int, embed: Embed | None = None) -> list[Found]:
    """Return the chunks that most likely hold the answer to a question, best first.

    embed: as the index was made with; by words alone without it.
    """
    words = index.by_words(question, count=LOOKED_AT)
    meaning = index.by_meaning(embed([question])[0], count=LOOKED_AT) if embed is not None else []
    found = []
    for number, score in fused((words, meaning))[:count]:
        places = [ranking.index(number) + 1 if number in ranking else 0 for ranking in (words, meaning)]
        found.append(Found(index.chunk(number), score, *places))
    return found


def as_context(found: Sequence[Found]) -> str:
    """Return chunks as they are put before a question: each with a number to cite it by and where it is from."""
    return "\n\n".join(f"[{number}] {one.chunk.place}\n{one.chunk.whole}" for number, one in enumerate(found, start=1))
