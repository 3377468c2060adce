"""What `fledge data check` draws: files, problems by kind, how long rows are, what they are in."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fledge.data.checks.language import NAMES
from fledge.errors import CODES
from fledge.recipes.check import Report

BAR_CHARS = 40
SHOWN_CLASSES = 12


def draw(report: Report) -> None:
    """Print the report to stdout."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(_files(report))
    lengths = report.lengths
    if lengths.taught_tokens is not None:
        about = f"about (from {lengths.sampled:,} rows) " if lengths.estimated else ""
        told = f"{about}{lengths.taught_tokens:,} taught, {lengths.prompt_tokens:,} only read"
        console.print(f"tokens: {told}; the longest row has {lengths.max_tokens:,}")
    for name, bins in (("prompt", lengths.prompts), ("answer", lengths.answers)):
        if len(bins) > 1:
            console.print(Text(f"\ntokens of the {name}", style="bold"))
            bars(console, [(_range(b["from"], b["to"]), b["rows"]) for b in bins])
    if len(report.balance.languages) > 1:
        console.print(Text("\nlanguages", style="bold"))
        bars(console, [(NAMES.get(name, "not told"), count) for name, count in report.balance.languages.items()])
    if report.balance.answers:
        console.print(Text("\nanswers", style="bold"))
        bars(console, list(report.balance.answers.items())[:SHOWN_CLASSES])
    console.print(_problems(report))


def _range(first: int, last: int) -> str:
    return f"{first:,} to {last:,}" if last > first else f"{first:,}"


def bars(console: Console, rows: Sequence[tuple[str, int]]) -> None:
    """Print a bar for each (label, count)."""
    most = max((count for _, count in rows), default=1) or 1
    width = max(len(label[:30]) for label, _ in rows)
    for label, count in rows:
        length = max(round(count / most * BAR_CHARS), 1 if count else 0)
        console.print(Text.assemble((f"{label[:30]:>{width}} ", "dim"), ("█" * length, "green"), f" {count:,}"))


def _files(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("file", "rows", "read as", ""):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for seen in report.files:
        verdict = Text("ok", style="green") if not seen.errors else Text(f"{seen.errors:,} errors", style="red")
        read = f"{seen.format or '-'}{' (held out)' if seen.held_out else ''}"
        table.add_row(Text(str(seen.path)), f"{seen.rows:,}", read, verdict)
    return table


def _problems(report: Report) -> Table:
    kinds = {problem.code: problem.severity.value for problem in reversed(report.problems)}
    table = Table(box=None, pad_edge=False, title_justify="left", title="\nfound" if kinds else "\nnothing found")
    for code, count in report.counts.most_common():
        table.add_row(f"{count:,}", kinds.get(code, ""), code, CODES[code])
    return table
