"""A project folder to begin with, copied from the shipped examples."""

from __future__ import annotations

import shutil
from pathlib import Path

import fledge
from fledge.errors import ConfigError, nearest
from fledge.project import staged_folder
from fledge.recipes.persona import refuse_what_is_there

KINDS = {kind: f"new-{kind}" for kind in ("template", "persona", "style", "classify", "reason", "documents")}


def example_folder(name: str) -> Path:
    """Return the folder of a shipped example: inside the installed package, or in the clone it runs from."""
    package = Path(fledge.__file__).parent
    for folder in (package / "examples" / name, package.parents[1] / "examples" / name):
        if folder.is_dir():
            return folder
    raise AssertionError(f"the example {name} is missing from this installation")


def known_kind(kind: str) -> None:
    """Raise ConfigError where there is no such kind of project."""
    if kind not in KINDS:
        guess = nearest(kind, list(KINDS)) or "."
        raise ConfigError("config.bad_value", f"there is no kind '{kind}'{guess}", remedy=f"Kinds: {', '.join(KINDS)}.")


def start(folder: Path, kind: str) -> list[str]:
    """Make `folder` from the example of `kind` and return its files. Raises ConfigError where it is in the way."""
    known_kind(kind)
    return copy_example(KINDS[kind], folder)


def copy_example(name: str, folder: Path) -> list[str]:
    """Copy a shipped example to `folder`, which must not exist or be empty; return the relative paths of its files."""
    refuse_what_is_there(folder)
    with staged_folder(folder) as staged:
        shutil.copytree(
            example_folder(name), staged, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "runs")
        )
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
