"""What a run that learns from rewards has tried: replies of its first, middle and last batch, for its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fledge.project import RunFolder
from fledge.recipes.told import Told
from fledge.records import Conversation, Message

FOLDER = "rollouts"
# So many prompts of a batch are shown, with the best and the worst reply to each.
PROMPTS, MOST_CHARS = 2, 400


def pictures_of_tries(told: Told) -> str:
    """Return some replies with their rewards in HTML; "" where the run sampled none."""
    files = sorted((told.run.path / FOLDER).glob("step-*.jsonl"))
    chosen = sorted({0, len(files) // 2, len(files) - 1}) if files else []
    return "".join(_batch(files[place]) for place in chosen)


def last_replies(run: RunFolder, rows: Sequence[Conversation]) -> list[Conversation]:
    """Return the replies of a run's last batch that ended by themselves, each after what it was asked.

    None where the run sampled none.
    """
    asked = {row.prompt[-1].content: row for row in rows if row.prompt}
    files = sorted((run.path / FOLDER).glob("step-*.jsonl"))
    try:
        lines = [json.loads(line) for line in files[-1].read_text(encoding="utf-8").splitlines()] if files else []
    except (OSError, ValueError):
        return []
    said = sorted({(line["prompt"], line["text"]) for line in lines if line["ended"] and line["text"]})
    found = [(asked[prompt], Message("assistant", text)) for prompt, text in said if prompt in asked]
    return [Conversation((*row.prompt, reply), row.origin, tools=row.tools) for row, reply in found]


def _batch(path: Path) -> str:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        groups: dict[Any, list[Mapping[str, Any]]] = {}
        for line in lines:
            groups.setdefault(line["row"], []).append(line)
        # Where replies differ there is something to see.
        ranked = sorted(groups.values(), key=lambda group: -len({line["reward"] for line in group}))
        drawn = "".join(map(_group, ranked[:PROMPTS]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"<h3>Batch {int(path.stem.rpartition('-')[2])}</h3>{drawn}"


def _group(lines: Sequence[Mapping[str, Any]]) -> str:
    ranked = sorted(lines, key=lambda line: -line["reward"])
    sides = [ranked[0], ranked[-1]]
    answer = f' <span class="small">right: {_cut(lines[0]["answer"])}</span>' if lines[0]["answer"] else ""
    said = "".join(
        f"<div><h3>reward {line['reward']:.3g}{'' if line['ended'] else ' · cut off'}</h3>"
        f'<div class="words" dir="auto">{_cut(line["text"])}</div></div>'
        for line in sides
    )
    return f'<article class="answer"><p dir="auto">{_cut(lines[0]["prompt"])}{answer}</p><div>{said}</div></article>'


def _cut(text: str) -> str:
    return escape(text[:MOST_CHARS]) + ("…" if len(text) > MOST_CHARS else "")
