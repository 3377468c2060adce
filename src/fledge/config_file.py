"""Reads fledge.yaml and what overrides it; every fault is told with its line and the nearest known key."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fledge.config import FILE_NAME, Config, knobs
from fledge.errors import ConfigError, nearest


def load_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the project's knobs: fledge.yaml, then FLEDGE_MODEL (environment or .env), then key.sub=value overrides.

    Raises ConfigError with file:line, the nearest known key and what is taken.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ConfigError(
            "config.not_a_project",
            f"no {FILE_NAME} here.",
            where=str(folder),
            remedy="Go to a project folder, name one with -C DIR, or make one with `fledge new DIR --kind template`.",
        )
    text = _read_text(path)
    values = _parse_yaml(text, path)
    if model := os.environ.get("FLEDGE_MODEL") or _dotenv(folder).get("FLEDGE_MODEL"):
        values["model"] = model
    for override in overrides:
        _apply_override(values, override)
    return _validate(values, text, path, overridden={override.partition("=")[0] for override in overrides})


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("config.bad_yaml", "not UTF-8 text.", where=str(path), remedy="Save it as UTF-8.") from error


def _parse_yaml(text: str, path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(
            "config.bad_yaml", f"not valid YAML: {problem}.", where=where, remedy="Mend that line."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError("config.bad_yaml", "expected `key: value` lines.", where=str(path))
    if twice := _twice(yaml.compose(text)):
        line, key = twice
        raise ConfigError(
            "config.bad_yaml", f"'{key}' stands twice.", where=f"{path}:{line}", remedy="Keep one of the two."
        )
    # A group whose keys are all commented out says nothing.
    return {key: value for key, value in values.items() if value is not None}


def _twice(node: yaml.Node | None) -> tuple[int, str] | None:
    """Return the line and name of the first key that repeats one beside it."""
    if not isinstance(node, yaml.MappingNode):
        return None
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            return key.start_mark.line + 1, str(key.value)
        seen.add(key.value)
        if found := _twice(value):
            return found
    return None


def _dotenv(folder: Path) -> dict[str, str]:
    path = folder / ".env"
    if not path.is_file():
        return {}
    pairs = (line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("'\"") for key, value in pairs if not key.lstrip().startswith("#")}


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, separator, raw = override.partition("=")
    if not separator or not name:
        raise ConfigError(
            "config.bad_value",
            f"'{override}' is not key=value.",
            where="command line",
            remedy="For example: train.epochs=3",
        )
    known = [knob for knob, _ in knobs()]
    if name not in known:
        raise ConfigError(
            "config.unknown_key",
            f"'{name}' is not a knob{_guess(name) or '.'}",
            where="command line",
            remedy=f"Known: {', '.join(_siblings(name))}.",
        )
    section, _, key = name.rpartition(".")
    target = values.setdefault(section, {}) if section else values
    if not isinstance(target, dict):
        raise ConfigError("config.bad_value", f"'{section}' must be a group of keys.", where=FILE_NAME)
    target[key] = _parse_value(raw)


def _parse_value(raw: str) -> object:
    """Return a number, truth value or null as YAML reads it, and so lists, groups and texts that are marked as such.

    Any other text is meant as it stands, with what YAML would take for a group ("Note: be brief") or a comment.
    """
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw
    marked = raw.startswith(("{", "[", "'", '"'))
    return raw if isinstance(value, str | dict | list) and not marked else value


def _validate(values: Mapping[str, Any], text: str, path: Path, *, overridden: Set[str]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        # pydantic reports each arm of a union on its own ("auto" or a number): one line per knob is enough.
        by_knob: dict[tuple[str, ...], Any] = {}
        for item in error.errors():
            names = [str(part) for part in item["loc"] if isinstance(part, str)]
            by_knob.setdefault(tuple(names[:2] if names[0] in _sections() else names[:1]), item)
        places = {knob: _place(knob, text, path, overridden) for knob in by_knob}
        lines = [_complaint(knob, item, places[knob]) for knob, item in by_knob.items()]
        unknown = any(item["type"] == "extra_forbidden" for item in by_knob.values())
        where, message = lines[0]
        if len(lines) > 1:
            where, message = str(path), f"{len(lines)} problems.\n" + "\n".join(": ".join(line) for line in lines)
        raise ConfigError("config.unknown_key" if unknown else "config.bad_value", message, where=where) from error


def _sections() -> set[str]:
    return {name.split(".")[0] for name, _ in knobs() if "." in name}


def _place(knob: tuple[str, ...], text: str, path: Path, overridden: Set[str]) -> str:
    """Return where the value of a knob was given."""
    if ".".join(knob) in overridden:
        return "command line"
    return f"{path}:{line}" if (line := _line_of(text, knob)) else str(path)


def _complaint(knob: tuple[str, ...], item: Any, where: str) -> tuple[str, str]:
    dotted = ".".join(knob)
    if item["type"] == "extra_forbidden":
        guess = _guess(dotted) or f". Known: {', '.join(_siblings(dotted))}."
        return where, f"'{dotted}' is not a knob{guess}"
    meaning = dict(knobs()).get(dotted, "a group of keys")
    said = item["msg"].lower().removeprefix("value error, ")
    return where, f"{dotted} is {item['input']!r}: {said} ({meaning})."


def _guess(dotted: str) -> str:
    """Return "; did you mean 'train.lr'?", or "" where nothing is close.

    Inside a group only its keys are compared: the group's name would make any two of them look alike.
    """
    group, _, key = dotted.rpartition(".")
    names = [name for name, _ in knobs()]
    keys = [name.rpartition(".")[2] for name in names if group and name.startswith(f"{group}.")]
    if keys:
        return nearest(key, keys).replace("'", f"'{group}.", 1)
    return nearest(dotted, [*Config.model_fields, *names])


def _siblings(dotted: str) -> list[str]:
    """Return the knobs that stand beside `dotted`: those of its group, or the top keys where there is no such group."""
    group = dotted.split(".")[0] + "."
    return [name for name, _ in knobs() if name.startswith(group)] or list(Config.model_fields)


def _line_of(text: str, knob: tuple[str, ...]) -> int | None:
    node = yaml.compose(text)
    line = None
    for name in knob:
        if not isinstance(node, yaml.MappingNode):
            break
        match = next(((k, v) for k, v in node.value if k.value == name), None)
        if match is None:
            break
        line, node = match[0].start_mark.line + 1, match[1]
    return line
