"""Conversation -> Example(ids, weights): the only place that decides what is taught.

The model's own chat template is rendered in a sandboxed Jinja. Taught are the assistant's words and the control token
that ends the turn, nothing else. Control tokens are taken from the template's own text alone, never from what a row
says.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fledge.data.tokenizer import Tokenizer
from fledge.errors import DataError
from fledge.records import Conversation, Example, Message

# For base models that carry no template: ChatML, the plainest of the common ones.
DEFAULT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# A template is a program of somebody else's: it may divide by zero as well as refuse.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)

Span = tuple[int, int]


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


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model will see it: its text, which parts of it are a row's words, which are taught."""

    text: str
    content: tuple[Span, ...]
    taught: tuple[Span, ...]


class ChatTemplate:
    """The chat template of one model together with its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, source: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.source = source or tokenizer.chat_template or DEFAULT_TEMPLATE
        try:
            self._template = _environment().from_string(self.source)
        except jinja2.TemplateError as error:
            raise DataError("data.template", f"the chat template cannot be read: {error}.") from error

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False, origin: str = "") -> str:
        """Return the text of `messages`. Raises DataError with the template's own words where it refuses them."""
        try:
            return self._template.render(
                messages=[{"role": m.role, "content": m.content} for m in messages],
                add_generation_prompt=add_generation_prompt,
                bos_token=self.tokenizer.bos or "",
                eos_token=self.tokenizer.eos or "",
                tools=None,
            )
        except _TEMPLATE_FAULTS as error:
            raise DataError(
                "data.template",
                f"the model's chat template says: {error}.",
                where=origin,
                remedy="Change the row's roles or order to what the template allows.",
            ) from error

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids a model is given to answer `messages`."""
        text = self.render(messages, add_generation_prompt=True)
        content = self._content_spans(messages, text, add_generation_prompt=True)
        return [token for token, _ in self._tokens(Rendered(text, content, ()))]

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
        text = whole[len(without) :]
        return [token for token, _ in self._tokens(Rendered(text, (), ()))]

    def examples(self, conversation: Conversation, *, taught: Literal["all", "last"] = "all") -> list[Example]:
        """Return what is taught of one conversation: one Example, or one per taught turn where the template forgets.

        A template that drops or rewrites earlier turns (reasoning blocks, say) makes a history that differs from the
        one each turn was said in; there every turn becomes its own Example, as it will be when served.
        """
        return [
            Example([token for token, _ in tokens], [weight for _, weight in tokens], conversation.origin)
            for tokens in (list(self._tokens(rendered)) for rendered in self.rendered(conversation, taught=taught))
        ]

    def rendered(self, conversation: Conversation, *, taught: Literal["all", "last"] = "all") -> list[Rendered]:
        """Return the texts that `examples` turns into tokens."""
        messages = conversation.messages
        turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
        turns = turns[-1:] if taught == "last" else turns
        parts = [self._turn(messages, i, conversation.origin) for i in turns]
        whole = parts[-1][0] if parts else ""
        if all(whole.startswith(text) for text, _ in parts):
            groups = [(messages[: turns[-1] + 1], whole, tuple(span for _, span in parts))] if parts else []
        else:
            groups = [(messages[: i + 1], text, (span,)) for i, (text, span) in zip(turns, parts, strict=True)]
        origin = conversation.origin
        return [Rendered(text, self._content_spans(shown, text, origin=origin), spans) for shown, text, spans in groups]

    def _turn(self, messages: Sequence[Message], index: int, origin: str) -> tuple[str, Span]:
        """Return the text up to and with assistant turn `index`, and which part of it that turn has to produce."""
        prompt = self.render(messages[:index], add_generation_prompt=True, origin=origin)
        text = self.render(messages[: index + 1], origin=origin)
        if not text.startswith(prompt):
            raise DataError(
                "data.template",
                "the model's chat template writes an answered turn differently from the prompt it answers.",
                where=origin,
                remedy="Use another template; what is served would differ from what is taught.",
            )
        # What stands after the last control token (a line end, mostly) belongs to the next turn: nobody has to say it.
        # What looks like a control token in the answer itself ends nothing.
        answer = messages[index].content.strip()
        answered = text.find(answer, len(prompt)) + len(answer) if answer in text[len(prompt) :] else len(prompt)
        ends = [match.end() for match in self._control.finditer(text, answered)]
        return text, (len(prompt), ends[-1] if ends else len(text))

    def _content_spans(
        self, messages: Sequence[Message], text: str, *, add_generation_prompt: bool = False, origin: str = ""
    ) -> tuple[Span, ...]:
        """Return where the messages' own words stand in `text`.

        Rendering once more with a private character in place of each content shows it exactly, whenever putting the
        contents back, as they are or stripped, gives `text` again. Where a template rewrites some otherwise, only those
        that look like control tokens are hidden; the others must then bring in none.
        """
        contents = [m.content for m in messages]
        marks = _unused_characters("".join(contents) + self.source, len(messages))
        controls: list[str] | None = None
        for hidden in (set(range(len(messages))), {i for i, c in enumerate(contents) if self._control.search(c)}):
            masked = [Message(m.role, marks[i]) if i in hidden else m for i, m in enumerate(messages)]
            shown = self.render(masked, add_generation_prompt=add_generation_prompt, origin=origin)
            found = self._control.findall(shown)
            controls = found if controls is None else controls
            for written in (contents, [content.strip() for content in contents]):
                spans, rebuilt = _fill(shown, {marks[i]: written[i] for i in hidden})
                if rebuilt == text and found == controls:
                    return spans
        raise DataError(
            "data.template",
            "the model's chat template rewrites a message so that its control tokens cannot be told from text.",
            where=origin,
            remedy="Take what looks like a control token out of the text.",
        )

    @cached_property
    def _control(self) -> Any:
        return self.tokenizer.control_pattern

    def _tokens(self, rendered: Rendered) -> Iterator[tuple[int, float]]:
        """Yield (id, weight). Text is cut at the template's control tokens and where a taught span begins or ends.

        The cut at the beginning of a taught span is where the served prompt ends, so the ids up to there are the ids
        that a server sees.
        """
        control = [
            match.span()
            for match in self._control.finditer(rendered.text)
            if not any(start < match.end() and match.start() < end for start, end in rendered.content)
        ]
        cuts = {0, len(rendered.text), *(edge for span in (*control, *rendered.taught) for edge in span)}
        edges = sorted(cuts)
        own = set(control)
        for start, end in zip(edges, edges[1:], strict=False):
            weight = float(any(a <= start and end <= b for a, b in rendered.taught))
            piece = rendered.text[start:end]
            ids = [self.tokenizer.control[piece]] if (start, end) in own else self.tokenizer.encode(piece)
            for token in ids:
                yield token, weight


def _fill(shown: str, contents: Mapping[str, str]) -> tuple[tuple[Span, ...], str]:
    """Return `shown` with its marks replaced by what they stand for, and where that came to stand."""
    spans, pieces, length = [], [], 0
    for character in shown:
        piece = contents.get(character, character)
        if character in contents:
            spans.append((length, length + len(piece)))
        pieces.append(piece)
        length += len(piece)
    return tuple(spans), "".join(pieces)


def _unused_characters(text: str, count: int) -> list[str]:
    """Return private-use characters that do not stand in `text`."""
    used = set(text)
    free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
    return [next(free) for _ in range(count)]
