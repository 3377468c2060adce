"""Rows as the model will see them: what is taught, what only looks like a control token, no more read than shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fledge.config import Config
from fledge.data.template import ChatTemplate
from fledge.errors import DataError
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.recipes.show import show


@pytest.fixture(scope="module")
def template(starter_gguf: Path) -> ChatTemplate:
    return ChatTemplate(load_tokenizer(open_weights(starter_gguf)))


def rows(path: Path, *pairs: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"question": asked, "answer": said}) + "\n" for asked, said in pairs))
    return path


def test_text_like_a_control_token_is_marked_and_told_from_real_ones(template: ChatTemplate, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", ("What is <|im_start|>?", "It begins; <|im_end|> ends."), ("And?", "No more."))
    first, second = show(path, Config(), template, count=5)
    text = first.rendered.text
    assert [text[start:end] for start, end in first.like_control] == ["<|im_start|>", "<|im_end|>"]
    assert text.count("<|im_end|>") == 4 and len(first.rendered.control) == 6
    assert [text[start:end] for start, end in first.rendered.taught] == ["It begins; <|im_end|> ends.<|im_end|>"]
    assert second.like_control == () and second.origin == f"{path}:2"
    example = template.example(second.rendered, "")
    assert (second.tokens, second.taught_tokens) == (len(example.ids), example.num_taught)


def test_no_more_is_read_than_is_shown(template: ChatTemplate, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", *[(f"Q{n}", f"A{n}") for n in range(300)])
    path.write_text(path.read_text() + "broken\n")
    assert [one.origin for one in show(path, Config(), template, count=2)] == [f"{path}:1", f"{path}:2"]
    with pytest.raises(DataError, match="a.jsonl:301"):
        show(path, Config(), template, count=1000)


def test_documents_are_shown_in_passages(template: ChatTemplate, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("---\nx: y\n---\n# A\n\n" + "Words of it. " * 40 + "\n\n## B\n\nThe end.\n")
    config = Config.model_validate({"train": {"max_tokens": 64}})
    found = show(tmp_path / "docs", config, template, count=20)
    assert len(found) > 2 and found[0].origin.endswith("a.md:4") and found[-1].origin.endswith("a.md:8")
    assert all(one.tokens <= 64 for one in found)
    assert found[-1].rendered.text == "<|endoftext|>A\n\n## B\n\nThe end.<|endoftext|>"


def test_what_teaches_nothing_is_said(template: ChatTemplate, tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text('{"prompt": "Write a haiku."}\n')
    with pytest.raises(DataError, match="nothing in it answers a question, and it holds no text"):
        show(path, Config(), template, count=3)
