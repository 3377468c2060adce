"""What documents ask and answer themselves: found in every way people write it, and nothing made up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rapidfuzz import fuzz

from fledge.data.lines import with_lines
from fledge.data.questions import questions_of
from fledge.data.sources import read_rows
from fledge.records import Text

FAQ = Path(__file__).parents[3] / "shared" / "data" / "python_faq"


def found(text: str) -> list[tuple[str, str]]:
    return [(asked.question, asked.answer) for asked in questions_of(Text(text, "page.md"))]


# A document, and the questions in it with their answers.
WAYS: list[tuple[str, list[tuple[str, str]]]] = [
    (
        "# FAQ\n\n## What is it?\n\nA tool.\n\n- a\n\n## Why?\n\nSo.\n\n## Notes\n\nNone.",
        [("What is it?", "A tool.\n\n- a"), ("Why?", "So.")],
    ),
    # What stands below a question belongs to its answer, unless it is a question itself.
    (
        "# Is it?\n\nYes.\n\n## But how?\n\nLike so.\n\n### Then\n\nMore.",
        [("Is it?", "Yes."), ("But how?", "Like so.\n\n### Then\n\nMore.")],
    ),
    # A heading among questions that holds questions of its own is none.
    (
        "## A?\n\n1\n\n## B?\n\n2\n\n## C?\n\n3\n\n## Returns\n\nQ: Can I?\nA: Yes.\nQ: Who pays?\nA: We do."
        "\n\n**How long?**\n\nTwo days.",
        [
            ("A?", "1"),
            ("B?", "2"),
            ("C?", "3"),
            ("Can I?", "Yes."),
            ("Who pays?", "We do."),
            ("How long?", "Two days."),
        ],
    ),
    # Most of these ask, so the one that does not by its sign asks too.
    (
        "## A?\n\n1\n\n## B?\n\n2\n\n## C?\n\n3\n\n## It fails at once.\n\n4",
        [("A?", "1"), ("B?", "2"), ("C?", "3"), ("It fails at once.", "4")],
    ),
    ("".join(f"## {n}{'?' * (n < 3)}\n\nx\n\n" for n in range(8)), [("0?", "x"), ("1?", "x"), ("2?", "x")]),
    ("## A?\n\n1\n\n## Install\n\n2\n\n## Use\n\n3", [("A?", "1")]),
    ("## 3.2 How do I stop it\n\nPress it.\n\n## What is new\n\nMuch.", [("How do I stop it", "Press it.")]),
    ("## Empty?\n\n## Full?\n\nYes.", [("Full?", "Yes.")]),
    (
        "Q: What?\nA: This.\n   And that.\n\nQ2. Where?\n\nA. Here.\n\nThere.\n\n# End\n\nx",
        [("What?", "This.\nAnd that."), ("Where?", "Here.\n\nThere.")],
    ),
    ("**Frage:** Wie?\n**Antwort:** So.\n\nQ: And?\n\nNothing.", [("Wie?", "So.")]),
    ("1. Q: One?\n   A: First.\n2. Q: Two?\n   A: Second.", [("One?", "First."), ("Two?", "Second.")]),
    (
        "Intro.\n\n**How much?** Ten.\n\n**When?**\n\nNow.\n\nSoon.\n\n---\n\nFoot.",
        [("How much?", "Ten."), ("When?", "Now.\n\nSoon.")],
    ),
    (
        "1. Who?\n\nMe.\n\n2. Where?\n\nHere.\n\n3. When?\n\nNow.",
        [("Who?", "Me."), ("Where?", "Here."), ("When?", "Now.")],
    ),
    ("Is that all? I do not know.\n\nWho knows?\n\nNobody.", []),
    (
        "Widget\n: A thing,\n  small.\n\n`*`\n: Any.",
        [('What does "Widget" mean?', "A thing,\nsmall."), ('What does "*" mean?', "Any.")],
    ),
    (
        "Widget\n   A thing.\n\nSee also:\n   Others.\n\nmodule x\n   Not a term.",
        [('What does "Widget" mean?', "A thing.")],
    ),
    (
        "## `Tea`\n\n**Tea** (a plant) is a drink. It is hot.\n\nMore.",
        [("What is Tea?", "**Tea** (a plant) is a drink. It is hot.")],
    ),
    ("## Cups\n\nThe cups are small.\n\n## Usage\n\nUse it.", [("What are Cups?", "The cups are small.")]),
    ("```\n# What is it?\n\nQ: a\nA: b\n```", []),
]


@pytest.mark.parametrize(("text", "expected"), WAYS)
def test_every_way_to_ask(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


def test_pages_ask_too(tmp_path: Path) -> None:
    (page := tmp_path / "help.html").write_text(
        "<h1>Help</h1>\n<details><summary>How?</summary>\n<p>So.</p><p>Or so.</p></details>\n<p>Foot.</p>\n"
        "<dl><dt>Widget</dt>\n<dd><p>A thing.</p></dd></dl>\n"
    )
    document = with_lines(Text(read_rows(page)[0].values["text"], str(page)))
    asked = [(a.question, a.answer, a.where) for a in questions_of(document)]
    assert asked == [("How?", "So.\n\nOr so.", f"{page}:2"), ('What does "Widget" mean?', "A thing.", f"{page}:5")]


def test_the_passage_is_the_place_of_the_answer() -> None:
    [asked] = questions_of(Text("# FAQ\n\nx\n\n## Why?\n\nBecause.\n\n# End\n\ny", "page.md"))
    assert (asked.passage, asked.where) == ("## Why?\n\nBecause.", "page.md:5")


@pytest.mark.skipif(not FAQ.is_dir(), reason="no collection of data beside the project")
def test_nearly_all_questions_of_a_real_faq_are_found_right() -> None:
    def plain(text: str) -> str:
        return " ".join(re.findall(r"[\w+]+", text.lower()))

    ours: dict[tuple[str, str], str] = {}
    for path in sorted((FAQ / "rst").glob("*.rst")):
        document = with_lines(Text(read_rows(path)[0].values["text"], str(path)))
        ours |= {(path.name, plain(asked.question)): asked.answer for asked in questions_of(document)}
    rows = [json.loads(line) for line in (FAQ / "python_faq.jsonl").read_text().splitlines()]
    right = [
        fuzz.ratio(plain(ours.get((Path(row["source"]).name, plain(row["question"])), "")), plain(row["answer"])) >= 90
        for row in rows
    ]
    assert len(rows) == 175 and sum(right) >= 164
    # Beside those that the rows have, nothing is found that is no question of the page.
    assert len(ours) <= 176
