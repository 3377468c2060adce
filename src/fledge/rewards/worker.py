"""The process that runs a user's reward functions for `fledge.rewards.file`: `python -m fledge.rewards.worker`.

Protocol. In: one JSON line of settings (`path, folder, memory_bytes, file_bytes, load_s, call_s`); then a line for each
call (`function, prompt, reply, answer`). Out: `{functions: [{name, line}], held, refused, read}` or `{broken, line}`;
then for each call `{value}` or `{fault, line}`, both with `refused` and `read`. It runs until stdin ends.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import numbers
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fledge.rewards.confinement import Watch, shut_in

PREFIX, LIST = "reward_", "REWARDS"
GIVEN = ("prompt", "reply", "answer")
# Whoever asked has ended us by then, unless it is gone itself: this ends a loop that nobody waits for.
ALARM_AFTER_S = 2
MAX_TEXT = 300

Function = Callable[..., object]


class Unusable(Exception):
    """The file holds no rewards that can be called; the words say why, `line` where."""

    def __init__(self, words: str, line: int = 0) -> None:
        super().__init__(words)
        self.line = line


def load(path: str) -> ModuleType:
    """Return the user's file as a module. Raises Unusable with the line where it fails."""
    spec = importlib.util.spec_from_file_location("rewards_of_the_user", path)
    if spec is None or spec.loader is None:
        raise Unusable("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise Unusable(f"it is not valid Python: {error.msg}", error.lineno or 0) from error
    except BaseException as error:  # noqa: BLE001  (SystemExit and what else a stranger's file raises)
        raise Unusable(f"it can't be loaded: {words(error)}", line_of(error, path)) from error
    return module


def functions(module: ModuleType) -> dict[str, Function]:
    """Return the rewards of a file by name: what REWARDS lists, else what is called reward_something, in order."""
    listed = getattr(module, LIST, None)
    found: dict[str, Function]
    if listed is None:
        found = {
            name: value
            for name, value in vars(module).items()
            if name.startswith(PREFIX) and inspect.isroutine(value)
        }  # fmt: skip
    else:
        values = [vars(module).get(value, value) if isinstance(value, str) else value for value in listed]
        if unknown := [value for value in values if not callable(value)]:
            raise Unusable(f"REWARDS lists {unknown[0]!r}, which is no function")
        found = {getattr(value, "__name__", type(value).__name__): value for value in values}
    if not found:
        raise Unusable("no function in it is called reward_something, and there is no list REWARDS")
    for name, function in found.items():
        if problem := unfit(function):
            raise Unusable(
                f"{name} {problem}; a reward takes prompt, reply and answer, or some of them", first(function)
            )
    return found


def unfit(function: Function) -> str:
    """Return why a function can't be called with what a reward is given, or ""."""
    parameters = list(inspect.signature(function).parameters.values())
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = [p.name for p in plain if p.name not in GIVEN and p.default is p.empty]
    if not unknown or (len(plain) == len(GIVEN) and all(p.kind is not p.KEYWORD_ONLY for p in plain)):
        return ""
    return f"asks for {unknown[0]!r}"


def call(function: Function, given: dict[str, str]) -> object:
    """Call a reward with as much as it asks for by name; one that names them otherwise gets all three in order."""
    parameters = inspect.signature(function).parameters.values()
    unknown = [p for p in parameters if p.name not in GIVEN and p.default is p.empty and p.kind in (0, 1)]
    if unknown or any(p.kind is p.POSITIONAL_ONLY for p in parameters):
        return function(*(given[name] for name in GIVEN))
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    asked = {p.name for p in parameters}
    return function(**{name: text for name, text in given.items() if takes_all or name in asked})


def as_number(value: object) -> float:
    """Return what a reward gave as a float. Raises ValueError for what is no finite number."""
    if value is None:
        raise ValueError("it gave None (is a return missing?)")
    if not isinstance(value, numbers.Real):
        raise ValueError(f"it gave {type(value).__name__} {value!r:.60}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"it gave {number}")
    return number


def answer(function: Function, request: dict[str, str], path: str) -> dict[str, Any]:
    """Return what a call came to."""
    try:
        value = call(function, {name: request[name] for name in GIVEN})
    except BaseException as error:  # noqa: BLE001  (whatever a stranger's function raises, SystemExit too)
        return {"fault": f"it raised {words(error)}", "line": line_of(error, path) or first(function)}
    try:
        return {"value": as_number(value)}
    except (ValueError, OverflowError) as error:
        return {"fault": f"{error}; a reward is a finite number", "line": first(function)}


def words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_TEXT] if str(error) else type(error).__name__


def line_of(error: BaseException, path: str) -> int:
    """Return the last line of the user's file on the way to an error; 0 where there is none."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return (lines[-1] if lines else 0) or 0


def first(function: Function) -> int:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return int(code.co_firstlineno) if code is not None else 0


def told(watch: Watch) -> dict[str, Any]:
    refused, read = watch.take()
    return {"refused": refused, "read": read}


def main() -> None:
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # What the functions read and print is not the protocol: the one is empty, the other goes to the log.
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(2, 1)

    def send(record: dict[str, Any]) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        replies.write(json.dumps(record).encode() + b"\n")
        replies.flush()

    settings = json.loads(requests.readline())
    path = settings["path"]
    watch, held = shut_in(
        settings["folder"],
        memory_bytes=settings["memory_bytes"],
        file_bytes=settings["file_bytes"],
        modules=os.path.dirname(path),
    )
    sys.path.insert(0, os.path.dirname(path))
    signal.alarm(math.ceil(settings["load_s"]) + ALARM_AFTER_S)
    try:
        found = functions(load(path))
    except Unusable as error:
        send({"broken": str(error), "line": error.line} | told(watch))
        return
    named = [{"name": name, "line": first(function)} for name, function in found.items()]
    send({"functions": named, "held": held} | told(watch))
    signal.alarm(0)
    for line in requests:
        request = json.loads(line)
        signal.alarm(math.ceil(settings["call_s"]) + ALARM_AFTER_S)
        result = answer(found[request["function"]], request, path)
        signal.alarm(0)
        send(result | told(watch))
    # Whoever closed stdin may have been killed, and then nobody else removes what is in it.
    shutil.rmtree(settings["folder"], ignore_errors=True)


if __name__ == "__main__":
    main()
