"""What a sweep tries: KEY=LOW..HIGH and KEY=A,B,C, each checked against the knobs before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fledge.config import Config
from fledge.config_file import load_config
from fledge.errors import ConfigError

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")
WHOLE = re.compile(r"[-+]?\d+")
# From here on the ends of a range are so far apart that each decade gets as many trials.
LOG_FROM = 10
DIGITS = 3
# How a trial may end.
DONE, PRUNED, FAILED = "done", "pruned", "failed"
# Text that may hold a comma or two dots and means it.
TEXTS = ("data.system", "evaluate.template")
# Groups whose knobs decide how it is learnt, and single ones of others that do.
LEARNING, ALSO = ("train", "preference"), ("method", "data.order", "data.temperature")
UNSUITED: Mapping[str, str] = {
    "train.seed": "it decides which rows are held out",
    "train.max_tokens": "it decides which rows are learnt and held out",
    "train.taught": "it decides what the held-out loss counts",
    "train.eval_every": "a sweep looks at held-out rows at the same shares of every trial",
    "train.patience": "it decides when a trial is over",
    "train.keep": "it decides what is measured in the end",
    "train.checkpoint_s": "it changes nothing that is learnt",
    "train.ram": "it changes nothing that is learnt",
    "train.tokens_per_piece": "it changes nothing that is learnt",
    "train.recompute": "it changes nothing that is learnt",
    "train.dtype": "the sweep measures which is faster here and takes that one",
}
EXAMPLE = "For example: fledge sweep train.lr=1e-4..1e-2 train.rank=8,16,32"


@dataclass(frozen=True)
class Range:
    """Every number from `low` to `high`; whole ones only where both are. log: each decade counts the same."""

    name: str
    low: float
    high: float
    whole: bool
    log: bool

    def holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.whole or value == int(value))

    def rounded(self, value: Any) -> object:
        """Return the value as it is tried and told: three digits are more than a sweep can tell apart."""
        if self.whole:
            return int(value)
        return min(self.high, max(self.low, float(f"{value:.{DIGITS}g}")))

    @property
    def size(self) -> int | None:
        return int(self.high - self.low) + 1 if self.whole else None

    def __str__(self) -> str:
        return f"{self.name}={short_number(self.low)}..{short_number(self.high)}"


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    name: str
    values: tuple[Any, ...]

    def holds(self, value: object) -> bool:
        return value in self.values

    def rounded(self, value: Any) -> object:
        return value

    @property
    def size(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        return f"{self.name}={','.join(written(value) for value in self.values)}"


Swept = Range | Choices


def short_number(value: float) -> str:
    return f"{value:.{DIGITS + 1}g}"


def written(value: object) -> str:
    """Return a value as it can stand behind `key=`."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def read_space(project: Path, arguments: Sequence[str]) -> tuple[list[Swept], list[str], Config]:
    """Return the knobs that are swept, the arguments that set others for all trials, and the config with these.

    Raises ConfigError with one line on what is wrong.
    """
    swept: list[Swept] = []
    fixed: list[str] = []
    for argument in arguments:
        name, _, raw = argument.partition("=")
        tried = _read(project, name, raw) if name not in TEXTS else None
        if tried is None:
            fixed.append(argument)
        else:
            swept.append(tried)
    names = [one.name for one in swept] + [argument.partition("=")[0] for argument in fixed]
    if twice := [name for name in names if names.count(name) > 1]:
        raise _wrong(f"'{twice[0]}' stands twice.", "Keep one of the two.")
    config = load_config(project, fixed)
    if not swept:
        raise _wrong("no knob is given a range or a list to try.", EXAMPLE)
    for one in swept:
        _check_values(project, fixed, one)
    return swept, fixed, config


def _read(project: Path, name: str, raw: str) -> Swept | None:
    """Return what is to be tried of a knob, or None where it has one value."""
    marked = raw.startswith(("[", "{", "'", '"'))
    if marked or ("," not in raw and ".." not in raw):
        return None
    # An unknown knob is named with the nearest one, whatever stands behind it.
    _require_known(project, name)
    _require_suited(name)
    if ".." in raw:
        return _range(name, raw)
    parts = [part.strip() for part in raw.split(",")]
    values = tuple(map(_value, parts))
    if "" in parts:
        raise _wrong(f"'{name}={raw}' is no list of values.", EXAMPLE)
    if twice := [value for value in values if values.count(value) > 1]:
        raise _wrong(f"'{written(twice[0])}' stands twice in {name}={raw}.", "Keep one of the two.")
    return Choices(name, values)


def _range(name: str, raw: str) -> Range:
    match = RANGE.fullmatch(raw)
    if match is None:
        raise _wrong(f"'{name}={raw}' is no range of numbers.", EXAMPLE)
    low, high = float(match[1]), float(match[2])
    if low >= high:
        raise _wrong(
            f"the range {name}={raw} does not go up.", f"Write the smaller number first: {match[2]}..{match[1]}"
        )
    whole = bool(WHOLE.fullmatch(match[1]) and WHOLE.fullmatch(match[2]))
    return Range(name, low, high, whole, log=0 < low <= high / LOG_FROM)


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        # YAML takes 1e-4 for a text; people do not.
        return float(value) if re.fullmatch(NUMBER, value) else value
    return value if isinstance(value, bool | int | float) or value is None else text


def _require_known(project: Path, name: str) -> None:
    try:
        load_config(project, [f"{name}=0"])
    except ConfigError as error:
        if error.code != "config.bad_value" or error.where != "command line":
            raise


def _require_suited(name: str) -> None:
    section = name.rpartition(".")[0]
    why = UNSUITED.get(name, "it decides what is measured, not how it is learnt")
    if name in UNSUITED or (section not in LEARNING and name not in ALSO):
        raise _wrong(f"'{name}' cannot be swept: {why}.", "Sweep knobs such as train.lr, train.rank, train.epochs.")


def _check_values(project: Path, fixed: Sequence[str], one: Swept) -> None:
    """Raise ConfigError for the first value to be tried that the knob does not take."""
    if isinstance(one, Choices):
        tried: list[Any] = list(one.values)
    else:
        # Between two ends that are taken stands what is not where a knob takes whole numbers only.
        between = [] if one.whole else [one.low + 0.37 * (one.high - one.low)]
        tried = [int(end) if one.whole else end for end in (one.low, one.high)] + between
    for value in tried:
        load_config(project, [*fixed, f"{one.name}={written(value)}"])


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with some knobs set, by their dotted names."""
    knobs = config.model_dump()
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        (knobs[section] if section else knobs)[key] = value
    return Config.model_validate(knobs)


def value_of(config: Config, name: str) -> Any:
    """Return what a knob says."""
    section, _, key = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, key)


def as_record(one: Swept) -> dict[str, Any]:
    """Return a swept knob as it is written to the sweep's folder; `from_record` reads it."""
    if isinstance(one, Choices):
        return {"knob": one.name, "values": list(one.values)}
    return {"knob": one.name, "low": one.low, "high": one.high, "whole": one.whole, "log": one.log}


def from_record(record: Mapping[str, Any]) -> Swept:
    if "values" in record:
        return Choices(str(record["knob"]), tuple(record["values"]))
    low, high = float(record["low"]), float(record["high"])
    return Range(str(record["knob"]), low, high, bool(record["whole"]), bool(record["log"]))


def _wrong(message: str, remedy: str) -> ConfigError:
    return ConfigError("config.bad_value", message, where="command line", remedy=remedy)
