"""Conversation -> Example(ids, weights): the only place that decides what is taught.

Taught are the assistant's words and the control token that ends the turn, nothing else. Control tokens are taken from
the template's own text alone, never from what a row says.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fledge.data.chat_jinja import FAULTS, as_variables, compile_template, map_texts, texts_of
from fledge.data.tokenizer import Place, Tokenizer
from fledge.errors import DataError
from fledge.records import Conversation, Example, Message, ToolCall

# For base models that carry no template: ChatML, the plainest of the common ones.
DEFAULT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What a prompt may open that the answer has to close: the place for reasoning.
_OPENER = re.compile(r"<(\w[\w:]*)>\s*\Z")

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model will see it: its text, where the template's control tokens stand, what is taught."""

    text: str
    control: tuple[Span, ...]
    taught: tuple[Span, ...]


class ChatTemplate:
    """The chat template of one model together with its tokenizer.

    `today` is the date that templates see which write one into their prompts; None: the real one.
    """

    def __init__(self, tokenizer: Tokenizer, *, source: str | None = None, today: datetime.date | None = None) -> None:
        self.tokenizer, self.today = tokenizer, today
        self.source = source or tokenizer.chat_template or DEFAULT_TEMPLATE
        self._template = compile_template(self.source, today)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: str = "",
        origin: str = "",
    ) -> str:
        """Return the text of `messages`. Raises DataError with the template's own words where it refuses them."""
        return self._render(as_variables(messages, tools), add_generation_prompt, origin)

    def _render(self, variables: Mapping[str, Any], add_generation_prompt: bool, origin: str) -> str:
        try:
            return self._template.render(
                **variables,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.tokenizer.bos or "",
                eos_token=self.tokenizer.eos or "",
            )
        except FAULTS as error:
            raise DataError(
                "data.template",
                f"the model's chat template says: {error}.",
                where=origin,
                remedy="Change the row's roles or order to what the template allows.",
            ) from error

    def prompt_ids(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        """Return the ids a model is given to answer `messages`."""
        return [token for token, _ in self._tokens(self._shown(messages, tools, add_generation_prompt=True))]

    def invocation_ids(self) -> list[int]:
        """Return the ids that open an assistant turn: what a generation prompt adds to a conversation.

        Raises DataError where the template adds nothing, so that nothing says when an answer begins.
        """
        asked = [Message("user", "?")]
        whole, without = self.render(asked, add_generation_prompt=True), self.render(asked)
        if not whole.startswith(without) or whole == without:
            raise DataError(
                "data.template",
                "the model's chat template does not mark where an answer begins.",
                remedy="Leave train.after_prompt off.",
            )
        opening = whole[len(without) :]
        return [token for token, _ in self._tokens(Rendered(opening, self._found(opening), ()))]

    def examples(self, conversation: Conversation, *, taught: Literal["all", "last"] = "all") -> list[Example]:
        """Return what is taught of one conversation: one Example, or one per taught turn where the template forgets.

        A template that drops or rewrites earlier turns (reasoning blocks, say) makes a history that differs from the
        one each turn was said in; there every turn becomes its own Example, as it will be when served.
        """
        return [self.example(rendered, conversation.origin) for rendered in self.rendered(conversation, taught=taught)]

    def example(self, rendered: Rendered, origin: str) -> Example:
        """Return the tokens of a text and which of them are taught."""
        tokens = list(self._tokens(rendered))
        return Example([token for token, _ in tokens], [weight for _, weight in tokens], origin)

    def rendered(self, conversation: Conversation, *, taught: Literal["all", "last"] = "all") -> list[Rendered]:
        """Return the texts that `examples` turns into tokens.

        Raises DataError where the template refuses the conversation, or leaves out a tool's call that it would teach.
        """
        if any(m.tool_calls and m.taught for m in conversation.messages) and "tool calls" in self.leaves_out:
            raise DataError(
                "data.template",
                "calls a tool; the model's chat template does not write tool calls and would teach an empty answer.",
                where=conversation.origin,
                remedy="Choose a model whose template knows tools, or remove the row.",
            )
        return self._rendered(conversation, taught=taught)

    def _rendered(self, conversation: Conversation, *, taught: Literal["all", "last"]) -> list[Rendered]:
        messages = conversation.messages
        turns = [i for i, message in enumerate(messages) if message.role == "assistant" and message.taught]
        parts = [self._turn(conversation, i) for i in (turns[-1:] if taught == "last" else turns)]
        if parts and all(parts[-1].text.startswith(part.text) for part in parts):
            return [Rendered(parts[-1].text, parts[-1].control, tuple(span for part in parts for span in part.taught))]
        return parts

    @cached_property
    def leaves_out(self) -> frozenset[str]:
        """What the template says nothing of: "reasoning", "tool calls", "tools"; found by having it write some."""
        asked, mark = Message("user", "Q"), "\u25c7mark\u25c7"
        tools = json.dumps([{"type": "function", "function": {"name": mark, "description": mark, "parameters": {}}}])
        call = Message("assistant", "", tool_calls=(ToolCall(mark, "{}", "abcdefghi"),))
        probes = {
            "reasoning": Conversation((asked, Message("assistant", "A", thinking=mark)), ""),
            "tool calls": Conversation((asked, call), "", tools=tools),
            "tools": Conversation((asked, Message("assistant", "A")), "", tools=tools),
        }
        return frozenset(what for what, probe in probes.items() if not self._says(mark, probe))

    def _says(self, mark: str, conversation: Conversation) -> bool:
        """Whether the mark is in the text; a template that refuses will refuse the row itself, in its own words."""
        try:
            texts = self._rendered(conversation, taught="all")
        except DataError:
            return True
        return any(mark in rendered.text for rendered in texts)

    def _turn(self, conversation: Conversation, index: int) -> Rendered:
        """Return the text up to and with assistant turn `index`, and which part of it that turn has to produce."""
        origin, messages, tools = conversation.origin, conversation.messages[: index + 1], conversation.tools
        prompt = self._shown(messages[:-1], tools, add_generation_prompt=True, origin=origin)
        whole = self._shown(messages, tools, add_generation_prompt=False, origin=origin)
        if not whole.text.startswith(prompt.text):
            whole = self._answered(prompt, whole, messages[-1].thinking)
        if not whole.text.startswith(prompt.text):
            raise DataError(
                "data.template",
                "the model's chat template writes an answered turn differently from the prompt it answers.",
                where=origin,
                remedy="Use another template; what is served would differ from what is taught.",
            )
        # What stands after the last control token (a line end, mostly) belongs to the next turn: nobody has to say it.
        ends = [end for start, end in whole.control if start >= len(prompt.text)]
        return Rendered(whole.text, whole.control, ((len(prompt.text), ends[-1] if ends else len(whole.text)),))

    def _answered(self, prompt: Rendered, whole: Rendered, thinking: str) -> Rendered:
        """Return `whole` with the place for reasoning that `prompt` opens, filled and closed, before the answer.

        Such a template leaves the reasoning of answers that were given out; the served model still has to close it.
        """
        opener = _OPENER.search(prompt.text)
        if opener is None or not whole.text.startswith(prompt.text[: opener.start()]):
            return whole
        closing = f"\n</{opener[1]}>\n\n"
        head = prompt.text + thinking
        rest = whole.text[opener.start() :]
        shift = len(head) + len(closing) - opener.start()
        control = (
            *prompt.control,
            *((start + len(head), end + len(head)) for start, end in self._found(closing)),
            *((start + shift, end + shift) for start, end in whole.control if start >= opener.start()),
        )
        return Rendered(head + closing + rest, control, ())

    def _shown(
        self, messages: Sequence[Message], tools: str, *, add_generation_prompt: bool, origin: str = ""
    ) -> Rendered:
        """Return the text of `messages` and which of its control tokens are the template's own, none taught yet.

        The template renders once more with the rows' words disguised, so that none of them can be read as a control
        token: first every character that could begin one. A template that looks for such characters, to cut reasoning
        out, say, then writes another text; there only whole control tokens are disguised, and those found must be
        those that the template writes around words that are hidden altogether.
        """
        variables = as_variables(messages, tools)
        text = self._render(variables, add_generation_prompt, origin)
        words = "\n".join(texts_of(variables))
        if not self._first.search(words):
            return Rendered(text, self._found(text), ())
        meant = dict(zip(_unused(words + self.source), self._firsts, strict=False))
        for pattern in (self._first, self._control):
            shown = self._render(_disguised(variables, pattern, meant), add_generation_prompt, origin)
            plain = shown.translate({ord(mark): first for mark, first in meant.items()})
            if plain == text and (
                pattern is self._first or self._same_control(shown, variables, add_generation_prompt)
            ):
                return Rendered(text, self._found(shown), ())
        raise DataError(
            "data.template",
            "the model's chat template rewrites a message so that its control tokens cannot be told from text.",
            where=origin,
            remedy="Take what looks like a control token out of the text.",
        )

    def _same_control(self, shown: str, variables: Mapping[str, Any], add_generation_prompt: bool) -> bool:
        """Whether the control tokens in `shown` are those the template writes when all words are one blank mark."""
        try:
            hidden = map_texts(variables, lambda text: "\ue000" if self._first.search(text) else text)
            bare = self._render(hidden, add_generation_prompt, "")
        except DataError:
            return False
        return self._control.findall(bare) == self._control.findall(shown)

    def _found(self, text: str) -> tuple[Span, ...]:
        return tuple(match.span() for match in self._control.finditer(text))

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return self.tokenizer.control_pattern

    @cached_property
    def _firsts(self) -> str:
        """The characters that control tokens begin with."""
        return "".join(sorted({name[0] for name in self.tokenizer.control if name}))

    @cached_property
    def _first(self) -> re.Pattern[str]:
        return re.compile(f"[{re.escape(self._firsts)}]" if self._firsts else r"(?!)")

    def _tokens(self, rendered: Rendered) -> Iterator[tuple[int, float]]:
        """Yield (id, weight). Text is cut at the template's control tokens and where a taught span begins or ends.

        The cut at the beginning of a taught span is where the served prompt ends, so the ids up to there are the ids
        that a server sees.
        """
        cuts = {0, len(rendered.text), *(edge for span in (*rendered.control, *rendered.taught) for edge in span)}
        edges = sorted(cuts)
        own = set(rendered.control)
        place = Place.START
        for start, end in zip(edges, edges[1:], strict=False):
            weight = float(any(a <= start and end <= b for a, b in rendered.taught))
            piece = rendered.text[start:end]
            control = (start, end) in own
            ids = [self.tokenizer.control[piece]] if control else self.tokenizer.encode(piece, place)
            place = Place.AFTER_CONTROL if control else Place.INSIDE
            for token in ids:
                yield token, weight


def _disguised(variables: Mapping[str, Any], pattern: re.Pattern[str], meant: Mapping[str, str]) -> dict[str, Any]:
    """Return the variables with the first character of every match of `pattern` replaced by its private one."""
    private = {text: mark for mark, text in meant.items()}
    return dict(map_texts(variables, lambda text: pattern.sub(lambda m: private[m[0][0]] + m[0][1:], text)))


def _unused(text: str) -> Iterator[str]:
    """Yield private-use characters that do not stand in `text`."""
    used = set(text)
    return (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
