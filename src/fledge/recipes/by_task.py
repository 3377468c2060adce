"""What a run and its report tell of each task. Without torch: an evaluation needs none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fledge.project import RunFolder


def losses_of(run: RunFolder) -> dict[str, float]:
    """Return the held-out loss of each task of a finished run, as it was measured when the run ended."""
    try:
        summary = json.loads(run.manifest.read_text(encoding="utf-8"))["summary"]
        return {t["task"]: t["eval_loss"] for t in summary.get("tasks", ()) if t["eval_loss"] is not None}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def line_of_losses(summary: Mapping[str, Any]) -> str:
    """Return the held-out loss of each task as a line of HTML, or "" where there is one only."""
    measured = [task for task in summary.get("tasks", ()) if task["eval_loss"] is not None]
    if len(measured) < 2:
        return ""
    told = ", ".join(f"<code>{escape(task['task'])}</code> {task['eval_loss']:.3g}" for task in measured)
    return f'<p class="small">Held-out loss by task: {told}.</p>'


def table_of_tasks(verdict: Mapping[str, Any]) -> str:
    """Return the tasks of a verdict as an HTML table, or "" where there is one only."""
    tasks = verdict.get("tasks") or ()
    if len(tasks) < 2:
        return ""
    with_before = any(task.get("accuracy_before") is not None for task in tasks)
    heads = ["rows", *(["before"] if with_before else []), "right", "95 %", "template", "ended", "loss"]
    numbers = "".join(f'<th class="number">{head}</th>' for head in heads)
    rows = "".join(_row(task, heads, with_before=with_before) for task in tasks)
    return f'<table class="tasks"><thead><tr><th>task</th>{numbers}</tr></thead><tbody>{rows}</tbody></table>'


def table_of_texts(verdict: Mapping[str, Any]) -> str:
    """Return how well held-out texts are foretold, in HTML: the verdict, and the perplexity before and after."""
    texts = verdict["texts"]
    told = f"Perplexity {texts['perplexity']:.2f} on {texts['texts']} held-out texts"
    if texts["against"]:
        told += f"; {texts['against']['target']}: {texts['against']['perplexity']:.2f}"
    tone = {"better": "good", "worse": "bad"}.get(texts["verdict"] or "", "")
    return f'<p class="headline {tone}">{escape(told)}.</p><p>{escape(texts["why"])}</p>'


def _row(task: Mapping[str, Any], heads: Sequence[str], *, with_before: bool) -> str:
    low, high = task["interval"]
    cells = [str(task["rows"]), *([_share(task["accuracy_before"])] if with_before else [])]
    cells += [_share(task["accuracy"]), f"{100 * low:.0f} to {100 * high:.0f}"]
    cells += [_share(task["template_adherence"]), _share(task["stopped"])]
    cells.append("" if task["loss"] is None else f"{task['loss']:.3f}")
    drawn = "".join(
        f'<td class="number" data-label="{head}">{cell}</td>' for head, cell in zip(heads, cells, strict=True)
    )
    mark = ' <span class="bad">worse</span>' if task.get("worse") else ""
    return f"<tr><td><code>{escape(task['task'])}</code>{mark}</td>{drawn}</tr>"


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
