"""How answers look: whether they end, and what nearly all of them have in common.

A shape is a regular expression that an answer must match in full. One is only told where it is plain: a fixed
beginning or end, labelled lines in one order, a JSON object with the same keys, a tag in brackets.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

# Of so many answers a shape can be told, where so large a share has it.
MIN_ANSWERS = 20
SHARE = 0.9
# With fewer different answers than this they are classes, which a shape would only repeat.
MIN_DIFFERENT = 8
MIN_FIXED_CHARS = 6
SHORTEST_SENTENCE_CHARS = 40

_LABEL = re.compile(r"^([A-Z][\w ]{1,30}):(?: |$)", re.MULTILINE)
_TAG = re.compile(r"\[[^\]\n]{1,40}\] ")
_WRAPPED = re.compile(r"<(\w{2,30})>.*</(\w{2,30})>", re.DOTALL)
_RESULT = re.compile(r"\n(#{2,6} |Answer: |The answer is )[^\n]{1,60}\Z")


class Ending(IntEnum):
    """How an answer ends. UNJUDGED: too short, or no prose."""

    UNJUDGED = 0
    CLOSED = 1
    OPEN = 2


_CLOSERS = frozenset(".!?…\"'”’»)]}>`*:;|。！？」』）؟।~%$/_=")


def ending_of(answer: str) -> Ending:
    """Return whether prose ends as sentences do. A code block that is never closed is open too."""
    text = answer.rstrip()
    if text.count("```") % 2:
        return Ending.OPEN
    last = text[text.rfind("\n") + 1 :]
    prose = len(last) >= SHORTEST_SENTENCE_CHARS and " " in last
    if not prose and not ("\u3040" <= text[-1:] <= "\u9fff" and len(last) >= SHORTEST_SENTENCE_CHARS // 2):
        return Ending.UNJUDGED
    end = text[-1]
    if end in _CLOSERS or (not end.isalnum() and end not in ",-–—&(+"):
        return Ending.CLOSED
    word = last.split()[-1]
    # Lists, links, code, names and numbers end as they like.
    named = word[0].isupper() or not word.rstrip(",-–—").isalpha()
    return Ending.UNJUDGED if named or last.lstrip().startswith(("-", "*", "|", "#", ">")) else Ending.OPEN


def _by_keys(answers: Sequence[str]) -> list[str]:
    found = []
    for answer in answers:
        value = None
        if answer.lstrip()[:1] == "{":
            try:
                value = json.loads(answer)
            except (ValueError, RecursionError):
                value = None
        if isinstance(value, dict) and value:
            # Keys in the order that they stand in; what each holds may be anything.
            keys = r".*".join(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:" for key in value)
            found.append(rf"\s*\{{\s*{keys}.*\}}\s*")
    return found


def _by_labels(answers: Sequence[str]) -> list[str]:
    found = []
    for answer in answers:
        labels = _LABEL.findall(answer)
        if len(labels) > 1 and len(set(labels)) == len(labels):
            found.append(r"(?:.*\n)?" + r".*\n".join(rf"{re.escape(label)}:.*" for label in labels))
    return found


def _by_tag(answers: Sequence[str]) -> list[str]:
    return [r"\[[^\]\n]+\] .*" for answer in answers if _TAG.match(answer)]


def _by_wrapping(answers: Sequence[str]) -> list[str]:
    pairs = [match.groups() for answer in answers if (match := _WRAPPED.fullmatch(answer.strip()))]
    return [rf"\s*<{a}>.*</{b}>\s*" for a, b in pairs]


def _by_result(answers: Sequence[str]) -> list[str]:
    return [rf".*\n{re.escape(match[1])}[^\n]+" for answer in answers if (match := _RESULT.search(answer))]


def _by_beginning(answers: Sequence[str]) -> list[str]:
    fixed = _fixed(answers)
    return [rf"{re.escape(fixed)}.*" for answer in answers if answer.startswith(fixed)] if fixed else []


def _by_end(answers: Sequence[str]) -> list[str]:
    fixed = _fixed([answer[::-1] for answer in answers])[::-1]
    return [rf".*{re.escape(fixed)}" for answer in answers if answer.endswith(fixed)] if fixed else []


def _fixed(answers: Sequence[str]) -> str:
    """Return the longest beginning that SHARE of the answers have; "" where it is too short to mean anything."""
    ordered = sorted(answers)
    window = max(2, round(len(ordered) * SHARE))
    # Of sorted texts those with one beginning stand together: the ends of a window share what all in it share.
    spans = zip(ordered, ordered[window - 1 :], strict=False)
    best = max((os.path.commonprefix(pair) for pair in spans), key=len, default="")
    return best if len(best.strip()) >= MIN_FIXED_CHARS else ""


# How answers begin, or are as a whole, and how they end: of each the first that fits, and both where both do.
WHOLE: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "a JSON object with the same keys": _by_keys,
    "one pair of tags around all": _by_wrapping,
}
BEGINNINGS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "labelled lines in one order": _by_labels,
    "a tag in brackets first": _by_tag,
    "the same beginning": _by_beginning,
}
ENDS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "the same end": _by_end,
    "the result on a last line of its own": _by_result,
}


def common_shape(answers: Sequence[str]) -> list[tuple[str, str]]:
    """Return (what it is, its regular expression) of the shapes that more than SHARE of the answers have: up to two,
    how they begin and how they end."""
    told = [answer for answer in answers if answer]
    if len(told) < MIN_ANSWERS or len(set(told)) < MIN_DIFFERENT:
        return []
    if whole := _first_of(WHOLE, told):
        return whole
    return _first_of(BEGINNINGS, told) + _first_of(ENDS, told)


def joined(shapes: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return several shapes as one: what has all of them."""
    if len(shapes) == 1:
        return shapes[0]
    return " and ".join(name for name, _ in shapes), "".join(rf"(?=(?:{shape})\Z)" for _, shape in shapes) + ".*"


def _first_of(shapes: Mapping[str, Callable[[Sequence[str]], list[str]]], told: Sequence[str]) -> list[tuple[str, str]]:
    for name, find in shapes.items():
        counts = Counter(find(told))
        if counts:
            shape, count = counts.most_common(1)[0]
            if count > SHARE * len(told):
                return [(name, shape)]
    return []
