"""Kept tokens are those that would be made again, and are made again whenever anything they depend on changes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.data import token_cache
from fledge.data.template import ChatTemplate
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.records import Conversation, Example, Message


@pytest.fixture(scope="module")
def template(starter_gguf: Path) -> ChatTemplate:
    return ChatTemplate(load_tokenizer(open_weights(starter_gguf)))


def rows(count: int = 30) -> list[Conversation]:
    return [
        Conversation((Message("user", f"Q{n} 東"), Message("assistant", f"A{n} " * (n % 5 + 1))), f"r.jsonl:{n}")
        for n in range(count)
    ]


def keep(folder: Path, key: str, made: list[list[Example]]) -> None:
    token_cache.save(folder, key, [example for own in made for example in own], [len(own) for own in made])


def test_what_was_kept_comes_back_as_it_was(tmp_path: Path, template: ChatTemplate) -> None:
    made = [template.examples(row) for row in rows()]
    key = token_cache.key_of(rows(), template, "all")
    assert token_cache.load(tmp_path, key, rows()) is None
    keep(tmp_path, key, made)
    found = token_cache.load(tmp_path, key, rows())
    assert found is not None and list(found) == made
    moved = [replace(row, origin=f"other:{n}") for n, row in enumerate(rows())]
    assert token_cache.key_of(moved, template, "all") == key, "where a row stands changes no token"
    kept = token_cache.load(tmp_path, key, moved)
    assert kept is not None
    assert list(kept)[3][0].origin == "other:3"


def test_whatever_tokens_depend_on_makes_another_key(template: ChatTemplate) -> None:
    tokenizer = template.tokenizer
    other = replace(tokenizer, control=dict(list(tokenizer.control.items())[1:]))
    keys = [
        token_cache.key_of(rows(), template, "all"),
        token_cache.key_of(rows(), template, "last"),
        token_cache.key_of(rows()[1:], template, "all"),
        token_cache.key_of(rows()[::-1], template, "all"),
        token_cache.key_of([replace(row, tools="[]") for row in rows()], template, "all"),
        token_cache.key_of(rows(), ChatTemplate(tokenizer, source=template.source + " "), "all"),
        token_cache.key_of(rows(), ChatTemplate(other, source=template.source), "all"),
    ]
    assert len(set(keys)) == len(keys)


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, template: ChatTemplate) -> None:
    made = [template.examples(row) for row in rows()]
    key = token_cache.key_of(rows(), template, "all")
    keep(tmp_path, key, made)
    (path,) = tmp_path.glob("*.tokens")
    raw = path.read_bytes()
    for place in range(0, len(raw), 97):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        assert token_cache.load(tmp_path, key, rows()) is None, place
        path.write_bytes(raw[:place])
        assert token_cache.load(tmp_path, key, rows()) is None


def test_the_oldest_make_room(tmp_path: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [template.examples(row) for row in rows()]
    keep(tmp_path, "first", made)
    size = (tmp_path / "first.tokens").stat().st_size
    monkeypatch.setattr(token_cache, "MAX_BYTES", int(2.5 * size))
    for number, name in enumerate(("second", "third")):
        os.utime(tmp_path / "first.tokens", (number, number))
        keep(tmp_path, name, made)
    assert sorted(path.stem for path in tmp_path.glob("*")) == ["second", "third"]
    os.chmod(tmp_path, 0o500)
    keep(tmp_path / "no" / "room", "fourth", made)
    os.chmod(tmp_path, 0o700)
