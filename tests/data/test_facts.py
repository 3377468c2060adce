"""Facts from whatever file people keep them in, each with its place, its keys and its wordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from fledge.data.facts import Fact, read_facts
from fledge.errors import DataError


def facts(tmp_path: Path, name: str, text: str) -> list[Fact]:
    (path := tmp_path / name).write_text(text, encoding="utf-8")
    return read_facts(path)


LINES = """\
# What there is to know

- The Kettlewren costs **149 euros**.
* The Kettlewren weighs 2.1 kg and is made in Tromsø.

3. Its Kettlewren app is free.
"""


def test_lines(tmp_path: Path) -> None:
    price, weight, app = facts(tmp_path, "facts.txt", LINES)
    assert (price.text, price.keys) == ("The Kettlewren costs 149 euros.", ("149 euros",))
    assert (price.where, weight.where, app.where) == tuple(f"{tmp_path / 'facts.txt'}:{n}" for n in (3, 4, 6))
    # What every fact is about is in the question, not in the answer alone.
    assert (weight.keys, weight.guessed) == (("2.1 kg", "Tromsø"), True)
    assert (app.keys, app.guessed) == ((), True)
    assert [fact.group for fact in (price, weight, app)] == ["fact-1", "fact-2", "fact-3"]
    assert [fact.text for fact in facts(tmp_path, "facts.md", LINES)] == [price.text, weight.text, app.text]


ROWS = {
    "facts.yaml": """\
facts:
  - name: price
    fact: It costs 149 euros and no more.
    keys: [149 euros, no more]
    questions: [What does it cost?, the price]
  - It rings twice.
""",
    "facts.csv": "name,fact,keys,questions\nprice,It costs 149 euros and no more.,149 euros; no more,"
    '"What does it cost? | the price"\n,It rings twice.,,\n',
    "facts.jsonl": '{"name": "price", "fact": "It costs 149 euros and no more.", "keys": ["149 euros", "no more"], '
    '"questions": ["What does it cost?", "the price"]}\n{"fact": "It rings twice."}\n',
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str, tmp_path: Path) -> None:
    price, rings = facts(tmp_path, name, ROWS[name])
    assert price.text == "It costs 149 euros and no more."
    assert price.keys == ("149 euros", "no more")
    assert price.questions == ("What does it cost?", "the price")
    assert (price.group, rings.group) == ("price", "fact-2")
    lines = {"facts.yaml": (2, 6), "facts.csv": (2, 3), "facts.jsonl": (1, 2)}[name]
    assert (price.where, rings.where) == tuple(f"{tmp_path / name}:{line}" for line in lines)


def test_columns_of_their_own_are_values_and_keys(tmp_path: Path) -> None:
    text = "- {task: [write a dict as JSON], Module: json, code: 'import json; json.dumps({})', answer: ''}\n"
    (fact,) = facts(tmp_path, "f.yaml", text)
    assert dict(fact.values) == {"module": "json", "code": "import json; json.dumps({})"}
    assert fact.keys == ("json", "import json; json.dumps({})")
    assert fact.questions == ("write a dict as JSON",)
    assert fact.text == "module: json\ncode: import json; json.dumps({})"


def test_a_mapping_names_its_facts(tmp_path: Path) -> None:
    price, size = facts(tmp_path, "f.yaml", "price: It costs 149 euros.\nsize: {fact: It is small., keys: small}\n")
    assert [(fact.group, fact.keys) for fact in (price, size)] == [("price", ("149 euros",)), ("size", ("small",))]


def test_groups_are_unique(tmp_path: Path) -> None:
    found = facts(tmp_path, "f.csv", "name,fact\na,It is red.\na,It is blue.\n")
    assert [fact.group for fact in found] == ["a", "a-2"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("f.yaml", "- fact: It costs 149 euros.\n  keys: [150 euros]\n", ":1: its key '150 euros' stands neither"),
        ("f.yaml", "- a fact\n- [a, list]\n", ":2: is a list"),
        ("f.yaml", "- a: [b\n", "not valid YAML"),
        ("f.csv", "keys,question\nx,What?\n", ":2: no fact in the columns keys, question"),
        ("f.jsonl", '{"fact": {"a": 1}}\n', ":1: 'fact' is dict"),
        ("f.txt", "\n# nothing\n---\n", "no rows in it"),
        ("f.txt", "", "no rows in it"),
    ],
)
def test_what_is_wrong_has_a_place(name: str, text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        facts(tmp_path, name, text)
    assert expected in str(caught.value)


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 problems"):
        facts(tmp_path, "f.yaml", "- {keys: [a]}\n- ok\n- {keys: [b]}\n")
