"""A sweep on one page that needs nothing else: each knob against the metric, and a table of the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from fledge.project import write_text_atomic
from fledge.recipes.charts import Axis, name_axis, number_axis, scatter
from fledge.recipes.space import DONE, Choices, Swept, written

HIGH, LOW = "the higher the better", "the lower the better"


def write_page(path: Path, space: Sequence[Swept], result: Mapping[str, Any]) -> None:
    """Write the page of a sweep. Raises DiskError (no room, no permission)."""
    style = resources.files("fledge.recipes").joinpath("report.css").read_text(encoding="utf-8")
    name = f"Sweep {Path(result['sweep']).name}"
    # The policy is a second wall behind escaping: even markup that got through could load and run nothing.
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{escape(name)}</h1><p>{escape(_about(space, result))}</p></header>
<main>
<section><h2>What came out?</h2>{_outcome(result)}</section>
<section><h2>What made the difference?</h2>{_pictures(space, result)}</section>
<section><h2>Every trial</h2>{_table(space, result)}</section>
</main>
</body>
</html>
"""
    write_text_atomic(path, page)


def ranked(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the trials, the best first; those without a metric come last, in their order."""
    sign = -1.0 if result["higher_is_better"] else 1.0
    return sorted(result["trials"], key=lambda t: math.inf if t["value"] is None else sign * t["value"])


def _about(space: Sequence[Swept], result: Mapping[str, Any]) -> str:
    done = len(result["trials"])
    count = f"{done}" if done == result["trials_wanted"] else f"{done} of {result['trials_wanted']}"
    return f"{count} trials of {', '.join(map(str, space))} · by {result['metric']}"


def _outcome(result: Mapping[str, Any]) -> str:
    best, usual = result["best"], result["auto"]
    if best is None:
        return '<p class="absent">No trial came to its end.</p>'
    knobs = ", ".join(f"{name} = {written(value)}" for name, value in best["knobs"].items())
    words = f"<p class='headline'>{result['metric']} {best['value']:.4g} with {escape(knobs)}</p>"
    if usual is not None:
        gain = "which is the best of all" if usual["trial"] == best["trial"] else f"{usual['value']:.4g}"
        words += f"<p>What <code>auto</code> takes: {gain}.</p>"
    words += f"<p><code>{escape(result['command'])}</code></p>"
    return words + (
        '<p class="small">The best of many trials on the same held-out rows looks better than it is: some of its lead '
        "is luck. Rows that no trial was chosen by tell how much.</p>"
    )


def _pictures(space: Sequence[Swept], result: Mapping[str, Any]) -> str:
    drawn = [_picture(one, result) for one in space]
    return "".join(drawn) if any(drawn) else '<p class="absent">Nothing can be drawn yet.</p>'


def _picture(one: Swept, result: Mapping[str, Any]) -> str:
    trials = [t for t in result["trials"] if t["value"] is not None and math.isfinite(t["value"])]
    if not trials:
        return ""
    best, usual = result["best"]["trial"], (result["auto"] or {}).get("trial")
    # The best dot lies on top of the others.
    trials.sort(key=lambda t: (t["trial"] == best, t["trial"] == usual))
    points = [
        (
            t["knobs"][one.name],
            t["value"],
            "best" if t["trial"] == best else "auto" if t["trial"] == usual else "trial",
            f"trial {t['trial']}: {t['value']:.4g} with "
            + " ".join(f"{name}={written(value)}" for name, value in t["knobs"].items()),
        )
        for t in trials
    ]
    metric = result["metric"]
    drawn = scatter(points, f"{metric} over {one.name}", _axis(one), unit=HIGH if result["higher_is_better"] else LOW)
    caption = f"<b>{escape(one.name)}</b>, one dot a trial. Filled: the best; hollow: what auto takes."
    return f'<figure><figcaption>{caption}</figcaption><div class="frame">{drawn}</div></figure>'


def _axis(one: Swept) -> Axis:
    if isinstance(one, Choices):
        return name_axis(one.values, one.name)
    return number_axis(one.low, one.high, one.name, log=one.log)


def _table(space: Sequence[Swept], result: Mapping[str, Any]) -> str:
    names = [one.name for one in space]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("trial", *names, result["metric"], "steps", "how it ended"))
    rows = ""
    for trial in ranked(result):
        value = "" if trial["value"] is None else f"{trial['value']:.4g}"
        knobs = [written(trial["knobs"][name]) if name in trial["knobs"] else "" for name in names]
        cells = [str(trial["trial"]), *knobs, value, str(trial["steps"] or ""), how_it_ended(trial)]
        rows += "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def how_it_ended(trial: Mapping[str, Any]) -> str:
    """Return in words how a trial ended."""
    if trial["same_as"] is not None:
        return f"as trial {trial['same_as']}"
    if trial["state"] == DONE:
        return "to its end"
    return "fell behind" if trial["why"] is None else trial["why"]
