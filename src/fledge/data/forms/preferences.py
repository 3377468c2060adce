"""Rows in which people preferred or ranked answers -> Preference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fledge.data import columns
from fledge.data.forms.conversations import asked_of, group_of, has_turns, prompt_of, row_tools, with_system
from fledge.data.forms.turns import FILL, RowFault, check_order, text_of, transcript, turns_of
from fledge.records import Message, Preference

Values = Mapping[str, Any]
Turns = tuple[Message, ...]


def is_preference(values: Values) -> bool:
    return columns.find(values, columns.CHOSEN) is not None and columns.find(values, columns.REJECTED) is not None


def from_preference(values: Values) -> list[Preference]:
    """A chosen and a rejected answer; the prompt in a column of its own, or what both begin with."""
    better, worse = columns.find(values, columns.CHOSEN), columns.find(values, columns.REJECTED)
    if better is None or worse is None:
        raise RowFault("no 'chosen' or no 'rejected'.", FILL)
    prompt = _explicit_prompt(values)
    chosen, rejected = (_continuation(values[key], key) for key in (better, worse))
    shared = _common(chosen, rejected)
    if prompt and chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:
        # The prompt stands in its own column and once more in front of both answers.
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    elif not prompt:
        prompt, chosen, rejected = with_system(values, chosen[:shared]), chosen[shared:], rejected[shared:]
    return [preference(values, prompt, chosen, rejected)]


def preference(values: Values, prompt: Turns, chosen: Turns, rejected: Turns) -> Preference:
    """Return the pair. Raises RowFault where there is no prompt, no answer, or no difference."""
    if not prompt:
        raise RowFault("no prompt, and the two answers begin with nothing in common.", "Add a column 'prompt'.")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns:
            raise RowFault(f"'{name}' adds nothing to the prompt.")
        check_order((*prompt, *turns))
    if chosen == rejected:
        raise RowFault("'chosen' and 'rejected' are the same.", "Remove the row.")
    return Preference(prompt, chosen, rejected, "", group_of(values), row_tools(values))


def _explicit_prompt(values: Values) -> Turns:
    key = columns.find(values, columns.TURNS)
    if key is not None and has_turns(values):
        return with_system(values, turns_of(values[key], key))
    if columns.find(values, columns.QUESTION) is None:
        return ()
    key, asked = asked_of(values)
    return prompt_of(values, asked, key) if asked else ()


def _continuation(value: object, key: str) -> Turns:
    if isinstance(value, str) and not value.lstrip().startswith(("[{", "{")):
        turns = transcript(value)
        return tuple(turns) if turns else (Message("assistant", text_of(value, key).strip()),)
    return turns_of(value, key)


def _common(a: Turns, b: Turns) -> int:
    """Return how many first messages are the same; the last of either is always an answer."""
    count = 0
    for one, other in zip(a[:-1], b[:-1], strict=False):
        if one != other:
            break
        count += 1
    return count


def is_ranked(values: Values) -> bool:
    key = columns.find(values, columns.RANKED)
    scored = columns.find(values, columns.RANKS) or columns.find(values, columns.SCORES)
    return key is not None and isinstance(values[key], list) and (scored is not None or _scored_items(values[key]))


def _scored_items(items: Sequence[Any]) -> bool:
    return bool(items) and all(
        isinstance(item, Mapping) and columns.find(item, (*columns.RANKS, *columns.SCORES)) for item in items
    )


def from_ranked(values: Values) -> list[Preference]:
    """Several answers with ranks or scores: the best against each that is worse."""
    key = columns.find(values, columns.RANKED)
    question, asked = asked_of(values)
    if key is None:
        raise RowFault("no list of answers.", FILL)
    answers = []
    outside = columns.find(values, columns.RANKS) or columns.find(values, columns.SCORES)
    for number, item in enumerate(values[key]):
        held = item if outside is None else {"rank_of": item}
        text = held.get("rank_of", held) if isinstance(held, Mapping) else held
        if isinstance(text, Mapping):
            text = next((text[name] for name in (*columns.TEXT, *columns.ANSWER) if name in text), None)
        answers.append((_rank(values, item, outside, number), text_of(text, f"answer {number + 1}").strip()))
    return best_against_worse(values, prompt_of(values, asked, question), answers)


def _rank(values: Values, item: object, outside: str | None, number: int) -> float:
    """Return the place of an answer: the lower the better."""
    if outside is not None:
        listed = values[outside]
        if not isinstance(listed, list) or number >= len(listed):
            raise RowFault(f"'{outside}' has no entry for answer {number + 1}.")
        value, name = listed[number], outside
    else:
        assert isinstance(item, Mapping)
        found = columns.find(item, (*columns.RANKS, *columns.SCORES))
        assert found is not None
        value, name = item[found], found
    place = _number(value, f"'{name}' of answer {number + 1}")
    return place if columns.spelled(name) in columns.RANKS else -place


def _number(value: object, what: str) -> float:
    """Return a number that ranks. Raises RowFault for what is none, or is not finite."""
    try:
        number = float("nan") if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        number = float("nan")
    if not math.isfinite(number):
        raise RowFault(f"{what} is no number.")
    return number


def best_against_worse(values: Values, prompt: Turns, answers: Sequence[tuple[float, str]]) -> list[Preference]:
    ranked = sorted(answers, key=lambda answer: answer[0])
    if not ranked or ranked[0][0] == ranked[-1][0]:
        raise RowFault("no answer is ranked above another.", "Remove the row.")
    (best, chosen), *others = ranked
    return [
        preference(values, prompt, (Message("assistant", chosen),), (Message("assistant", text),))
        for rank, text in others
        if rank > best and text != chosen
    ]


def is_reply_tree(values: Values) -> bool:
    """Whether the row is a tree of ranked replies, as Open Assistant writes them."""
    prompt = values.get("prompt")
    return isinstance(prompt, Mapping) and isinstance(prompt.get("replies"), list) and "text" in prompt


def from_reply_tree(values: Values) -> list[Preference]:
    """Every message whose replies are ranked gives the best of them against each that is worse."""
    found: list[Preference] = []
    pending: list[tuple[Mapping[str, Any], Turns]] = [(values["prompt"], ())]
    while pending:
        node, before = pending.pop()
        path = (*before, *turns_of([node], "prompt"))
        replies = [reply for reply in node.get("replies") or [] if isinstance(reply, Mapping)]
        pending += [(reply, path) for reply in reversed(replies)]
        ranked = [
            (_number(r["rank"], "a rank"), text_of(r.get("text"), "text")) for r in replies if r.get("rank") is not None
        ]
        if path[-1].role == "user" and len({rank for rank, _ in ranked}) > 1:
            found += best_against_worse(values, path, ranked)
    if not found:
        raise RowFault("no message in it has ranked replies.", "Remove the row.")
    group = str(values.get("message_tree_id") or values["prompt"]["text"][:200])
    return [Preference(p.prompt, p.chosen, p.rejected, "", group, p.tools) for p in found]
