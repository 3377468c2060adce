"""Writes what is derived from the code: docs/cli.md, docs/config.md and tests/surface.json.

`make docs` runs it. A test compares, so the three change only when somebody means it: `git diff` shows what users get.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import fledge
from fledge.cli import app
from fledge.config import Config, knobs

ROOT = Path(__file__).parents[1]
WIDTH = 100


def commands(command: Any = None, name: str = "fledge", parent: Any = None) -> Iterator[Any]:
    """Yield the context of every command, in the order of the help; `command_path` is its full name."""
    command = command or typer.main.get_command(app)
    # Plain text, the same on every terminal.
    command.rich_markup_mode = None
    context = command.make_context(
        name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
    )
    yield context
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, child, context)


def helps() -> dict[str, str]:
    """Return what `--help` says, by the full name of the command."""
    return {context.command_path: str(context.get_help()).strip() for context in commands()}


def cli_page() -> str:
    """Return docs/cli.md."""
    parts = ["# Commands\n\nWhat `--help` says, made by `make docs`.\n"]
    parts += [f"## {name}\n\n```text\n{text}\n```\n" for name, text in helps().items()]
    return "\n".join(parts)


def config_page() -> str:
    """Return docs/config.md: every knob with its default."""
    defaults = Config().model_dump()
    lines = [
        "# Knobs",
        "",
        "Everything that can stand in `fledge.yaml`, made by `make docs`. Any of them can also be given to a training:",
        "`fledge train train.epochs=3`. `auto` is chosen from model, rows and machine; the choice and its reason are",
        "printed and kept in the run's `run.yaml`. `FLEDGE_MODEL` (environment or `.env`) overrides `model`.",
        "",
        "| knob | default | what it is |",
        "|---|---|---|",
    ]
    for name, description in knobs():
        section, _, key = name.rpartition(".")
        default = (defaults[section] if section else defaults)[key]
        lines.append(f"| `{name}` | `{json.dumps(default)}` | {description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def surface() -> dict[str, Any]:
    """Return what users and scripts rely on: commands with their options and arguments, knobs, public names."""
    return {
        "commands": {context.command_path: _parameters(context.command) for context in commands()},
        "knobs": [name for name, _ in knobs()],
        "names": sorted(fledge.__all__),
    }


def _parameters(command: Any) -> list[str]:
    arguments = [p.metavar for p in command.params if p.param_type_name == "argument"]
    return arguments + sorted("/".join(sorted(p.opts)) for p in command.params if p.param_type_name == "option")


def surface_list() -> str:
    return json.dumps(surface(), indent=1) + "\n"


PAGES = {"docs/cli.md": cli_page, "docs/config.md": config_page, "tests/surface.json": surface_list}

if __name__ == "__main__":
    for page, text in PAGES.items():
        (ROOT / page).write_text(text(), encoding="utf-8")
