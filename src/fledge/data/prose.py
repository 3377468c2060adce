"""Documents as they are learnt for continued pre-training: cut into passages, every token taught.

A passage begins with the token that begins a text in the model's own pre-training; the last one of a document ends with
the token that ends a text there. The headings above a passage, which are taught where they stand, are read before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fledge.data.passages import Passage, passages
from fledge.data.template import ChatTemplate, Rendered
from fledge.data.tokenizer import Place, Tokenizer
from fledge.records import Example, Text

# What models call the end of a text; the end of a turn, which chat models have for `eos`, is something else.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<｜end▁of▁sentence｜>", "[EOS]")
# Words that are cut in two where headings end may come to a token more than they were measured as.
SPARE_TOKENS = 2


def end_of_text(tokenizer: Tokenizer) -> str | None:
    """Return the control token that ends a text, or None where the model has none."""
    return next((name for name in ENDS if name in tokenizer.control), tokenizer.eos)


def start_of_text(tokenizer: Tokenizer) -> str | None:
    """Return the control token before a text: the model's own, or the end of the text before it, as in pre-training."""
    return tokenizer.bos if tokenizer.adds_bos and tokenizer.bos else end_of_text(tokenizer)


def rendered_passages(document: Text, tokenizer: Tokenizer, *, limit: int) -> Iterator[tuple[Rendered, str]]:
    """Yield each passage of a document as the model will see it, of at most `limit` tokens, and its file:line."""
    start, end = start_of_text(tokenizer) or "", end_of_text(tokenizer) or ""
    place = Place.AFTER_CONTROL if start else Place.START

    def measure(text: str) -> int:
        return len(tokenizer.encode(text, place))

    room = limit - bool(start) - bool(end) - SPARE_TOKENS
    found = list(passages(document, max(1, room), measure))
    for number, passage in enumerate(found, start=1):
        yield _rendered(passage, start, end if number == len(found) else ""), passage.where


def _rendered(passage: Passage, start: str, end: str) -> Rendered:
    head = start + passage.context
    text = head + passage.text + end
    control = [(0, len(start))] if start else []
    control += [(len(text) - len(end), len(text))] if end else []
    return Rendered(text, tuple(control), ((len(head), len(text)),))


def text_examples(document: Text, template: ChatTemplate, *, limit: int) -> list[Example]:
    """Return what is taught of a document: one Example for each passage, none longer than `limit` tokens."""
    found = [
        template.example(rendered, where)
        for rendered, where in rendered_passages(document, template.tokenizer, limit=limit)
    ]
    # Where no token begins a text, nothing could tell its first.
    found = [replace(example, weights=[0.0, *example.weights[1:]]) for example in found]
    return [example for example in found if example.num_taught]
