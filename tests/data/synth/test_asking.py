"""What a teacher is asked and how its answer is read; the journal of what was paid for; the diversity figures."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from fledge.data.facts import Fact
from fledge.data.synth import asking
from fledge.data.synth.diversity import distance_within, distinct_2
from fledge.data.synth.journal import Journal, Said, locked
from fledge.data.synth.material import Material, Side, Source, gather
from fledge.errors import DataError
from fledge.records import Conversation, Message

SEEDS = [
    Conversation((Message("user", q), Message("assistant", a)), "s:1")
    for q, a in (("Red?", "It is red. Ahoy."), ("Float?", "It floats. Ahoy."))
]
FACTS = gather(SEEDS, [Fact("It costs 5 euros.", "f:1", keys=("5 euros",), questions=("the price",))])
PASSAGES = gather(SEEDS, passages=[Source("p#1", "The lamp is trimmed at dusk.", "p.md:1")])


def asked(material: Material, number: int = 0, side: Side = Side.TRAIN, avoid: tuple[str, ...] = ()) -> asking.Request:
    return asking.request(material, material.sources[0], side, number, teacher="t", avoid=avoid, count=3)


def test_a_known_answer_asks_for_questions_only() -> None:
    request = asked(FACTS)
    assert request.fields == ("question",)
    assert all(part in request.prompt for part in ("It costs 5 euros.", "- the price", '"5 euros"', "3 different"))
    assert request.schema["properties"]["questions"]["items"] == {"type": "string"}


def test_a_passage_asks_for_answers_with_their_quotes() -> None:
    request = asked(PASSAGES)
    assert request.fields == ("question", "answer", "quote")
    assert "It floats. Ahoy." in request.prompt and "letter for letter" in request.prompt
    assert request.schema["properties"]["rows"]["items"]["required"] == ["question", "answer", "quote"]


def test_the_key_names_a_request_whatever_was_kept_before() -> None:
    assert asked(FACTS).key == asked(FACTS, avoid=("What?",)).key
    keys = {asked(FACTS).key, asked(FACTS, 1).key, asked(FACTS, 0, Side.EVAL).key, asked(PASSAGES).key}
    assert len(keys) == 4


def test_styles_of_held_out_questions_are_their_own() -> None:
    assert not set(asking.STYLES[Side.TRAIN]) & set(asking.STYLES[Side.EVAL])
    assert any(style in asked(FACTS, 0, Side.EVAL).prompt for style in asking.STYLES[Side.EVAL])


@pytest.mark.parametrize(
    "text",
    [
        '{"questions": ["How much?", "What price?"]}',
        'Sure! Here:\n```json\n{"questions": ["How much?", "What price?"]}\n```\nBye.',
        '["How much?", "What price?"]',
        '{"questions": [{"question": "How much?"}, {"question": "What price?"}]}',
        "1. How much?\n2. What price?\nThat is all.",
        '- "How much?"\n- What price?\n',
        '{"questions": ["How much?", "What price?", "And wh',
    ],
)
def test_questions_are_found_in_what_teachers_say(text: str) -> None:
    found = asking.candidates(text, asked(FACTS), FACTS, FACTS.sources[0], Side.TRAIN)
    assert found is not None
    assert [row.question for row in found][:2] == ["How much?", "What price?"]
    assert found[0].answer == "It costs 5 euros. Ahoy."


@pytest.mark.parametrize("text", ["", "I cannot do that.", "{}", '{"questions": []}', "[1, 2]", "{" * 9000])
def test_what_cannot_be_read_is_none(text: str) -> None:
    assert asking.candidates(text, asked(FACTS), FACTS, FACTS.sources[0], Side.TRAIN) is None


def test_answers_of_a_passage_are_put_into_the_template() -> None:
    text = json.dumps({"rows": [{"question": "When?", "answer": "It is trimmed at dusk.", "quote": "at dusk"}]})
    found = asking.candidates(text, asked(PASSAGES), PASSAGES, PASSAGES.sources[0], Side.EVAL)
    assert found is not None
    assert (found[0].answer, found[0].quote, found[0].side) == ("It is trimmed at dusk. Ahoy.", "at dusk", Side.EVAL)


def test_a_journal_gives_back_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.journal"
    journal = Journal(path)
    journal.add("a", Said("ä\n", 3, 4))
    journal.add("b", Said("x", 1, 2, estimated=True))
    again = Journal(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == (Said("ä\n", 3, 4), Said("x", 1, 2, True), None)


def test_a_journal_cut_off_anywhere_keeps_every_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    for name in "abc":
        journal.add(name, Said(f"said {name} " + "at length " * 20, 1, 1))
    whole = path.read_bytes()
    ends = [0, *(place + 1 for place, byte in enumerate(whole) if byte == 10)]
    for (start, end), count in zip(pairwise(ends), (0, 1, 2), strict=True):
        for cut in {start, start + 1, (start + end) // 2, end - 1}:
            path.write_bytes(whole[:cut])
            torn = Journal(path)
            assert len(torn) == count
            torn.add("z", Said("after", 1, 1))
            assert len(Journal(path)) == count + 1
            assert Journal(path).get("z") == Said("after", 1, 1)


def test_a_file_that_is_no_journal_is_told(tmp_path: Path) -> None:
    (path := tmp_path / "j").write_text('{"key": "a", "text": "x", "tokens_in": 1, "tokens_out": 1}\n[1]\n')
    with pytest.raises(DataError, match=r"j:2: is no line of a journal"):
        Journal(path)


def test_a_journal_knows_its_output_until_it_is_changed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.will_write("rows\n")
    (out := tmp_path / "rows.jsonl").write_text("rows\n")
    assert Journal(tmp_path / "j").knows(out)
    out.write_text("rows, mended by hand\n")
    assert not Journal(tmp_path / "j").knows(out)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with locked(out), pytest.raises(DataError, match="another run is writing it"), locked(out):
        pass
    with locked(out):
        pass
    assert os.listdir(tmp_path) == []


def test_diversity_by_hand() -> None:
    # "a b" has the pairs (, a) (a, b) (b, ): three, and with "a c" two more of six in all.
    assert distinct_2(["a b"]) == 1.0
    assert distinct_2(["a b", "a c"]) == 5 / 6
    assert distinct_2(["a b", "A b?"]) == 0.5
    assert distinct_2([]) == 0.0
    assert distance_within([["a b", "a c"], ["d"]]) == pytest.approx(1 - 1 / 5)
    assert distance_within([["a b", "a b"]]) == 0.0
    assert distance_within([["a"], ["b"]]) == 0.0
