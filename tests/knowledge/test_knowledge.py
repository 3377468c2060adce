"""Documents are found by their words and their meaning, and the index follows the folder."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fledge.errors import DataError, DiskError
from fledge.knowledge.chunk import CHUNK_CHARS, chunks_of
from fledge.knowledge.index import Index, Vectors
from fledge.knowledge.retrieve import RANK_OFFSET, as_context, fused, retrieve

MANUAL = """# Kettle

It boils water.

## Cleaning

Pour vinegar into it, wait for an hour, and rinse it twice.

## Guarantee

It is mended for two years without charge. Write to the shop.
"""


def letters(texts: Sequence[str]) -> Vectors:
    """Vectors that tell texts by their letters: enough to see that what is near is found."""
    return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = tmp_path / "knowledge"
    documents.mkdir()
    # Longer than a chunk, so that it is cut at its headings.
    (documents / "kettle.md").write_text(MANUAL.replace("boils water.", "boils water. " * 90), encoding="utf-8")
    (documents / "toaster.txt").write_text("The toaster browns bread. It has six steps.\n", encoding="utf-8")
    rows = '{"question": "Who founded the shop?", "answer": "Ada Quint did, in 1962."}\n'
    (documents / "faq.jsonl").write_text(rows, encoding="utf-8")
    return documents


def test_what_is_asked_is_found_with_its_place_and_headings(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        assert index.update(folder).read == 3
        [found] = retrieve(index, "How do I clean it with vinegar?", count=1)
        assert found.chunk.place.startswith("kettle.md:") and "Kettle" in found.chunk.headings
        assert "vinegar" in found.chunk.whole and (found.by_words, found.by_meaning) == (1, 0)
        [row] = retrieve(index, "founded?", count=1)
        assert "Ada Quint" in row.chunk.text and row.chunk.place == "faq.jsonl:1"
        assert as_context([found]).startswith("[1] kettle.md:")


def test_words_are_found_without_case_and_accents_and_no_word_is_an_operator(folder: Path, tmp_path: Path) -> None:
    (folder / "cafe.txt").write_text("Le café ouvre à midi.\n", encoding="utf-8")
    with Index(tmp_path / "index.db") as index:
        index.update(folder)
        assert retrieve(index, "CAFE", count=1)[0].chunk.place.startswith("cafe.txt")
        for question in ('AND OR NOT NEAR("x")', '"', "text:kettle", "a* ^b (c", "", "¿?"):
            retrieve(index, question, count=3)
        assert retrieve(index, "zzz unheard", count=3) == []


def test_the_index_follows_the_folder_and_reads_only_what_changed(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        index.update(folder)
        assert index.update(folder).read == 0
        (folder / "toaster.txt").write_text("The toaster was withdrawn.\n", encoding="utf-8")
        (folder / "faq.jsonl").unlink()
        told = index.update(folder)
        assert (told.read, told.removed) == (1, 1)
        assert "withdrawn" in retrieve(index, "toaster", count=1)[0].chunk.text
        assert retrieve(index, "founded", count=1) == [] and retrieve(index, "browns", count=1) == []
    with Index(tmp_path / "index.db") as again:
        assert again.update(folder).read == 0, "it is kept"
    with sqlite3.connect(tmp_path / "index.db") as database:
        database.execute("INSERT INTO words(words) VALUES('integrity-check')")


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    with Index(tmp_path / "index.db") as index:
        told = index.update(folder)
        assert told.read == 3 and len(told.unreadable) == 1 and "broken.pdf" in told.unreadable[0]
    with Index(tmp_path / "index.db") as index, pytest.raises(DataError, match="no such folder"):
        index.update(tmp_path / "nowhere")


def test_an_update_that_fails_changes_nothing(folder: Path, tmp_path: Path) -> None:
    def fails(texts: Sequence[str]) -> Vectors:
        raise RuntimeError("the embedder is gone")

    with Index(tmp_path / "index.db") as index:
        index.update(folder, embed=letters, embedder="letters")
        before = retrieve(index, "kettle", count=9, embed=letters)
        (folder / "new.txt").write_text("A new kettle.\n", encoding="utf-8")
        with pytest.raises(RuntimeError):
            index.update(folder, embed=fails, embedder="letters")
        assert retrieve(index, "kettle", count=9, embed=letters) == before


def test_a_full_disk_is_one_clear_error_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        index.update(folder)
        before = retrieve(index, "kettle", count=9)
        pages = index._database.execute("PRAGMA page_count").fetchone()[0]
        index._database.execute(f"PRAGMA max_page_count={pages}")
        (folder / "long.txt").write_text("A kettle and a word.\n\n" * 20_000, encoding="utf-8")
        with pytest.raises(DiskError, match="is full"):
            index.update(folder)
        assert retrieve(index, "kettle", count=9) == before


def test_meaning_finds_what_words_do_not_and_another_embedder_starts_anew(folder: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def counted(texts: Sequence[str]) -> Vectors:
        asked.extend(texts)
        return letters(texts)

    with Index(tmp_path / "index.db") as index:
        chunks = index.update(folder, embed=counted, embedder="one").chunks
        assert len(asked) == chunks
        index.update(folder, embed=counted, embedder="one")
        assert len(asked) == chunks, "each once"
        index.update(folder, embed=counted, embedder="other")
        assert len(asked) == 2 * chunks
        text = retrieve(index, "bread", count=1)[0].chunk.whole
        [found] = retrieve(index, "".join(sorted(text)).strip(), count=1, embed=letters)
        assert found.chunk.whole == text and (found.by_words, found.by_meaning) == (0, 1)


def test_vectors_are_ranked_as_the_cosine_ranks_them(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        count = index.update(folder, embed=letters, embedder="letters").chunks
        vector = letters(["boiling vinegar"])[0]
        ranked = [index.chunk(row).whole for row in index.by_meaning(vector, count=count)]

    def cosine(text: str) -> float:
        other = letters([text])[0]
        return float(vector @ other / np.linalg.norm(vector) / np.linalg.norm(other))

    assert [cosine(text) for text in ranked] == sorted(map(cosine, ranked), reverse=True)


def test_ranks_are_joined_as_the_paper_says() -> None:
    numbers = random.Random(0)
    rankings = [numbers.sample(range(30), 12) for _ in range(3)]
    scores = {
        n: sum(1 / (RANK_OFFSET + 1 + r.index(n)) for r in rankings if n in r) for n in itertools.chain(*rankings)
    }
    joined = fused(rankings)
    assert {n: pytest.approx(s) for n, s in joined} == scores
    assert [s for _, s in joined] == sorted(scores.values(), reverse=True)
    assert fused(([1, 2], [2, 1]))[0][0] == 1, "of equals the first number"


def test_a_long_document_is_cut_into_chunks_that_hold_all_of_it(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(3000)]
    paragraphs = [" ".join(words[i : i + 40]) + "." for i in range(0, len(words), 40)]
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    chunks = list(chunks_of(path, tmp_path))
    assert all(len(chunk.whole) <= CHUNK_CHARS for chunk in chunks)
    assert " ".join(chunk.text for chunk in chunks).replace(".", "").split() == words
    lines = [int(chunk.place.rpartition(":")[2]) for chunk in chunks]
    assert lines == sorted(set(lines)) and all(chunk.place.startswith("long.txt:") for chunk in chunks)
