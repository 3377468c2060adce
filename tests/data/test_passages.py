"""Documents are cut where it tears least; the passages together are the document, each within its limit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fledge.data.passages import Passage, passages
from fledge.data.structure import Kind, blocks
from fledge.records import Text

GUIDE = """\
# Guide

Read this first. It is short.

## Set up

You need:

- a PC
- this list:
  - nested
- time

```python
import fledge

print("hello")
```

## Use

Say `fledge`. Then wait. Then look!

| a | b |
| 1 | 2 |

Last
====

The end.
"""


def words(text: str) -> int:
    return len(text.split())


def cut(text: str, limit: int) -> list[Passage]:
    return list(passages(Text(text, "guide.md"), limit, words))


def texts(text: str, limit: int) -> list[str]:
    return [passage.text for passage in cut(text, limit)]


def test_what_fits_is_one_passage() -> None:
    assert cut(GUIDE, 200) == [Passage(GUIDE.rstrip(), "guide.md:1")]


def test_sections_stay_whole_where_they_fit_and_tell_what_they_stand_under() -> None:
    first, second, third, last = cut(GUIDE, 25)
    assert (first.text.split("\n")[0], first.where, first.headings) == ("# Guide", "guide.md:1", ())
    assert second.text.startswith("## Set up") and second.text.endswith("```")
    assert (second.where, second.headings) == ("guide.md:5", ("Guide",))
    assert second.whole.startswith("Guide\n\n## Set up")
    assert third.text.startswith("## Use") and third.headings == ("Guide",)
    assert (last.where, last.headings) == ("guide.md:27", ())


def test_a_block_is_cut_only_where_it_does_not_fit() -> None:
    code = "```python\nimport fledge\n\nprint(1)\n```"
    assert texts(f"# H\n\nSome words.\n\n{code}\n\nMore.", 8) == ["# H\n\nSome words.", code + "\n\nMore."]
    assert texts("A b c. D e f. G h i.", 6) == ["A b c. D e f.", "G h i."]
    assert texts("- a b\n- c d\n  - e f\n- g h", 6) == ["- a b", "- c d\n  - e f", "- g h"]
    assert texts("a b c d e", 2) == ["a b", "c d", "e"]


def test_code_that_must_be_cut_keeps_its_fences() -> None:
    lines = [f"call({number}, {number})" for number in range(6)]
    code = "\n".join(["```python", *lines, "```"])
    pieces = texts(code, 8)
    assert len(pieces) > 1
    assert all(re.fullmatch(r"```(python)?\n(call.*\n)+```", piece) for piece in pieces)
    assert [line for piece in pieces for line in piece.split("\n") if line.startswith("call")] == lines


def test_a_heading_stays_with_what_stands_below_it() -> None:
    assert texts("# A\n\none two\n\n## B\n\nthree four five six\n\nseven", 7)[1] == "## B\n\nthree four five six"
    # The paragraph would have to be cut anyway: then its beginning stays with the heading.
    assert texts("# A\n\n" + "x. Y " * 20, 7)[0].startswith("# A\n\nx.")


def test_one_long_word_is_cut_between_letters() -> None:
    found = list(passages(Text("ab" * 50, "x"), 30))
    assert "".join(passage.text for passage in found) == "ab" * 50
    assert max(len(passage.text) for passage in found) <= 30


def test_lines_of_a_row_and_lines_of_a_file() -> None:
    row = list(passages(Text("A b.\n\nC d.", "rows.jsonl:7"), 2, words))
    assert [passage.where for passage in row] == ["rows.jsonl:7"] * 2
    page = list(passages(Text("A b.\n\nC d.", "page.rst", lines=(4, 5, 9)), 2, words))
    assert [passage.where for passage in page] == ["page.rst:4", "page.rst:9"]
    paper = list(passages(Text("A b.\n\nC d.", "paper.pdf", lines=(0, 0, 0)), 2, words))
    assert [passage.where for passage in paper] == ["paper.pdf"] * 2


def test_a_part_of_a_document_knows_the_headings_above_it() -> None:
    part = Text("## B\n\n" + "one two. " * 10, "a.md:7", headings=("A",))
    found = list(passages(part, 15, words))
    assert [passage.headings for passage in found] == [("A",), ("A", "B"), ("A", "B")]


def test_blocks_are_told_apart() -> None:
    kinds = [block.kind for block in blocks(GUIDE)]
    assert kinds == [
        Kind.HEADING, Kind.PARAGRAPH, Kind.HEADING, Kind.PARAGRAPH, Kind.LIST, Kind.FENCED, Kind.HEADING,
        Kind.PARAGRAPH, Kind.TABLE, Kind.HEADING, Kind.PARAGRAPH,
    ]  # fmt: skip


PIECES = st.sampled_from(
    [
        "# One", "## Two", "### Two and a half", "Word.", "Some words here. And more! Is it so?", "日本語。です。",
        "- a\n- b c d\n  - e f\n\n- g", "```\ncode = 1\n\nmore = 2\n```", "~~~ text\nx y z\n~~~", 
        "    in = dented\n\n    b",
        "| a | b |\n| c | d e f |", "Setext\n------", "1. x\n2. y\n   z", "```\nnever closed", "a\tb\nc  d", "x" * 40,
        "---",
        "Look:", "#nohead", "*", "\u2028 odd",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(PIECES, max_size=14), gaps=st.sampled_from(["\n", "\n\n", "\n\n\n"]), limit=st.integers(8, 40))
def test_every_word_stands_in_one_passage_and_every_passage_within_its_limit(
    parts: list[str], gaps: str, limit: int
) -> None:
    text = gaps.join(parts)
    found = cut(text, limit)

    def said(whole: str) -> list[str]:
        # A sentence that no blank ends is a word of its own.
        return [word for word in whole.replace("。", "。 ").split() if not re.fullmatch(r"[`~]{3,}", word)]

    assert [word for passage in found for word in said(passage.text)] == said(text)
    assert all(words(passage.whole) <= limit for passage in found)
    lines = text.split("\n")
    for passage in found:
        at = int(passage.where.rpartition(":")[2])
        # A fence may stand before the first word, and empty lines between.
        assert not (first := said(passage.text)) or first[0] in " ".join(lines[at - 1 : at + 3])


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(PIECES, max_size=14), limit=st.integers(12, 40))
@example(parts=["# One"] * 6 + ["Setext\n------"], limit=12)
def test_a_block_that_fits_is_in_one_passage(parts: list[str], limit: int) -> None:
    text = "\n\n".join(parts)
    found = [passage.text for passage in cut(text, limit)]
    for block in blocks(text):
        whole = text[block.start : block.end]
        if words(whole) <= limit / 2:
            assert any(whole.strip("\n") in piece for piece in found), whole


def test_a_long_document_without_structure_takes_no_time(tmp_path: Path) -> None:
    import time

    text = " ".join(f"word{number}" for number in range(60_000))
    started = time.monotonic()
    found = cut(text, 500)
    assert [len(passage.text.split()) for passage in found] == [500] * 120
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_tiny_limits_lose_nothing(limit: int) -> None:
    found = list(passages(Text("# A b\n\nc d e f", "x"), limit, words))
    assert " ".join(passage.text for passage in found).split() == ["#", *"Abcdef"]
