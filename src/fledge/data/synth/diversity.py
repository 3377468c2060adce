"""How varied questions are.

distinct-2 is the number of different word pairs divided by all word pairs (Li, Galley, Brockett, Gao, Dolan 2016, "A
Diversity-Promoting Objective Function for Neural Conversation Models"). It falls as a corpus grows, so it is taken
over a sample of fixed size. The distance within a group is the mean over pairs of questions of one fact of 1 - |A &
B| / |A | B|, A and B their sets of word pairs (Jaccard; Broder 1997, "On the resemblance and containment of
documents").
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

from fledge.data.checks.view import plain

SAMPLED = 1000
MAX_PAIRS = 20_000


def distinct_2(questions: Sequence[str]) -> float:
    """Return the share of word pairs that are different ones, 0..1, over at most SAMPLED questions; 0 for none."""
    sample = random.Random(0).sample(list(questions), min(SAMPLED, len(questions)))
    pairs = [pair for question in sample for pair in _pairs(question)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def distance_within(groups: Sequence[Sequence[str]]) -> float:
    """Return the mean distance, 0..1, of two questions of one group; 0 where no group has two."""
    both = [pair for group in groups for pair in combinations(group, 2)]
    if len(both) > MAX_PAIRS:
        both = random.Random(0).sample(both, MAX_PAIRS)
    distances = []
    for one, other in both:
        a, b = set(_pairs(one)), set(_pairs(other))
        if a | b:
            distances.append(1 - len(a & b) / len(a | b))
    return sum(distances) / len(distances) if distances else 0.0


def _pairs(text: str) -> list[tuple[str, str]]:
    words = ["", *plain(text).split(), ""]
    return list(zip(words, words[1:], strict=False))
