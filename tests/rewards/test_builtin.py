"""The rewards known by name."""

from __future__ import annotations

import pytest

from fledge.config import Config
from fledge.errors import ConfigError, RewardError
from fledge.recipes.reward import handed
from fledge.rewards.builtin import MAKERS, USAGE, known
from fledge.rewards.record import Known, Sample, weights_for

CONFIG = Config.model_validate({"evaluate": {"template": "You asked: {prompt}\nIt is .*"}})
SCHEMA = '{"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}'
GERMAN = "Das ist nicht der Fall, und wir haben es auch nicht für die anderen gemacht."


def worth(spec: str, reply: str, answer: str = "") -> float:
    return known(spec, handed(CONFIG)).score(Sample("Why?", reply, answer, "a.jsonl:1"))


@pytest.mark.parametrize(
    ("spec", "reply", "answer", "expected"),
    [
        ("number", "That makes 1,234 km.", "1234", 1),
        ("number", "first 1234, then 5", "1234", 0),
        ("number", "none", "1234", 0),
        ("exact", " yes\n", "yes", 1),
        ("exact", "yes!", "yes", 0),
        ("contains", "I say yes.", "yes", 1),
        ("contains", "I say no.", "yes", 0),
        (r"regex:^\d+$", "12", "", 1),
        (r"regex:^\d+$", "12 apples", "", 0),
        ("regex:a:b", "a:b", "", 1),
        ("json", '{"a": [1, 2]}', "", 1),
        ("json", '```json\n{"a": 1}\n```', "", 1),
        ("json", '{"a": NaN}', "", 0),
        ("json", "{'a': 1}", "", 0),
        ("json", "[" * 100_000, "", 0),
        (f"json:{SCHEMA}", '{"n": 2}', "", 1),
        (f"json:{SCHEMA}", '{"n": 0}', "", 0.5),
        (f"json:{SCHEMA}", '{"n": true}', "", 0.5),
        (f"json:{SCHEMA}", "[]", "", 0.5),
        (f"json:{SCHEMA}", "n", "", 0),
        ("json:" + '{"type": "array", "items": {"enum": ["a", 1]}, "maxItems": 2}', '["a", 1]', "", 1),
        ("json:" + '{"type": "array", "items": {"enum": ["a", 1]}, "maxItems": 2}', "[true]", "", 0.5),
        ("json:" + '{"additionalProperties": false, "properties": {"a": {"pattern": "^x"}}}', '{"a": "xy"}', "", 1),
        ("json:" + '{"additionalProperties": false, "properties": {"a": {"pattern": "^x"}}}', '{"b": 1}', "", 0.5),
        ("template", "You asked: Why?\nIt is so.", "", 1),
        ("template", "It is so.", "", 0),
        ("length:2-4", "abc", "", 1),
        ("length:0-4", "", "", 1),
        ("language:de", GERMAN, "", 1),
        ("language:en", GERMAN, "", 0),
        ("unit_tests", "def f(): return 1", "assert f() == 1", 1),
    ],
)
def test_what_a_reply_is_worth(spec: str, reply: str, answer: str, expected: float) -> None:
    assert worth(spec, reply, answer) == expected


def test_a_wrong_length_is_worth_less_the_further_off_it_is() -> None:
    values = [worth("length:100-200", "x" * length) for length in (0, 50, 99, 100, 200, 201, 300, 10_000)]
    assert values[0] < values[1] < values[2] < values[3] == values[4] == 1 > values[5] > values[6] > values[7] >= 0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("nmber", "did you mean 'number'?"),
        ("number:3", "it takes nothing behind a colon. Write it as number."),
        ("regex", "a regular expression is missing. Write it as regex:PATTERN."),
        ("regex:(", "it is no regular expression"),
        ("length:9-3", "the smaller first"),
        ("length:many", "two numbers"),
        ("language:xx", "'xx' is no language"),
        ("json:{", "the schema is no JSON"),
        ('json:{"oneOf": []}', "the schema uses 'oneOf', which is not checked here"),
        ('json:{"properties": {"a": {"$ref": "#"}}}', "the schema.a uses '$ref'"),
        ('json:{"minimum": "3"}', "a minimum of '3'"),
        ('json:{"properties": []}', "a properties of []"),
        ('json:{"type": [["x"]]}', "the type ['x'], which is none"),
        ('json:{"type": "text"}', "the type 'text', which is none"),
    ],
)
def test_what_is_not_understood_is_told(spec: str, expected: str) -> None:
    with pytest.raises(ConfigError) as met:
        known(spec, handed(CONFIG))
    assert expected in str(met.value)


def test_a_template_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"no evaluate\.template"):
        known("template", handed(Config()))


@pytest.mark.parametrize(("spec", "answer"), [("number", ""), ("unit_tests", "42")])
def test_a_row_that_cannot_be_judged_is_told(spec: str, answer: str) -> None:
    with pytest.raises(RewardError, match=r"a reply to a\.jsonl:1: 'x'") as met:
        worth(spec, "x", answer)
    assert met.value.code == "reward.failed"


def test_every_name_says_how_it_is_written() -> None:
    assert [usage.partition(":")[0] for usage in USAGE] == list(MAKERS)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_that_cannot_be_meant(weights: list[float]) -> None:
    rewards = [Known("a", lambda *_: 1.0), Known("b", lambda *_: 1.0)]
    with pytest.raises(ConfigError, match="^--weights: "):
        weights_for(rewards, weights)
    assert weights_for(rewards, []) == [1.0, 1.0]
    assert weights_for(rewards, [1, -0.5]) == [1, -0.5]
