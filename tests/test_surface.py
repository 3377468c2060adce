"""The surface does not change by accident, and nothing on it is there for show."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import fledge
import generate
from fledge.config import Config, knobs
from fledge.config_file import load_config
from fledge.errors import ConfigError
from fledge.objective import OBJECTIVES

SOURCE = Path(fledge.__file__).parent


def test_the_surface_is_the_checked_in_list() -> None:
    listed = json.loads((generate.ROOT / "tests/surface.json").read_text(encoding="utf-8"))
    assert generate.surface() == listed, "meant? then: make docs"


def test_the_public_names_are_there() -> None:
    assert all(hasattr(fledge, name) for name in fledge.__all__)


@pytest.mark.parametrize(("command", "text"), generate.helps().items(), ids=list(generate.helps()))
def test_help_says_all(command: str, text: str) -> None:
    assert f"Example: {command}" in text or "COMMAND [ARGS]" in text
    assert not re.search(r"^  (-|[A-Z=]+ <)(?!.*  \S)", text, re.MULTILINE), "an option without a word on it"


def attributes(trees: list[ast.Module]) -> set[str]:
    """Return every attribute that some code reads."""
    reads = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in reads if isinstance(node.ctx, ast.Load)}


def told_by_name() -> set[str]:
    """Return the knobs that an objective's function is told by name; one that it does not take is a TypeError."""
    return {term for aim in OBJECTIVES.values() for term in (*aim.terms, *aim.facts_terms)}


def unread(names: list[str], trees: list[ast.Module]) -> list[str]:
    found = attributes(trees) | told_by_name()
    return [name for name in names if name.rpartition(".")[2] not in found]


def test_every_knob_is_read_somewhere() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in SOURCE.rglob("*.py") if path.name != "config.py"]
    assert unread([name for name, _ in knobs()], trees) == []
    assert unread(["train.nobody_reads_this"], trees) == ["train.nobody_reads_this"]
    assert unread(["data.x"], [ast.parse("config.data.x = 1")]) == ["data.x"], "writing is not reading"


def test_every_knob_says_what_it_is() -> None:
    assert all(len(description) > 5 for _, description in knobs())
    assert len(dict(knobs())) == len(list(knobs()))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("train: {epoch: 3}", "train.epochs"),
        ("modle: x", "model"),
        ("trian: {lr: 1}", "'train'"),
        ("data: {sytem: x}", "data.system"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, written: str, meant: str) -> None:
    (tmp_path / "fledge.yaml").write_text(f"# a comment\n{written}\n")
    with pytest.raises(ConfigError, match=re.escape("fledge.yaml:2: '")) as caught:
        load_config(tmp_path)
    assert caught.value.code == "config.unknown_key"
    assert meant in str(caught.value)


def test_an_unknown_override_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "fledge.yaml").write_text("")
    with pytest.raises(ConfigError, match="did you mean 'train.epochs'") as caught:
        load_config(tmp_path, ["train.epoch=3"])
    assert caught.value.code == "config.unknown_key"


@pytest.mark.parametrize("name", [name for name, _ in knobs()])
def test_a_near_miss_of_any_knob_is_caught(tmp_path: Path, name: str) -> None:
    (tmp_path / "fledge.yaml").write_text("")
    with pytest.raises(ConfigError, match=re.escape(f"did you mean '{name}'")):
        load_config(tmp_path, [f"{name}_=1"])
    assert load_config(tmp_path) == Config()
