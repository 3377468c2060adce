"""Draws what results.csv says of the engine as one SVG: tokens a second against both opponents, and growth."""

from __future__ import annotations

import math
from pathlib import Path

from results import latest

WIDTH, ROW, LEFT = 860, 20, 280
COLOURS = {"trl-default": "#b8bcc4", "trl-tuned": "#7f8794", "fledge": "#0b7a75"}
LABELS = {
    "a": "(a) short rows of one template",
    "b": "(b) a system prompt of 400 tokens",
    "c": "(c) chats of several turns",
    "d": "(d) text, nothing shared",
}


def draw(source: Path, out: Path) -> None:
    """Write the picture of the newest figures."""
    found = latest(source)
    named = [what for what in found if what.startswith("engine ") and "(" in what]
    # The starter model's sets in order, then the other models.
    named.sort(key=lambda what: (what.split()[1] != "smollm2-135m", what))
    runs = {what: found[what] for what in named}
    parts: list[str] = []
    y = 46
    most = max(f["fledge.tokens_per_s"] for f in runs.values())
    for what, figures in runs.items():
        _, model, key = what.split()
        parts.append(_text(12, y + 26, f"{LABELS[key[1]]}", weight="bold"))
        parts.append(_text(12, y + 43, model, colour="#5b6270"))
        for line, (who, colour) in enumerate(COLOURS.items()):
            rate = figures[f"{who}.tokens_per_s"]
            length = max(2.0, rate / most * (WIDTH - LEFT - 190))
            top = y + 6 + line * ROW
            parts.append(f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{ROW - 5}" fill="{colour}" rx="2"/>')
            ratio = "" if who == "fledge" else f"   ({figures[f'over {who}']:.1f} times slower)"
            parts.append(_text(LEFT + length + 6, top + 12, f"{rate:,.0f}{ratio}"))
        y += 3 * ROW + 18
    legend = [_text(12, 24, "Effective tokens a second: ", weight="bold")]
    for i, (who, colour) in enumerate(COLOURS.items()):
        x = LEFT + i * 150
        name = {"trl-default": "TRL + PEFT", "trl-tuned": "TRL + PEFT, tuned"}.get(who, who)
        legend += [f'<rect x="{x}" y="14" width="12" height="12" fill="{colour}" rx="2"/>', _text(x + 18, 24, name)]
    if growth := found.get("engine growth"):
        parts += _growth(growth, y + 10)
        y += 250
    style = "font-family:system-ui,sans-serif;font-size:13px"
    body = "\n".join([*legend, *parts])
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 20}" style="{style}">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


def _growth(figures: dict[str, float], top: float) -> list[str]:
    """Return a plot of seconds over computed tokens, both logarithmic, with memory written beside each point."""
    counts = [int(name.split()[1].split(".")[0]) for name in figures if name.endswith(".seconds")]
    points = [(c, figures[f"rows {c}.computed"], figures[f"rows {c}.seconds"]) for c in counts]
    x0, x1, y0, y1 = LEFT, WIDTH - 60, top + 200, top + 30
    tokens, seconds = ([math.log10(p[i]) for p in points] for i in (1, 2))
    parts = [
        _text(12, top + 14, "Time grows with computed tokens, memory by the rows alone", weight="bold"),
        f'<path d="M{x0} {y1} V{y0} H{x1}" fill="none" stroke="#5b6270"/>',
        _text(x0 + 110, y0 + 26, "computed tokens (log scale)", colour="#5b6270"),
        _text(12, y1 + 20, "seconds (log scale)", colour="#5b6270"),
    ]
    path = []
    for (count, total, taken), tx, ty in zip(points, tokens, seconds, strict=True):
        x = x0 + 10 + (tx - min(tokens)) / (max(tokens) - min(tokens)) * (x1 - x0 - 20)
        y = y0 - 10 - (ty - min(seconds)) / (max(seconds) - min(seconds)) * (y0 - y1 - 20)
        path.append(f"{x:.1f} {y:.1f}")
        memory = figures[f"rows {count}.peak_rss_bytes"] / 1e6
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS["fledge"]}"/>')
        told = f"{count:,} rows: {total:,.0f} tokens, {taken:,.1f} s, {memory:,.0f} MB"
        late = x > (x0 + x1) / 2
        parts.append(
            _text(x - 10 if late else x + 12, y - 4 if late else y + 5, told, anchor="end" if late else "start")
        )
    parts.append(f'<polyline points="{" ".join(path)}" fill="none" stroke="{COLOURS["fledge"]}"/>')
    return parts


def _text(
    x: float, y: float, text: str, *, weight: str = "normal", colour: str = "#1c2230", anchor: str = "start"
) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}">{text}</text>'
