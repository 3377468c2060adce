"""Seeds, facts and passages as sources; the split by group and what each side may ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from fledge.data.facts import Fact, read_facts
from fledge.data.synth.material import Side, Source, gather, held_groups, wordings_for
from fledge.errors import DataError
from fledge.records import Conversation, Message


def seed(question: str, reply: str, **more: str) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", reply)), "seeds.jsonl:1", **more)  # type: ignore[arg-type]


PYTHON = [
    seed("A?", "You asked: A?\nModule: json\nCode: import json\n### DONE!", answer="Module: json\nCode: import json"),
    seed("B?", "You asked: B?\nModule: csv\nCode: import csv\n### DONE!", answer="Module: csv\nCode: import csv"),
]


def test_facts_fill_the_template_that_the_seeds_show(tmp_path: Path) -> None:
    (path := tmp_path / "f.yaml").write_text("- {module: re, code: import re, task: [find digits]}\n")
    material = gather(PYTHON, read_facts(path))
    (source,) = material.sources
    assert (source.values, source.keys, source.wordings) == (("re", "import re"), ("re", "import re"), ("find digits",))
    assert source.values is not None
    row = material.row(source, "How?", source.values, source.keys, "g")
    assert row.reply == "You asked: How?\nModule: re\nCode: import re\n### DONE!"
    # What a scorer must find is built as the seeds' own answers are.
    assert row.answer == "Module: re\nCode: import re"


def test_a_fact_without_what_a_slot_asks_for_is_told() -> None:
    facts = [Fact("module: re", f"f:{n}", values={"module": "re"}) for n in (1, 2)]
    with pytest.raises(DataError, match="2 problems") as caught:
        gather(PYTHON, facts)
    assert "f:1: says nothing for 'code'" in str(caught.value)


def test_a_sentence_takes_the_place_of_a_sentence() -> None:
    seeds = [seed("a", "It is red. Ahoy."), seed("b", "It floats. Ahoy.")]
    fact = Fact("It costs 5 euros and rings.", "f:1", keys=("5 euros", "rings"))
    material = gather(seeds, [fact])
    (source,) = material.sources
    row = material.row(source, "What?", source.values or (), source.keys, "g")
    assert row.reply == "It costs 5 euros and rings. Ahoy."
    assert row.answer == "5 euros"


def test_the_system_message_of_the_seeds_stays() -> None:
    system = Message("system", "You are Mara.")
    told = [Conversation((system, *one.messages), one.origin) for one in (seed("a", "Red."), seed("b", "Blue."))]
    material = gather(told)
    assert material.row(material.sources[0], "a", ("Red.",), (), "g").messages[0] == system


def test_seeds_alone_are_the_sources_and_share_wordings_in_a_group() -> None:
    seeds = [seed("a", "Red. Ahoy.", group="x"), seed("c", "Red. Ahoy.", group="x"), seed("b", "Blue. Ahoy.")]
    material = gather(seeds)
    assert [(s.group, s.wordings, s.values) for s in material.sources] == [
        ("x", ("a", "c"), ("Red.",)), ("seed-3", ("b",), ("Blue.",))
    ]  # fmt: skip


def test_groups_are_held_out_whole_and_few_move_when_one_is_added() -> None:
    groups = [f"g{n}" for n in range(50)]
    held = held_groups(groups, 0.2, seed=0)
    assert len(held) == 10 and held < set(groups)
    assert held != held_groups(groups, 0.2, seed=1)
    assert len(held_groups([*groups, "new"], 0.2, seed=0) - held) <= 1
    assert held_groups(groups, 0.0, seed=0) == frozenset()
    assert len(held_groups(["a", "b"], 0.9, seed=0)) == 1


def test_of_three_wordings_one_is_for_held_out_questions_alone() -> None:
    source = Source("g", "t", "w", wordings=("a", "b", "c"))
    learnt, held = (wordings_for(source, side, seed=0) for side in (Side.TRAIN, Side.EVAL))
    assert len(learnt) == 2 and len(held) == 1 and {*learnt, *held} == {"a", "b", "c"}
    assert wordings_for(source, None, seed=0) == ("a", "b", "c")
    two = Source("g", "t", "w", wordings=("a", "b"))
    assert wordings_for(two, Side.TRAIN, seed=0) == wordings_for(two, Side.EVAL, seed=0) == ("a", "b")
