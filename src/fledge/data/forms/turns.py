"""What people write for one turn -> Message: every spelling of the roles, content in parts, tool calls, reasoning."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fledge.errors import nearest
from fledge.records import Message, Role, ToolCall

MEND = "Mend or remove the row."
FILL = "Fill it in or remove the row."

ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system", "developer", "system_prompt"), "system"),
    **dict.fromkeys(("user", "human", "person", "customer", "client", "prompter", "question", "student"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "ai", "model", "chatgpt", "agent", "chatbot", "answer"), "assistant"),
    **dict.fromkeys(("bing", "bard", "claude", "gemini", "llama", "operator", "support"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call", "gpt_function"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("tool_result", "tool_results", "api", "environment"), "tool"),
}  # fmt: skip
# The call that a tool answers.
CALL_ID_KEYS = ("tool_call_id", "tool_use_id", "call_id")
CALL_ROLES = frozenset(("function_call", "tool_call", "gpt_function"))
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "response")
THINKING_KEYS = ("reasoning_content", "thinking", "reasoning", "thought")
THINKING_PARTS = frozenset(("reasoning", "thinking", "thought"))
_PLAIN, _SPEAKING = {"role", "content"}, ("user", "assistant", "system")
CALL_PARTS = frozenset(("tool_call", "tool_calls", "function_call", "tool_use"))


_SURROGATE = re.compile("[\ud800-\udfff]")


class RowFault(ValueError):
    """What is wrong with one row and what to do; the reader adds where."""

    def __init__(self, message: str, remedy: str = MEND) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


def text_of(value: object, key: str, *, empty: bool = False) -> str:
    """Return a value that is text, or a number or date as it is written. Raises RowFault for anything else."""
    if not isinstance(value, str):
        if isinstance(value, datetime.date | datetime.time):
            value = value.isoformat()
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise RowFault(f"'{key}' is {'missing' if value is None else type(value).__name__}, expected text.")
        value = str(value)
    if not empty and (not value or value.isspace()):
        raise RowFault(f"'{key}' is empty.", FILL)
    if not value.isascii() and _SURROGATE.search(value) is not None:
        raise RowFault(f"'{key}' holds half of a \\u escape pair, which is no character.")
    return value


def turns_of(value: object, key: str) -> tuple[Message, ...]:
    """Return the messages of a list of turns, which may stand in a string as JSON.

    What an assistant says between a question and the next, in several turns of its own, stays as it is.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = parse_json(value, key)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise RowFault(f"'{key}' is not a list of messages.")
    if all(isinstance(item, str) for item in value):
        # Bare texts in turn: the user begins.
        speakers: Sequence[Role] = ("user", "assistant")
        return tuple(
            Message(speakers[number % 2], text_of(item, f"message {number + 1}")) for number, item in enumerate(value)
        )
    return tuple([_turn(item, number) for number, item in enumerate(value, start=1)])


def parse_json(text: str, key: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowFault(f"'{key}' holds JSON that cannot be read: {error}.") from error


def _turn(value: object, number: int) -> Message:
    if not isinstance(value, Mapping):
        raise RowFault(f"message {number} is not {{'role': ..., 'content': ...}}.")
    if value.keys() == _PLAIN and value["role"] in _SPEAKING and isinstance(value["content"], str):
        # As nearly all turns are written.
        return Message(value["role"], text_of(value["content"], f"content of message {number}"))
    role_key = next((key for key in ROLE_KEYS if key in value), None)
    if role_key is None:
        raise RowFault(f"message {number} is not {{'role': ..., 'content': ...}}.")
    said = value[role_key]
    said = said.get("role", said) if isinstance(said, Mapping) else said
    role = ROLES.get(str(said).strip().lower())
    if role is None:
        known = ("system", "user", "assistant", "tool")
        guess = nearest(str(said), known) or f"; expected one of {', '.join(known)}."
        raise RowFault(f"message {number} has role '{said}'{guess}")
    if role == "tool" and (key := next((k for k in CONTENT_KEYS if isinstance(value.get(k), Mapping)), None)):
        # A tool may answer with an object.
        value = {**value, key: json.dumps(value[key], ensure_ascii=False)}
    content, thinking, calls = _content(value, number)
    if str(said).strip().lower() in CALL_ROLES and content:
        calls, content = calls_of(content, number), ""
    if not content.strip() and not calls:
        raise RowFault(f"'content of message {number}' is empty.", FILL)
    answers = role == "tool"
    name = answers and (value.get("name") or value.get("tool_name"))
    call_id = answers and next((value[key] for key in CALL_ID_KEYS if value.get(key)), "")
    weight = next((value[key] for key in ("loss_weight", "weight", "train") if key in value), None)
    taught = role != "assistant" or weight is None or bool(weight)
    return Message(role, content, thinking, calls, str(name or ""), taught, str(call_id or ""))


def _content(value: Mapping[str, Any], number: int) -> tuple[str, str, tuple[ToolCall, ...]]:
    """Return (content, thinking, tool calls) of one turn."""
    key = next((key for key in CONTENT_KEYS if value.get(key) is not None), None)
    raw = None if key is None else value[key]
    where = f"content of message {number}"
    thinking = next((text_of(value[k], k, empty=True) for k in THINKING_KEYS if value.get(k)), "")
    listed = value.get("tool_calls") or value.get("function_call") or value.get("api")
    calls = calls_of(listed, number) if listed else ()
    if isinstance(raw, list):
        return _parts(raw, number, thinking, calls)
    if raw is None and not calls:
        raise RowFault(f"message {number} is not {{'role': ..., 'content': ...}}.")
    return ("" if raw is None else text_of(raw, where, empty=True)), thinking, calls


def _parts(
    parts: Sequence[Any], number: int, thinking: str, calls: tuple[ToolCall, ...]
) -> tuple[str, str, tuple[ToolCall, ...]]:
    texts, thoughts = [], [thinking] if thinking else []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        held = part
        if isinstance(part, Mapping):
            held = next((part[key] for key in ("text", "value", "content", *THINKING_KEYS) if key in part), None)
        if kind in CALL_PARTS:
            calls += calls_of(part if held is None else held, number)
        elif kind in THINKING_PARTS:
            thoughts.append(text_of(held, f"{kind} of message {number}", empty=True))
        elif kind == "text":
            texts.append(text_of(held, f"content of message {number}", empty=True))
        else:
            raise RowFault(f"message {number} holds '{kind}', and only text can be taught.", "Remove the row.")
    return "\n".join(texts), "\n".join(thoughts), calls


def calls_of(value: object, number: int) -> tuple[ToolCall, ...]:
    """Return the tool calls in what a row writes for them: OpenAI's list, one object, or either as JSON in a string."""
    if isinstance(value, str):
        value = parse_json(value, f"tool call of message {number}")
    calls = value if isinstance(value, list) else [value]
    return tuple(_call(call, number) for call in calls)


def _call(value: object, number: int) -> ToolCall:
    if not isinstance(value, Mapping):
        raise RowFault(f"a tool call of message {number} is {type(value).__name__}, expected name and arguments.")
    inner = value.get("function", value)
    inner = inner if isinstance(inner, Mapping) else value
    if "name" not in inner and len(inner) == 1:
        # {"get_weather": {"city": ...}}
        name, arguments = next(iter(inner.items()))
    else:
        name = inner.get("name")
        arguments = next((inner[key] for key in ("arguments", "parameters", "input", "args") if key in inner), {})
    if not isinstance(name, str) or not name:
        raise RowFault(f"a tool call of message {number} has no name.")
    said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name, said or "{}", str(value.get("id") or ""))


def tools_of(value: object) -> str:
    """Return the functions of a row as a JSON list in OpenAI's shape, or "" where there are none."""
    if isinstance(value, str):
        value = parse_json(value, "tools") if value.strip() else None
    if not value:
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise RowFault("'tools' is not a list of functions.")
    whole = [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]
    return json.dumps(whole, ensure_ascii=False)


_SPEAKER = re.compile(r"(?:\A|\n\n?)(Human|User|Assistant|System|H|A|Q|Question|Answer):[ \n]?")
_SPEAKERS: Mapping[str, Role] = {
    "Human": "user", "User": "user", "H": "user", "Q": "user", "Question": "user",
    "Assistant": "assistant", "A": "assistant", "Answer": "assistant", "System": "system",
}  # fmt: skip


def is_transcript(text: object) -> bool:
    """Whether a text is a conversation written out: "Human: ...", then "Assistant: ..."."""
    return isinstance(text, str) and len(transcript(text)) > 1


def transcript(text: str) -> list[Message]:
    """Return the turns of a conversation written out; none where it does not begin with a speaker."""
    marks = list(_SPEAKER.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns = [Message(_SPEAKERS[mark[1]], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    return turns if {"user", "assistant"} <= {turn.role for turn in turns} else []


_ONE_ANSWER = ["user", "assistant"]


def check_order(messages: Sequence[Message], *, ends: Role = "assistant") -> None:
    """Raise RowFault unless it is: at most one system message, then user and assistant in turn, `ends` last.

    A tool's result answers an assistant's call; several may follow one call.
    """
    roles = [m.role for m in messages]
    if roles == _ONE_ANSWER and ends == "assistant":
        return
    if roles[1:].count("system"):
        raise RowFault("a system message stands after the first place.", "Move it to the front.")
    turns = [role for role in roles if role != "system"]
    # An assistant may greet first; a template that does not allow it says so itself.
    if not turns or turns[0] == "tool":
        raise RowFault(
            f"the first turn is from '{turns[0] if turns else 'nobody'}', expected 'user'.", "Add the question."
        )
    for before, after in zip(turns, turns[1:], strict=False):
        if before == after and before != "tool":
            raise RowFault(f"two messages in a row are from '{before}'.", "Join them or add the turn between.")
        if after == "tool" and before == "user":
            raise RowFault("a tool answers where nobody called it.", "Add the assistant's call.")
    if turns[-1] != ends:
        raise RowFault(
            f"'messages' ends with role '{turns[-1]}'; the last must be '{ends}' to be taught.",
            "Answer it or remove the row.",
        )
