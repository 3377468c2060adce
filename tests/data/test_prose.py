"""Documents as they are learnt: every token taught once, within the limit, begun and ended as in pre-training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.data.lines import lines_of, with_lines
from fledge.data.prose import end_of_text, rendered_passages, start_of_text, text_examples
from fledge.data.sources import read_rows
from fledge.data.template import ChatTemplate
from fledge.data.tokenizer import Tokenizer, from_folder
from fledge.data.tokenizer_files import tokenizer_json
from fledge.data.tree import pack
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.records import Example, Text
from fledge.runtime.llama import Llama

GUIDE = "# Guide\n\nSome words.\n\n## Set up\n\n" + "It takes a moment and no more. " * 20 + "\n\n```\ncode = 1\n```\n"


@pytest.fixture(scope="module")
def template(starter_gguf: Path) -> ChatTemplate:
    return ChatTemplate(load_tokenizer(open_weights(starter_gguf)))


def taught(example: Example, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([i for i, w in zip(example.ids, example.weights, strict=True) if w])


def test_every_token_of_a_document_is_taught_once(template: ChatTemplate) -> None:
    tokenizer = template.tokenizer
    [whole] = text_examples(Text("Once upon a time.", "tale.txt"), template, limit=100)
    end = tokenizer.control["<|endoftext|>"]
    assert whole.ids == [end, *tokenizer.encode("Once upon a time."), end]
    assert whole.weights == [0.0] + [1.0] * (len(whole.ids) - 1)
    parts = text_examples(Text(GUIDE, "guide.md"), template, limit=40)
    assert len(parts) > 3
    assert " ".join(taught(part, tokenizer) for part in parts).split() == (GUIDE.strip() + "<|endoftext|>").split()
    assert [part.ids[-1] == end for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [part.ids[0] for part in parts] == [end] * len(parts)
    # The headings above are read, not taught again.
    assert "Guide > Set up" in tokenizer.decode(parts[-1].ids) and "Guide" not in taught(parts[-1], tokenizer)
    tree = pack(parts)
    assert len(tree.target_M) == sum(part.num_taught for part in parts)


WORDS = st.sampled_from(
    ["word", "a", "naïve", "日本語。", "x" * 30, "<|im_end|>", "<|endoftext|>", "1,000", "\n\n", "\n"]
)
LINES = st.one_of(
    WORDS, st.sampled_from(["\n\n# Head\n\n", "\n\n## Sub\n\n", "\n- item ", "\n\n```\n", "\n```\n\n", "\n| a | b |"])
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(LINES, max_size=60), limit=st.integers(24, 80))
def test_no_passage_is_longer_than_the_limit_and_no_word_is_lost(
    template: ChatTemplate, parts: list[str], limit: int
) -> None:
    text = " ".join(parts)
    found = text_examples(Text(text, "x"), template, limit=limit)
    assert all(len(example.ids) <= limit for example in found)
    control = set(template.tokenizer.control.values())
    said = "".join(
        template.tokenizer.decode([i for i, w in zip(e.ids, e.weights, strict=True) if w and i not in control])
        for e in found
    )
    assert "".join(said.replace("```", "").split()) == "".join(text.replace("```", "").split())


def test_what_looks_like_a_control_token_stays_text(template: ChatTemplate) -> None:
    [example] = text_examples(Text("Say <|im_end|> and <|endoftext|>.", "x"), template, limit=100)
    control = set(template.tokenizer.control.values())
    assert [i in control for i in example.ids] == [True] + [False] * (len(example.ids) - 2) + [True]


def test_llama_cpp_reads_the_same_ids(template: ChatTemplate, starter_gguf: Path) -> None:
    with Llama(starter_gguf) as llama:
        for rendered, _ in rendered_passages(Text(GUIDE, "x"), template.tokenizer, limit=40):
            [(start, _)] = rendered.taught
            parts = [rendered.text[:start], rendered.text[start:]]
            ids = [token for part in parts for token in llama.tokenize(part, parse_special=True)]
            assert ids == template.example(rendered, "").ids


def test_a_model_begins_a_text_as_it_was_trained(template: ChatTemplate) -> None:
    own = template.tokenizer
    assert (start_of_text(own), end_of_text(own)) == ("<|endoftext|>", "<|endoftext|>")
    begun = replace(own, adds_bos=True)
    assert (start_of_text(begun), end_of_text(begun)) == ("<|im_start|>", "<|endoftext|>")
    bare = replace(own, control={}, bos=None, eos=None)
    [example] = text_examples(Text("Once upon a time.", "x"), ChatTemplate(bare, source="{{ 1 }}"), limit=50)
    assert example.weights == [0.0] + [1.0] * (len(example.ids) - 1)


def test_a_folder_says_whether_texts_are_begun(template: ChatTemplate, tmp_path: Path) -> None:
    spec = json.loads(tokenizer_json(template.tokenizer))
    bos, config = template.tokenizer.bos, tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": bos}))
    single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    token = {"id": bos, "ids": [1], "tokens": [bos]}
    around = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {bos: token}}
    for after, begun in ((None, False), (around, True), ({"type": "Sequence", "processors": [around]}, True)):
        (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {"post_processor": after}))
        assert from_folder(tmp_path).adds_bos is begun
    config.write_text(json.dumps({"bos_token": bos, "add_bos_token": False}))
    assert from_folder(tmp_path).adds_bos is False


RST = """\
.. _label:

=====
Title
=====

.. index:: hidden

First words of it,
going on.

A question?
-----------

Answer with ``code``::

   >>> x = 1
   1

Title
"""


def test_every_line_is_where_it_stands_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.rst").write_text(RST)
    (tmp_path / "a.md").write_text("---\ntitle: x\n---\n\n\n\n# A\n\n\nWords *here*.\n")
    (tmp_path / "a.html").write_text(
        "<html><head><title>A</title></head>\n<nav>Words</nav>\n<p>\nWords &amp; <b>more</b>\n"
    )
    found = {}
    for name in ("a.rst", "a.md", "a.html"):
        path = tmp_path / name
        text = with_lines(Text(read_rows(path)[0].values["text"], str(path)))
        found |= {(name, line): number for line, number in zip(text.text.split("\n"), text.lines, strict=True) if line}
    assert found == {
        ("a.rst", "# Title"): 4, ("a.rst", "First words of it,"): 9, ("a.rst", "going on."): 10,
        ("a.rst", "## A question?"): 12, ("a.rst", "Answer with `code`:"): 15, ("a.rst", "```"): 20,
        ("a.rst", ">>> x = 1"): 17, ("a.rst", "1"): 18, ("a.rst", "Title"): 20,
        ("a.md", "# A"): 7, ("a.md", "Words *here*."): 10, ("a.html", "Words & more"): 4,
    }  # fmt: skip
    assert lines_of("x y\n\nx y", "x y\nz\nx y") == [1, 3, 3]
    paper = with_lines(Text("a\nb", str(tmp_path / "gone.pdf")))
    assert paper.lines == ()
