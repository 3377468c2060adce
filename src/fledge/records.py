"""The frozen records that flow down the house. Lists and ints; no torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
_NO_COLUMNS: Mapping[str, float] = MappingProxyType({})
_NO_TOKENS: Mapping[str, Sequence[float]] = MappingProxyType({})


@dataclass(frozen=True)
class Row:
    """One row as it stood in a file. `origin` is file:line (1-based)."""

    values: Mapping[str, Any]
    origin: str


@dataclass(frozen=True)
class ToolCall:
    """A function that the assistant asks for. `arguments` is JSON, as it is said."""

    name: str
    arguments: str
    id: str = ""

    def as_openai(self) -> dict[str, Any]:
        named = {"id": self.id} if self.id else {}
        return {**named, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class Message:
    """One turn. `thinking` is what the assistant reasons before it answers; `name` says which tool a result is from.

    tool_call_id: the id of the call that a tool answers, "" where it has none.
    taught: False for an assistant turn that is only read, whatever is asked for.
    """

    role: Role
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    taught: bool = True
    tool_call_id: str = ""

    def as_openai(self) -> dict[str, Any]:
        """Return the message as OpenAI's interface writes it; `taught` is ours alone and left out."""
        value: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            value["reasoning_content"] = self.thinking
        if self.tool_calls:
            value["tool_calls"] = [call.as_openai() for call in self.tool_calls]
        if self.name:
            value["name"] = self.name
        if self.tool_call_id:
            value["tool_call_id"] = self.tool_call_id
        return value


@dataclass(frozen=True)
class Conversation:
    """Messages in order. `answer` is what a scorer must find in the last reply; `group` ties rows about one thing.

    tools: the functions that the assistant may call, as a JSON list; "" for none. task: the source it is from.
    """

    messages: tuple[Message, ...]
    origin: str
    answer: str | None = None
    group: str | None = None
    tools: str = ""
    task: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last assistant message: what is put to a model under test."""
        return self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages

    @property
    def reply(self) -> str:
        """The last assistant message, or "" when the conversation ends with somebody else."""
        return self.messages[-1].content if self.messages[-1].role == "assistant" else ""


@dataclass(frozen=True)
class Preference:
    """A prompt with two continuations, of which `chosen` is the better."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    origin: str
    group: str | None = None
    tools: str = ""
    task: str = ""


@dataclass(frozen=True)
class Judged:
    """A conversation whose last answer somebody found good or bad."""

    messages: tuple[Message, ...]
    good: bool
    origin: str
    group: str | None = None
    tools: str = ""
    task: str = ""


@dataclass(frozen=True)
class Problem:
    """A prompt whose answer can be checked against `answer`; "" where a reward function has to know by itself."""

    prompt: tuple[Message, ...]
    answer: str
    origin: str
    group: str | None = None
    tools: str = ""


@dataclass(frozen=True)
class Text:
    """Text to be learnt as it stands: a document or a part of one. `task` is the source it is from.

    headings: those that it stands under, outermost first. lines: the line in its file of each line of `text`, 0 where
    there is none; empty where they are the same.
    """

    text: str
    origin: str
    title: str = ""
    group: str | None = None
    headings: tuple[str, ...] = ()
    task: str = ""
    lines: tuple[int, ...] = field(default=(), compare=False, repr=False)


# What a model can be taught: a conversation's answers, or a text's every token.
Taught = Conversation | Text
# What an objective learns from: answers to be learnt, pairs of a better and a worse one, or answers judged one by one.
Learnt = Taught | Preference | Judged
RowKind = Literal["answers", "pairs", "judged", "prompts"]
Record = Conversation | Preference | Judged | Problem | Text


@dataclass(frozen=True)
class Example:
    """Token ids and how much each is taught: weights[i] > 0 means that token i is a target.

    prompt_tokens: how many first tokens are read without the adapter, where it is to be active only after the prompt.
    task: the source it is from, which decides how often it is seen. tokens: numbers of its taught tokens by name, one
    for each in order, where an objective asks for some.
    """

    ids: list[int]
    weights: list[float]
    origin: str
    columns: Mapping[str, float] = field(default_factory=lambda: _NO_COLUMNS)
    prompt_tokens: int = 0
    task: str = ""
    tokens: Mapping[str, Sequence[float]] = field(default_factory=lambda: _NO_TOKENS)

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.weights), "one weight per token"
        assert all(len(own) == self.num_taught for own in self.tokens.values()), "one number per taught token"

    @property
    def num_taught(self) -> int:
        return sum(w > 0 for w in self.weights)

    @property
    def last_taught(self) -> int:
        """The last token that is taught: of a conversation the one that ends a turn."""
        return next(i for i, w in zip(reversed(self.ids), reversed(self.weights), strict=True) if w > 0)


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Reply:
    """What a runtime answered. Times in seconds; `finish` is STOP only when the model ended its turn by itself."""

    text: str
    finish: FinishReason
    prompt_tokens: int
    tokens: int
    tokens_per_s: float
    first_token_s: float
