"""A model's chat template as a program: rendered in a sandboxed Jinja, set up as transformers sets it up."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fledge.errors import DataError
from fledge.records import Message

# A template is a program of somebody else's: it may divide by zero as well as refuse.
FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


class Program(Protocol):
    """A template that is ready to be rendered."""

    def render(self, *args: Any, **kwargs: Any) -> str: ...


class _Generation(Extension):
    """`{% generation %}` marks assistant text for trainers. fledge finds it by itself; the block is plain text here."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter would escape HTML; the arguments are those that chat templates are written for.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compile_template(source: str, today: datetime.date | None = None) -> Program:
    """Return the template, in which it is always `today` where that is given. Raises DataError where it is none."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: (today or datetime.datetime.now()).strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise DataError("data.template", f"the chat template cannot be read: {error}.") from error


def as_variables(messages: Sequence[Message], tools: str) -> dict[str, Any]:
    """Return what a template is given: messages as OpenAI writes them, and the functions that may be called."""
    return {
        "messages": [_as_dict(message) for message in messages],
        "tools": json.loads(tools) if tools else None,
        "documents": None,
    }


def _as_dict(message: Message) -> dict[str, Any]:
    value = message.as_openai()
    if message.thinking:
        # Templates know it by either name.
        value["thinking"] = message.thinking
    for call in value.get("tool_calls", ()):
        call["function"]["arguments"] = _object_of(call["function"]["arguments"])
    return value


def _object_of(arguments: str) -> Any:
    """Return what a call is given as an object, as templates expect it, or the text where it is none."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def texts_of(value: Any) -> list[str]:
    """Return every text that `map_texts` would change."""
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    map_texts(value, keep)
    return found


# Below these a row names things as it likes: what a function takes, and what it is given.
_NAMED = ("arguments", "properties")


def map_texts(value: Any, change: Callable[[str], str], *, names: bool = False) -> Any:
    """Return `value` with `change` applied to every text in it that comes from a row; with `names`, to keys as well."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            (change(key) if names else key): (
                held if key in ("role", "type") and not names else map_texts(held, change, names=names or key in _NAMED)
            )
            for key, held in value.items()
        }
    if isinstance(value, list):
        return [map_texts(item, change, names=names) for item in value]
    return value
