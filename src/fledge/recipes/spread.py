"""How a run's rows are spread: how long they are, which tasks and which answers they have. Without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fledge.data.checks.outliers import MAX_CLASSES, MIN_JUDGED
from fledge.recipes.charts import bar
from fledge.recipes.check_tokens import histogram
from fledge.records import Conversation, Example, Learnt

# An answer that is one of a few classes is short, and stands in many rows.
CLASS_CHARS, ROWS_A_CLASS = 40, 5
SHOWN = 12


def spread_of(rows: Sequence[Learnt], examples: Sequence[Example]) -> dict[str, Any]:
    """Return what a run keeps of how its rows are spread.

    prompt, answer: histograms of tokens as {from, to, rows}; tasks, classes: rows of each by name, the most frequent
    first, empty where there are not several. Classes are answers of which there are few.
    """
    tasks = Counter(example.task for example in examples)
    return {
        "prompt": histogram([len(example.ids) - example.num_taught for example in examples]),
        "answer": histogram([example.num_taught for example in examples]),
        "tasks": dict(tasks.most_common()) if len(tasks) > 1 else {},
        "classes": _classes(row for row in rows if isinstance(row, Conversation)),
    }


def _classes(rows: Iterable[Conversation]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        answer = row.messages[-1].content.strip()
        if len(answer) > CLASS_CHARS:
            return {}
        counts[answer] += 1
        if len(counts) > MAX_CLASSES:
            return {}
    few = len(counts) >= 2 and counts.total() >= max(MIN_JUDGED, ROWS_A_CLASS * len(counts))
    return dict(counts.most_common()) if few else {}


def pictures_of(spread: Mapping[str, Any]) -> str:
    """Return the spread as bars in HTML; "" where nothing was kept of it."""
    titles = {"prompt": "Tokens that are read", "answer": "Tokens that are taught"}
    drawn = [
        _bars(title, [(_range(each["from"], each["to"]), each["rows"]) for each in spread[key]])
        for key, title in titles.items()
        if spread.get(key)
    ]
    titles = {"tasks": "Tasks", "classes": "Answers"}
    drawn += [_bars(title, list(spread[key].items())) for key, title in titles.items() if spread.get(key)]
    return "".join(drawn)


def _range(first: int, last: int) -> str:
    return f"{first:,} to {last:,}" if last > first else f"{first:,}"


def _bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    most = max(count for _, count in counts) or 1
    shown = "".join(
        f'<div><span dir="auto">{escape(name) or "(empty)"}</span>{bar(count / most, tone="tuned")}'
        f"<span>{count:,} rows</span></div>"
        for name, count in counts[:SHOWN]
    )
    rest = counts[SHOWN:]
    more = f'<p class="small">… and {len(rest)} more.</p>' if rest else ""
    return f'<div class="measure"><h3>{title}</h3>{shown}{more}</div>'
