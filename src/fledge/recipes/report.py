"""Run folder -> report.html: the run on one page that needs nothing else, told from what is on disk."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fledge.evaluation.verdict import Outcome
from fledge.project import RunFolder, write_json_atomic, write_text_atomic
from fledge.recipes.by_task import line_of_losses, table_of_tasks, table_of_texts
from fledge.recipes.charts import bar, curve, short
from fledge.recipes.metric_words import METRICS
from fledge.recipes.spread import pictures_of
from fledge.recipes.told import Told, read_run
from fledge.recipes.tries import pictures_of_tries

MOST_ANSWERS = 6
MOST_CHARS = 600

HEADLINES = {
    Outcome.BETTER: ("good", "Better than {base}: {after} right answers instead of {before}."),
    Outcome.SAME: ("", "No difference to {base} could be shown: {after} right answers, {before} before."),
    Outcome.WORSE: ("bad", "Worse than {base}: {after} right answers instead of {before}."),
    Outcome.TOO_FEW_ROWS: ("", "Too few rows for a verdict: {after} right answers, {before} before."),
}
MEASURES = {"accuracy": "Right answers", "template_adherence": "In the template", "stopped": "Ended by itself"}
HASHES = {
    "base_sha256": "base model",
    "rows_sha256": "rows",
    "adapter_sha256": "adapter",
    "model_sha256": "model",
}
UNITS = {"loss": "nats per taught token"}
FIGURES = ("size", "bits per weight", "same next token", "divergence (nats)")
# A choice as fledge.training.auto words it; other notes tell what was read.
CHOICE = re.compile(r"([\w.]+) = (.*?): (.+)", re.DOTALL)
# No HTML page may hold these; a reply may.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def keep_verdict(run: RunFolder, verdict: Mapping[str, Any]) -> None:
    """Write what `fledge eval` found into the run, and its report anew."""
    write_json_atomic(run.verdict, verdict)
    write_report(run)


def write_report(run: RunFolder) -> Path:
    """Write `report.html` into the run folder and return its path. What the run lacks, the page says in words.

    Raises DiskError (no room, no permission).
    """
    write_text_atomic(run.report, UNPRINTABLE.sub("\ufffd", _page(read_run(run))))
    return run.report


def _page(told: Told) -> str:
    sections: dict[str, Callable[[Told], str]] = {
        "Is it better?": _verdict,
        "What does it answer?": _answers,
        "What did it learn from?": _rows,
        "How did it learn?": _curves,
        "What did it try?": pictures_of_tries,
        "What was chosen for you?": _choices,
        "What do you get?": _files,
        "What did it take?": _costs,
    }
    written = {title: write(told) for title, write in sections.items()}
    body = "".join(f"<section><h2>{title}</h2>{text}</section>\n" for title, text in written.items() if text)
    name = escape(told.run.path.name)
    # The policy is a second wall behind escaping: even markup that got through could load and run nothing.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
{resources.files("fledge.recipes").joinpath("report.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header><h1>{name}</h1>{_about(told)}</header>
<main>
{body}</main>
{_footer(told)}
</body>
</html>
"""


def _about(told: Told) -> str:
    parts = [told.knobs[key] for key in ("model", "objective", "method") if key in told.knobs]
    if told.steps:
        parts.append(f"{len(told.steps)} steps")
    about = f"<p>{' · '.join(escape(str(part)) for part in parts)}</p>"
    if not told.run.finished:
        done = f"{len(told.steps)} of {told.num_steps} steps are done" if told.steps else "no step is done"
        about += _absent(
            f"Not finished: {done}. Where it was interrupted, this goes on from the last checkpoint:",
            f"fledge train --resume {told.run.path.name}",
        )
    if told.damaged:
        about += _absent(f"Left out, because it cannot be read: {', '.join(told.damaged)}.")
    return about


def _verdict(told: Told) -> str:
    verdict = told.verdict
    if told.knobs.get("objective") == "reward":
        return _told_apart(told)
    if not verdict:
        return _absent("Not measured yet.", _command(told, "eval", f"--against {told.knobs.get('model', 'MODEL')}"))
    if verdict["interval"] is None:
        return table_of_texts(verdict)
    against = verdict["against"]
    if against is None:
        tone, headline = "", f"{_percent(verdict['accuracy'])} right answers, compared with nothing yet."
    else:
        tone, words = HEADLINES[Outcome(verdict["verdict"])]
        shares = {"after": _percent(verdict["accuracy"]), "before": _percent(against["accuracy"])}
        headline = words.format(base=against["target"], **shares)
    tuned = {**verdict, "target": "this run"} if verdict["target"] == told.run.path.name else verdict
    sides = {"tuned": tuned} if against is None else {"base": against, "tuned": tuned}
    file, scorer = escape(Path(verdict["file"]).name), escape(verdict["scorer"])
    return (
        f'<p class="headline {tone}">{escape(headline)}</p><p>{escape(verdict.get("why", ""))}</p>'
        + "".join(_measure(key, words, sides) for key, words in MEASURES.items() if verdict[key] is not None)
        + table_of_tasks(verdict)
        + f'<p class="small">{verdict["rows"]} held-out rows, put to <code>{file}</code> through llama.cpp, judged by '
        f"<code>{scorer}</code>. Whiskers: where the true share lies with 95 % confidence.</p>"
    )


def _told_apart(told: Told) -> str:
    """Return what a model that scores answers is worth: how often it finds the better one of held-out pairs."""
    share = told.summary.get("eval_metrics", {}).get("accuracy")
    if share is None:
        return _absent("Nothing was held out to measure with.", _command(told, "reward score", "FILE"))
    return f'<p class="headline">The better one of two held-out answers gets the higher score in {_percent(share)}.</p>'


def _measure(key: str, words: str, sides: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for tone, side in sides.items():
        interval = side["interval"] if key == "accuracy" else None
        value = f"<b>{_percent(side[key])}</b>"
        if interval is not None:
            low, high = (_percent(limit, digits=0) for limit in interval)
            value += f' <span class="small">{low[:-2]} to {high}</span>'
        drawn = bar(side[key], tone=tone, interval=interval)
        rows.append(f"<div><span>{escape(side['target'])}</span>{drawn}<span>{value}</span></div>")
    return f'<div class="measure"><h3>{words}</h3>{"".join(rows)}</div>'


def _answers(told: Told) -> str:
    if told.knobs.get("objective") == "reward":
        return _absent("It scores answers and gives none.")
    if not told.answers:
        return _absent("Its answers were not kept." if told.verdict else "It was not asked yet.")
    wrong = sum(not row["correct"] for row in told.answers)
    words = f"{wrong} of {len(told.answers)} are wrong." if wrong else f"All {len(told.answers)} are right."
    shown = _worst_of_each_group(told.answers)[:MOST_ANSWERS]
    if len(shown) < len(told.answers):
        grouped = any(row["group"] is not None for row in told.answers)
        words += f" {len(shown)} follow{', one of a group' if grouped else ''}{', wrong ones first' if wrong else ''}."
    return f"<p>{words}</p>" + "".join(map(_answer, shown))


def _worst_of_each_group(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return one row of each group: wrong ones first, then those out of the template, then those cut off."""
    worst: dict[Any, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["correct"], row["adheres"] is not False, row["stopped"])):
        worst.setdefault(row["origin"] if row["group"] is None else ("group", row["group"]), row)
    return list(worst.values())


def _answer(row: Mapping[str, Any]) -> str:
    asked = [message["content"] for message in row["prompt"] if message["role"] == "user"]
    marks = ['<span class="good">✓ right</span>' if row["correct"] else '<span class="bad">✗ wrong</span>']
    marks += ["out of the template"] if row["adheres"] is False else []
    marks += [] if row["stopped"] else ["cut off"]
    earlier = f' <span class="small">(question {len(asked)} of a conversation)</span>' if len(asked) > 1 else ""
    return (
        f'<article class="answer"><p dir="auto">{_cut(asked[-1] if asked else "")}{earlier}</p><div>'
        f'<div><h3>expected</h3><div class="words" dir="auto">{_cut(row["expected"])}</div></div>'
        f'<div><h3>got · {" · ".join(marks)}</h3><div class="words" dir="auto">{_cut(row["reply"])}</div></div>'
        "</div></article>"
    )


def _cut(text: str) -> str:
    more = len(text) - MOST_CHARS
    rest = f'<span class="small"> … and {more} more characters</span>' if more > 0 else ""
    return escape(text[:MOST_CHARS]) + rest


def _rows(told: Told) -> str:
    return pictures_of(told.record.get("spread", {})) or _absent("How its rows are spread was not kept.")


def _curves(told: Told) -> str:
    if "made_of" in told.summary:
        parts = ", ".join(f"{weight:g} × {escape(name)}" for name, weight in told.summary["made_of"].items())
        return f"<p>It is made of other runs: {parts} ({escape(told.summary['how'])}).</p>"
    if len(told.steps) < 2:
        return _absent("Fewer than two steps are done: there is no curve to draw yet.")
    held_out, clip = told.summary.get("eval_loss"), told.knobs.get("train", {}).get("clip_norm")
    first, last = (f"{told.steps[i]['loss']:.3g}" for i in (0, -1))
    words = (
        f"from {first} to {last}. Thin: each step; thick: their mean{'; dots: held-out rows' * bool(told.evaluations)}."
    )
    held_out_mark = _held_out_marks(told, "loss", held_out)
    clip_mark = {} if clip is None else {f"clipped at {clip:g}": clip}
    large = _figure(told, "loss", "Loss", words, held_out_mark)
    each = dict.fromkeys(name for step in told.steps for name in step.get("metrics", {}) if name.startswith("reward_"))
    small = "".join(_metric(told, name) for name in dict.fromkeys((*METRICS, *each)))
    small += _figure(told, "lr", "Learning rate", "as scheduled", {}, smoothed=False)
    small += _figure(told, "grad_norm", "Gradient norm", "before clipping", clip_mark)
    return f'{large}{_ended(told)}{line_of_losses(told.summary)}<div class="small-multiples">{small}</div>'


def _ended(told: Told) -> str:
    """Return how the run ended, where it is not after its last step or with the state of that."""
    kept, last, words = told.summary.get("kept_step"), told.steps[-1]["step"], []
    if why := told.summary.get("stopped_early"):
        words.append(f"Stopped after step {last} of {told.num_steps}: {why}.")
    if kept not in (None, last):
        words.append(f"Kept is what it was after step {kept}, where the held-out loss was lowest.")
    return f"<p>{escape(' '.join(words))}</p>" if words else ""


def _metric(told: Told, name: str) -> str:
    """Return the curve of what the objective tells beside its loss."""
    title, words = METRICS.get(name, (name.removeprefix("reward_"), "one of the rewards"))
    held_out = told.summary.get("eval_metrics", {}).get(name)
    return _figure(told, name, title, words, _held_out_marks(told, name, held_out))


def _held_out_marks(told: Told, name: str, held_out: float | None) -> dict[str, float]:
    """Return the lines to be drawn for the held-out rows, after the run and before it."""
    before = told.summary.get("eval_before", {}).get(name)
    after = {} if held_out is None else {f"held-out rows: {held_out:.3g}": held_out}
    return after if before is None or held_out is None else after | {f"before: {before:.3g}": before}


def _figure(told: Told, key: str, title: str, words: str, marks: Mapping[str, float], *, smoothed: bool = True) -> str:
    # A step tells nothing of what it has not, as of good answers where it has none.
    values = [(step["step"], {**step.get("metrics", {}), **step}.get(key, math.nan)) for step in told.steps]
    points = [(step, value) for step, value in values if math.isfinite(value)]
    if len(points) < 2:
        return ""
    marks = {name: value for name, value in marks.items() if math.isfinite(value)}
    unit = "" if key == "loss" and told.steps[0].get("metrics") else UNITS.get(key, "")
    looks = [(seen["step"], {**seen["metrics"], "loss": seen["loss"]}.get(key, math.nan)) for seen in told.evaluations]
    dots = [(step, value) for step, value in looks if math.isfinite(value)]
    drawn = curve(points, title, steps=told.num_steps, unit=unit, smoothed=smoothed, marks=marks, dots=dots)
    caption = f"<b>{escape(title)}</b>, {words}"
    return f'<figure id="{escape(key)}"><figcaption>{caption}</figcaption><div class="frame">{drawn}</div></figure>'


def _choices(told: Told) -> str:
    if not told.record:
        return _absent("There is no run.yaml, so nothing is known of the knobs.")
    rows, read = "", ""
    for note in told.record.get("notes", ()):
        if choice := CHOICE.fullmatch(note):
            knob, value, reason = map(escape, choice.groups())
            rows += f"<tr><td><code>{knob}</code></td><td>{value}</td><td>{reason}</td></tr>"
        else:
            read += f"<li>{escape(note)}</li>"
    head = "<thead><tr><th>knob</th><th>value</th><th>why</th></tr></thead>"
    knobs = escape(yaml.safe_dump(told.knobs, sort_keys=False, allow_unicode=True))
    table = f'<table class="chosen">{head}<tbody>{rows}</tbody></table>'
    return (
        (table if rows else "<p>Nothing: every knob was set.</p>")
        + (f"<h3>What was read</h3><ul class='read'>{read}</ul>" if read else "")
        + f"<details><summary>Every knob</summary><pre>{knobs}</pre></details>"
    )


def _files(told: Told) -> str:
    if told.knobs.get("objective") == "reward":
        return _absent("It is used as it is, to score answers or as a reward.", _command(told, "reward score", "FILE"))
    if not told.files:
        return _absent("No file was released yet.", _command(told, "export"))
    numbers = "".join(f'<th class="number">{words}</th>' for words in FIGURES)
    measured = Path(told.verdict["file"]).name if told.verdict else ""
    rows = "".join(_file(entry, measured=Path(entry["path"]).name == measured) for entry in told.files)
    return (
        f'<table class="files"><thead><tr><th>file</th>{numbers}<th>same prompt</th></tr></thead>'
        f'<tbody>{rows}</tbody></table><p class="small">Each file was run by llama.cpp and compared with the trained '
        "weights before it got its name: how often, in what was taught, the likeliest next token is the same or tied, "
        "how far the probabilities are apart, and whether its own template and tokenizer make the same prompt.</p>"
    )


def _file(entry: Mapping[str, Any], *, measured: bool) -> str:
    parity, words = entry["parity"], f"{entry['kind']}, {entry['type']}"
    words += ", the one that was asked" if measured else ""
    limit = parity["threshold"]
    # What is taught is held to the closer limits.
    agreed, divergence = parity["top1_taught"], parity["kl_taught"]
    top1, kl = _percent(agreed, digits=2), short(divergence, digits=2)
    same, apart = agreed >= limit["top1"], divergence <= limit["kl"]
    cells = (
        f"{entry['bytes'] / 1e6:.1f} MB",
        f"{entry['bits_per_weight']:.2f}",
        f"{_tick(same)} {top1}<small>at least {_percent(limit['top1'], digits=2)}</small>",
        f"{_tick(apart)} {kl}<small>at most {limit['kl']:g}</small>",
    )
    numbers = "".join(
        f'<td class="number" data-label="{words}">{cell}</td>' for words, cell in zip(FIGURES, cells, strict=True)
    )
    name = escape(Path(entry["path"]).name)
    prompt = f'<td data-label="same prompt">{_tick(parity["prompt_ids_equal"])}</td>'
    return f"<tr><td><code>{name}</code><small>{escape(words)}</small></td>{numbers}{prompt}</tr>"


def _tick(ok: bool) -> str:
    return '<span class="good">✓</span>' if ok else '<span class="bad">✗</span>'


def _costs(told: Told) -> str:
    if "made_of" in told.summary:
        return "<p>It was not trained: its adapter is made of those of other runs.</p>"
    if not told.steps:
        return _absent("No step is done yet, so nothing was spent.")
    seconds, effective, computed = (
        sum(step[key] for step in told.steps) for key in ("seconds", "tokens_effective", "tokens_computed")
    )
    tiles = [
        (_duration(seconds), f"of learning, {seconds / len(told.steps):.2g} s a step"),
        (f"{effective / seconds:,.0f} tokens/s", "while learning"),
        (f"{effective / computed:.2f} ×", f"by sharing: {effective:,} tokens learnt from, {computed:,} computed"),
    ]
    if told.summary:
        tiles.append((f"{told.summary['peak_rss_bytes'] / 1e9:.1f} GB", "of memory at most"))
        tiles.append((f"{told.summary['trainable_params'] / 1e6:.1f} million", "numbers trained"))
    if told.verdict and told.verdict["interval"]:
        tiles.append((f"{told.verdict['tokens_per_s']:,.0f} tokens/s", "answering, several questions at once"))
    drawn = "".join(f"<div><dt>{big}</dt><dd>{words}</dd></div>" for big, words in tiles)
    unknown = "" if told.summary else _absent("How much memory it takes is known when the run is finished.")
    return f'<dl class="tiles">{drawn}</dl>{unknown}'


def _footer(told: Told) -> str:
    parts = [f"fledge {told.record['fledge']}"] if "fledge" in told.record else []
    parts += [
        f"{words} {told.manifest[key][:12]}…"
        for key, words in {
            "base_sha256": "base model",
            "rows_sha256": "rows",
            "adapter_sha256": "adapter",
            "model_sha256": "model",
        }.items()
        if key in told.manifest
    ]
    return f"<footer>{escape(' · '.join(parts))}</footer>"


def _command(told: Told, verb: str, options: str = "") -> str:
    """Return what to type next; an unfinished run must be finished first, as the head of the page says."""
    return f"fledge {verb} {told.run.path.name} {options}".strip() if told.run.finished else ""


def _absent(words: str, command: str = "") -> str:
    code = f" <code>{escape(command)}</code>" if command else ""
    return f'<p class="absent">{escape(words)}{code}</p>'


def _percent(share: float, *, digits: int = 1) -> str:
    number = f"{100 * share:.{digits}f}"
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}\N{NO-BREAK SPACE}%"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
