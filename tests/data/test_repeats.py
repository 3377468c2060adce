"""Near duplicates against the plain comparison of all pairs, and what is wrong between rows against planted faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from fledge.data.checks import near, repeats
from fledge.data.checks.look import Asked, Rows, Seen, load, look
from fledge.errors import Finding
from fledge.records import Conversation, Message, Record, Text


def prose(rng: random.Random, count: int) -> str:
    letters = "etaoinshrdlucm"
    return " ".join("".join(rng.choices(letters, k=rng.randint(4, 9))) for _ in range(count))


def test_a_sketch_is_of_the_text_alone() -> None:
    rng = random.Random(0)
    texts = ["", "a", "ab", "four", "seven77", *(prose(rng, n) for n in (1, 5, 50, 2000))]
    together = near.sketch(texts)
    assert together.shape == (len(texts), near.BANDS)
    for text, row in zip(texts, together, strict=True):
        assert (near.sketch([text])[0] == row).all()
    assert (near.sketch(list(reversed(texts)))[::-1] == together).all()


def test_bands_agree_as_the_formula_says() -> None:
    rng = random.Random(1)
    for changed in (1, 8, 24):
        shares, met = [], 0
        for _ in range(200):
            words = prose(rng, 80).split()
            other = list(words)
            for place in rng.sample(range(80), changed):
                other[place] = prose(rng, 1)
            one, two = " ".join(words), " ".join(other)
            windows = [{text[n : n + near.WINDOW_BYTES] for n in range(len(text))} for text in (one, two)]
            share = len(windows[0] & windows[1]) / len(windows[0] | windows[1])
            shares.append(1 - (1 - share**4) ** 16)
            a, b = near.sketch([one, two])
            met += int((a == b).any())
        assert met / 200 == pytest.approx(sum(shares) / 200, abs=0.08)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("what is the capital of france", "what is the capital of france", True),
        ("what is the capital of france", "what is the captial of france", True),
        ("what is the capital of france", "what is a capital of france", True),
        ("what is the capital of france", "what is the capital of spain", False),
        ("which module reads json files", "which module reads toml files", False),
        ("what is 12 plus 17", "what is 12 plus 18", False),
        ("you should do it now", "you should not do it now", False),
        ("", "what", False),
        ("tom has 2 boxes with 3 pens each and 5 more", "tom has 3 boxes with 2 pens each and 5 more", False),
    ],
)
def test_what_is_alike(one: str, other: str, same: bool) -> None:
    assert near.alike(one, other) is same
    assert near.alike(other, one) is same


def row(question: str, answer: str, origin: str, group: str | None = None) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), origin, group=group)


def seen(rows: Sequence[Record], folder: Path) -> Rows:
    found = list(look(rows, Asked(), folder))
    assert isinstance(found[-1], Seen)
    assert found[-1].rows == len(rows)
    return load([folder])


def nothing(done: int, total: int) -> None: ...


def test_all_near_duplicates_are_found_and_no_others(tmp_path: Path) -> None:
    rng = random.Random(2)
    rows = [row(prose(rng, 8), prose(rng, 60), f"x:{n}") for n in range(150)]
    for n in range(0, 150, 5):
        words = rows[n].reply.split()
        words[rng.randrange(60)] += "s"
        rows.append(row(rows[n].messages[0].content, " ".join(words), f"x:{len(rows)}"))
    rng.shuffle(rows)
    figures = seen(rows, tmp_path / "p")
    found, whole = repeats.near_duplicates(figures, np.ones(len(rows), dtype=bool), step=nothing)
    assert whole
    # The oracle compares all pairs.
    pairs = [
        (a, b)
        for a, b in combinations(range(len(rows)), 2)
        if near.alike(rows[a].messages[0].content, rows[b].messages[0].content)
        and near.says_alike(rows[a].reply, rows[b].reply)
    ]
    assert len(pairs) == 30
    assert {repeat.row for repeat in found} == {b for _, b in pairs}


def test_duplicates_and_contradictions(tmp_path: Path) -> None:
    rows = [
        row("Who?", "Me.", "x:1"),
        row("who ?", "me.", "x:2"),
        row("Who?", "You.", "x:3"),
        row("Why?", "So.", "x:4"),
    ]
    # A short answer is the same whatever its case and marks.
    rows += [row("What then?", "Ann", "x:5"), row("What then?", "ann.", "x:6")]
    figures = seen(rows, tmp_path / "p")
    every = np.ones(6, dtype=bool)
    assert [(r.row, r.finding.code) for r in repeats.exact_duplicates(figures, every)] == [(1, "data.duplicate")]
    [found] = repeats.contradictions(figures, every)
    assert (found.row, found.finding.where) == (2, "x:3")
    assert "x:1" in found.finding.message
    assert list(repeats.exact_duplicates(figures, np.array([True, False, True, True, True, True]))) == []


def test_a_leak_is_told_once_however_it_leaks(tmp_path: Path) -> None:
    rng = random.Random(3)
    questions = [prose(rng, 12) for _ in range(6)]
    train = [row(q, "one answer", f"t:{n}", group=f"g{n}") for n, q in enumerate(questions)]
    held = [
        row(questions[0].upper() + "?", "another", "e:exact"),
        row(f"Please, {questions[1]}", "another", "e:near"),
        row(prose(rng, 12), "another", "e:group", group="g2"),
        row(prose(rng, 12), "one answer", "e:clean", group="g9"),
        row(questions[3], "one answer", "e:all", group="g3"),
    ]
    figures = seen([*train, *held], tmp_path / "p")
    sides = np.arange(len(train) + len(held)) >= len(train)
    found = repeats.leaks(figures, ~sides, sides, step=nothing)
    assert [r.finding.where for r in found] == ["e:exact", "e:near", "e:group", "e:all"]
    assert repeats.leaks(figures, sides & False, sides, step=nothing) == []


def test_what_a_row_says_survives_the_spool(tmp_path: Path) -> None:
    rows = [row("Was\0 ist?", "Größe\n你好", "a:1"), row("", "x" * 20_000, "a:2")]
    figures = seen(rows, tmp_path / "p")
    assert figures.words(0) == ("a:1", "Was  ist", "grösse 你好", "Größe\n你好")
    assert figures.words(1)[0] == "a:2"


def test_faulty_rows_are_passed_on_and_counted(tmp_path: Path) -> None:
    fault = Finding("data.bad_row", "x:1", "broken.", "Mend it.")
    found = list(look([fault, row("a", "b", "x:2")], Asked(), tmp_path / "p"))
    assert found[0] is fault
    assert isinstance(found[-1], Seen)
    assert (found[-1].rows, found[-1].errors, found[-1].counts["data.bad_row"]) == (1, 1, 1)


SYLLABLES = ("ka", "lo", "mi", "ra", "te", "su", "no", "vi", "pe", "du", "zo", "ba")
PRICED = "What is the monthly price of the product called {} when I order it from the web shop of your company?"


def test_rows_of_one_template_are_told_apart_and_their_copies_found(tmp_path: Path) -> None:
    """Of 5,000 such rows every one was the next row's neighbour: 163 of 200 copies were missed, 96 of 100 names met."""
    rng = random.Random(5)
    names = list(dict.fromkeys("".join(rng.choices(SYLLABLES, k=4)) for _ in range(1500)))
    learnt = [row(PRICED.format(name), f"It is {n} euros.", f"t:{n}") for n, name in enumerate(names[:1000])]
    copied = [one.messages[0].content for one in learnt[:50]]
    near_ones = [text.replace("monthly", "montly").replace("the web", "a web") for text in copied]
    held = [row(text, "x", f"copy:{n}") for n, text in enumerate(near_ones)]
    held += [row(PRICED.format(name), "y", f"fresh:{n}") for n, name in enumerate(names[1000:1100])]
    figures = seen([*learnt, *held], tmp_path / "leaks")
    sides = np.arange(len(learnt) + len(held)) >= len(learnt)
    found = repeats.leaks(figures, ~sides, sides, step=nothing)
    assert [repeat.finding.where for repeat in found] == [f"copy:{n}" for n in range(50)]
    copies = [row(text, one.reply, f"copy:{n}") for n, (text, one) in enumerate(zip(near_ones, learnt, strict=False))]
    figures = seen([*learnt, *copies], tmp_path / "near")
    again, whole = repeats.near_duplicates(figures, np.ones(1050, dtype=bool), step=nothing)
    assert whole and [repeat.finding.where for repeat in again] == [f"copy:{n}" for n in range(50)]


def test_many_answers_to_one_question_are_compared_too(tmp_path: Path) -> None:
    rng = random.Random(6)
    poems = [prose(rng, 60) for _ in range(400)]
    rows = [row("Write a poem.", poem, f"x:{n}") for n, poem in enumerate(poems)]
    rows += [row("Please write a poem!", poem + " end", f"copy:{n}") for n, poem in enumerate(poems[:30])]
    found, _ = repeats.near_duplicates(seen(rows, tmp_path / "p"), np.ones(430, dtype=bool), step=nothing)
    assert [repeat.finding.where for repeat in found] == [f"copy:{n}" for n in range(30)]


def test_texts_leak_by_nearly_the_same_words(tmp_path: Path) -> None:
    rng = random.Random(7)
    long = [prose(rng, 80) for _ in range(20)]
    short = "The quick brown fox jumps over the lazy dog and then goes home to sleep while it rains: all night."
    learnt = [*(Text(text, f"t:{n}") for n, text in enumerate(long)), Text(short, "t:short")]
    changed = [text.replace(" ", ", ", 1).replace(text.split()[40], "whilst", 1) for text in long[:5]]
    held = [Text(text, f"copy:{n}") for n, text in enumerate(changed)]
    held += [
        Text(short.replace(" and then", ", and then").replace("while", "whilst").replace(":", " :"), "copy:short"),
        Text(prose(rng, 80), "fresh:long"),
        Text(short.replace("fox", "cat"), "fresh:short"),
    ]
    figures = seen([*learnt, *held], tmp_path / "p")
    sides = np.arange(len(learnt) + len(held)) >= len(learnt)
    found = repeats.leaks(figures, ~sides, sides, step=nothing)
    assert [repeat.finding.where for repeat in found] == [*(f"copy:{n}" for n in range(5)), "copy:short"]
    assert "says nearly what t:short says" in found[-1].finding.message


def chat(origin: str, *turns: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[n % 2], text) for n, text in enumerate(turns)), origin)


def test_a_question_leaks_through_a_turn_of_a_chat(tmp_path: Path) -> None:
    asked = "What is the warranty period of the lamp?"
    rows = [
        chat("t:chat", "Hello there friend", "Hi!", asked, "Two years.", "Thanks a lot", "You are welcome."),
        chat("t:one", "Which colours has the lamp?", "Red."),
        chat("e:turn", asked, "Two years."),
        chat("e:small", "Thanks a lot", "You are welcome."),
        chat("e:chat", "Hello my friend", "Hi!", "Which colours has this lamp?", "Red."),
        chat("e:fresh", "Where is the lamp made?", "Here."),
    ]
    figures = seen(rows, tmp_path / "p")
    sides = np.arange(6) >= 2
    found = {
        repeat.finding.where: repeat.finding.message for repeat in repeats.leaks(figures, ~sides, sides, step=nothing)
    }
    assert list(found) == ["e:turn", "e:chat"]
    assert "asks what a turn of t:chat asks" in found["e:turn"]


def test_under_another_system_message_a_question_is_another(tmp_path: Path) -> None:
    def under(system: str, question: str, origin: str) -> Conversation:
        return Conversation((Message("system", system), *row(question, "x", origin).messages), origin)

    rows = [under("In French.", "Hello there, world", "t:1"), under("In German.", "Hello there, a world", "e:1")]
    sides = np.array([False, True])
    assert repeats.leaks(seen(rows, tmp_path / "p"), ~sides, sides, step=nothing) == []
