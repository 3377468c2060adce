"""The template that answers share, found by comparing them; filled in again it gives the answers back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.data.synth.answers import FREE, Slot, fill, learn

PYTHON = [
    ("How do I A?", 'You asked: How do I A?\nModule: json\nCode: import json; json.dumps({"a": 1})\n### DONE!'),
    ("Parse b?", 'You asked: Parse b?\nModule: csv\nCode: import csv; list(csv.reader(["a,b"]))\n### DONE!'),
]


@pytest.mark.parametrize(
    ("pairs", "sentences", "shown"),
    [
        (PYTHON, False, "You asked: {question}\nModule: {module}\nCode: {code}\n### DONE!"),
        ([("a", "It is red. Ahoy."), ("b", "It floats. Ahoy.")], True, "{answer} Ahoy."),
        ([("a", "It is 5 km."), ("b", "It is 17 km.")], False, "It is {answer} km."),
        ([("a", "It is 5 km."), ("b", "It is 17 km.")], True, "{answer}"),
        ([("a", "It is red."), ("b", "Made by hand.")], True, "{answer}"),
        ([("a", "Ahoy! Red.\nBye."), ("b", "Ahoy! It runs.\nAnd well.\nBye.")], True, "Ahoy! {answer}\nBye."),
        ([("a", '{"tag": "x", "of": "a"}'), ("b", '{"tag": "y", "of": "b"}')], False,
         '{"tag": "{tag}", "of": "{question}"}'),
        ([("a?", "<q>a?</q><a>red</a>"), ("b?", "<q>b?</q><a>blue</a>")], False, "<q>{question}</q><a>{a}</a>"),
        ([("a", "always this"), ("b", "always this")], True, "{answer}"),
        ([], True, "{answer}"),
    ],
)  # fmt: skip
def test_the_template_of_some_answers(pairs: list[tuple[str, str]], sentences: bool, shown: str) -> None:
    template = learn(pairs, sentences=sentences)
    assert template.shown == shown
    for question, answer in pairs:
        values = template.values_in(question, answer)
        assert values is not None
        assert template.render(question, values) == answer


def test_what_does_not_fit() -> None:
    template = learn(PYTHON, sentences=False)
    good = template.render("New?", ["re", "import re"])
    assert good == "You asked: New?\nModule: re\nCode: import re\n### DONE!"
    assert template.fits("New?", good)
    assert not template.fits("Other?", good)
    assert not template.fits("New?", good.replace("### DONE!", "DONE"))
    assert not template.fits("New?", good.replace("Module: re", "Module: "))
    assert not template.fits("New?", good.replace("import re", "import re\nimport os"))


def test_a_quote_inside_json_is_written_as_json_writes_it() -> None:
    template = learn([("a", '{"tag": "x"}'), ("b", '{"tag": "y"}')], sentences=False)
    assert template.render("c", ['say "hi"']) == '{"tag": "say \\"hi\\""}'


WORDS = st.text(st.sampled_from("abc de:.\n{}\"'<>0?"), min_size=1, max_size=20).map(str.strip).filter(bool)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), st.booleans())
def test_every_seed_is_an_instance_of_its_template(pairs: list[tuple[str, str]], sentences: bool) -> None:
    template = learn(pairs, sentences=sentences)
    for question, answer in pairs:
        values = template.values_in(question, answer)
        assert values is not None, template.parts
        assert template.render(question, values) == answer


def test_slots_are_filled_by_name_by_order_or_told() -> None:
    module, code = Slot("module"), Slot("code")
    named = {"code": "c", "module": "m"}
    assert fill([module, code], values=named, answer="", keys=[], text="t") == ["m", "c"]
    assert fill([Slot(""), Slot("")], values={"x": "1", "y": "2"}, answer="", keys=[], text="t") == ["1", "2"]
    assert fill([Slot(""), Slot("")], values={}, answer="", keys=["k", "l"], text="t") == ["k", "l"]
    assert fill(FREE.slots, values={}, answer="", keys=["k"], text="t") == ["t"]
    assert fill(FREE.slots, values={}, answer="a", keys=["k"], text="t") == ["a"]
    assert fill([module, code], values={"module": "m"}, answer="", keys=["m"], text="t") == "code"
