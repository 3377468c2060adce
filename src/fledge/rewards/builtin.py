"""The rewards known by name: NAME or NAME:WHAT. To add one: a function, here or handed in, and a line in the dict."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fledge.errors import ConfigError, nearest
from fledge.rewards import json_schema, unit_tests
from fledge.rewards.by_model import ByModel, Worths
from fledge.rewards.record import Function, Known

# What is longer is no answer: a runaway reply must not meet a slow regular expression.
MAX_CHARS = 100_000
# Over so much of the bound a length that is wrong falls from 1 to 1/e.
SOFTNESS = 0.25
_FENCE = re.compile(r"\A\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*\Z", re.DOTALL | re.IGNORECASE)

Right = Callable[[str, str, str], bool]


@dataclass(frozen=True)
class Handed:
    """What other rooms know, handed in: whether a reply is right by a scorer, in the template, and its language.

    judge: what the model of a run thinks of replies, given the run's name.
    """

    scorers: Mapping[str, Right]
    template: Right | None
    language_of: Callable[[str], str]
    languages: frozenset[str]
    judge: Callable[[str], Worths]


def known(spec: str, handed: Handed) -> Known | ByModel:
    """Return the reward that `spec` names. Raises ConfigError for a name or a WHAT that it does not know."""
    name, _, what = spec.partition(":")
    if name == MODEL and what:
        return ByModel(spec, handed.judge(what))
    if name not in MAKERS:
        guess = nearest(name, list(MAKERS)) or "."
        raise ConfigError("config.bad_value", f"'{name}' is no reward{guess}", where=spec,
                          remedy=f"Give a Python file or one of: {', '.join(USAGE)}.")  # fmt: skip
    try:
        return Known(spec, MAKERS[name](what, handed))
    except ValueError as error:
        raise ConfigError("config.bad_value", f"{error}.", where=spec, remedy=f"Write it as {_usage(name)}.") from error


def _usage(name: str) -> str:
    return next(usage for usage in USAGE if usage.partition(":")[0] == name)


def _scorer(name: str) -> Callable[[str, Handed], Function]:
    def make(what: str, handed: Handed) -> Function:
        _refuse(what)
        return _as_reward(handed.scorers[name], needs=f"the row has no answer, which '{name}' needs")

    return make


def _as_reward(right: Right, *, needs: str = "") -> Function:
    def reward(prompt: str, reply: str, answer: str) -> float:
        if needs and not answer.strip():
            raise ValueError(needs)
        return float(right(prompt, reply, answer))

    return reward


def _template(what: str, handed: Handed) -> Function:
    _refuse(what)
    if handed.template is None:
        raise ValueError("there is no evaluate.template in fledge.yaml")
    return _as_reward(handed.template)


def _regex(what: str, handed: Handed) -> Function:
    if not what:
        raise ValueError("a regular expression is missing")
    try:
        pattern = re.compile(what)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"it is no regular expression: {error}") from error
    return lambda prompt, reply, answer: float(len(reply) <= MAX_CHARS and pattern.search(reply) is not None)


def _json(what: str, handed: Handed) -> Function:
    """Half for valid JSON, the other half for what the schema asks: a small model finds the way in two steps."""
    try:
        schema = json.loads(what) if what else True
    except ValueError as error:
        raise ValueError(f"the schema is no JSON: {error}") from error
    json_schema.refuse_unknown(schema)

    def reward(prompt: str, reply: str, answer: str) -> float:
        fenced = _FENCE.match(reply)
        try:
            value = json.loads(fenced[1] if fenced else reply, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0 if json_schema.fits(value, schema) else 0.5

    return reward


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _length(what: str, handed: Handed) -> Function:
    """1 from MIN to MAX characters; outside it falls smoothly, so that nearly right is worth more than far off."""
    match = re.fullmatch(r"(\d{1,7})-(\d{1,7})", what)
    if match is None or int(match[1]) > int(match[2]) or not int(match[2]):
        raise ValueError("two numbers of characters are needed, the smaller first")
    least, most = int(match[1]), int(match[2])

    def reward(prompt: str, reply: str, answer: str) -> float:
        length = len(reply.strip())
        bound = least if length < least else most if length > most else 0
        return math.exp(-abs(length - bound) / (SOFTNESS * bound)) if bound else 1.0

    return reward


def _language(what: str, handed: Handed) -> Function:
    if what not in handed.languages:
        raise ValueError(f"'{what}' is no language that can be told; known are {', '.join(sorted(handed.languages))}")
    return lambda prompt, reply, answer: float(handed.language_of(reply) == what)


def _unit_tests(what: str, handed: Handed) -> Function:
    _refuse(what)
    return unit_tests.passed


def _model(what: str, handed: Handed) -> Function:
    raise ValueError("a run that was taught to score answers is missing")


def _refuse(what: str) -> None:
    if what:
        raise ValueError("it takes nothing behind a colon")


TESTS = "unit_tests"
MODEL = "model"
MAKERS: dict[str, Callable[[str, Handed], Function]] = {
    "number": _scorer("number"),
    "exact": _scorer("exact"),
    "contains": _scorer("contains"),
    "regex": _regex,
    "json": _json,
    "template": _template,
    "length": _length,
    "language": _language,
    TESTS: _unit_tests,
    MODEL: _model,
}
USAGE = (
    "number",
    "exact",
    "contains",
    "regex:PATTERN",
    "json:SCHEMA",
    "template",
    "length:MIN-MAX",
    "language:CODE",
    "unit_tests",
    "model:RUN",
)
