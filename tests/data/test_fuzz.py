"""Broken files of every kind: an error with a place, never a crash, a hang, or memory that grows."""

from __future__ import annotations

import gzip
import io
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from fledge.data.formats import read_records
from fledge.data.sources import open_source
from fledge.errors import DataError, Finding
from papers import docx, pdf

TURNS = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So — “thus”."}]
ROWS = [
    {"question": "Größe?", "answer": "12 cm", "group": 1},
    {"messages": TURNS, "tools": json.dumps([{"name": "f", "parameters": {}}])},
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"messages": TURNS, "label": True},
    {"text": "Human: q\n\nAssistant: a"},
    {"prompt": {"text": "q", "role": "prompter", "replies": [{"text": "a", "rank": 0}, {"text": "b", "rank": 1}]}},
    {"mapping": {"r": {"message": None, "parent": None}, "1": {"message": {"author": {"role": "user"}}}}, "title": "t"},
    {"messages": [{"sender_name": "A", "timestamp_ms": 1, "content": "x"}, {"sender_name": "B", "timestamp_ms": 2}]},
    {"instruction": "q", "instances": [{"input": "x", "output": "a"}], "history": [["a", "b"]]},
    {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]},
]
DICTIONARY = [
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r",
        b"\n",
        b'"',
        b"'",
        b"\\",
        b"\\ud83d",
        b"\\u0000",
        b"{",
        b"}",
    ),
    *(b"[", b"]", b",", b";", b"\t", b"|", b":", b"NaN", b"Infinity", b"1e999", b"-0", b"null", b"true", b"9" * 400),
    *(b"[" * 2000, b"{" * 2000, b'{"a":' * 2000, b"<" * 500, b"&amp;" * 50, b"&lt;", b"=cmd()", b"---\n", b"&a [*a]"),
    *(b"\xe2\x80\xa8", b"\xed\xa0\x80", b"role", b"content", b"messages", b"<script>", b".. code::\n", b"``", b"===\n"),
]


def seeds(folder: Path) -> dict[str, bytes]:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    book = openpyxl.Workbook()
    for cells in (["question", "answer"], ["q", 1.5], ["r", "b"]):
        book.active.append(cells)
    book.save(held := io.BytesIO())
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"question": "q", "answer": "a"}] * 3), parquet := io.BytesIO()
    )
    docx(office := folder / "seed.docx", "<w:p><w:r><w:t>Words</w:t></w:r></w:p>")
    pdf(paper := folder / "seed.pdf", ["Words", "and more"])
    table = "question,answer\n" + "".join(f'"q {n}, or","a\n{n}"\n' for n in range(5))
    chat = "".join(f"0{n}/01/24, 10:00 - {who}: Hello\nthere\n" for n, who in ((1, "Ann"), (2, "Bob"), (3, "Ann")))
    return {
        **{f"row{n}.jsonl": f"{line}\n{line}\n".encode() for n, line in enumerate(lines)},
        "a.json": json.dumps(ROWS, indent=1).encode(),
        "b.json": json.dumps({"data": ROWS[:2], "version": 1}).encode(),
        "a.csv": table.encode(),
        "b.csv": table.encode("utf-16"),
        "c.csv": "label;text\nspam;Grüße\nham;Öl\n".encode("cp1252"),
        "a.tsv": "".join(f"{('ham', 'spam')[n % 2]}\thello number {n}\t\n" for n in range(40)).encode(),
        "a.yaml": b"- question: May I?\n  answer: no\n- question: q\n  answer: &a [x]\n",
        "a.md": b"---\nt: x\n---\n# Title\n\ntext\n",
        "a.rst": b"Title\n=====\n\n.. note:: x\n\n   y::\n\n      z\n\n:ref:`a <b>`\n",
        "a.html": b"<html><body><h1>x</h1><p>y &amp; z<pre>\n a</pre><script>no</script></body></html>",
        "chat.txt": chat.encode(),
        "a.txt": b"Plain words.\n\nMore of them.\n",
        "a.jsonl.gz": gzip.compress(lines[0].encode()),
        "a.xlsx": held.getvalue(),
        "a.parquet": parquet.getvalue(),
        "a.docx": office.read_bytes(),
        "a.pdf": paper.read_bytes(),
        "noname": table.encode(),
    }


def mutated(raw: bytes, others: list[bytes], numbers: random.Random) -> bytes:
    out = bytearray(raw)
    for _ in range(numbers.choice([1, 1, 2, 4, 8])):
        place = numbers.randrange(len(out) + 1)
        kind = numbers.randrange(6)
        if kind == 0 and out:
            out[place - 1] ^= 1 << numbers.randrange(8)
        elif kind == 1:
            out[place:place] = numbers.choice(DICTIONARY)
        elif kind == 2:
            del out[place : place + numbers.randrange(1, 30)]
        elif kind == 3:
            out[place:place] = out[place : place + numbers.randrange(1, 200)] * numbers.choice([1, 2, 9])
        elif kind == 4:
            other = numbers.choice(others)
            start = numbers.randrange(len(other) + 1)
            out[place:place] = other[start : start + numbers.randrange(1, 100)]
        else:
            del out[place:]
    return bytes(out)


def read(path: Path) -> str:
    """Read a file to its end; return what came of it."""
    try:
        reading = read_records(open_source(path).rows)
        found = list(reading.records)
    except DataError as error:
        assert error.where, f"an error without a place: {error}"
        assert error.message
        return "refused"
    for item in found:
        if isinstance(item, Finding):
            assert item.where
            assert item.remedy
    return "findings" if any(isinstance(item, Finding) for item in found) else "read"


def fuzz(folder: Path, count: int, *, seed: int, tried: Callable[[str, float], None]) -> None:
    numbers = random.Random(seed)
    files = seeds(folder)
    for _ in range(count):
        name = numbers.choice(list(files))
        path = folder / name
        path.write_bytes(raw := mutated(files[name], list(files.values()), numbers))
        started = time.process_time()
        try:
            outcome = read(path)
        except Exception:
            (folder / f"crash-{name}").write_bytes(raw)
            raise
        tried(outcome, time.process_time() - started)


def test_the_seeds_themselves_are_read(tmp_path: Path) -> None:
    for name, raw in seeds(tmp_path).items():
        (tmp_path / name).write_bytes(raw)
        assert read(tmp_path / name) != "refused" or name.startswith("row"), name


@pytest.mark.parametrize("count", [1500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutated_files_give_errors_with_a_place_and_nothing_worse(tmp_path: Path, count: int) -> None:
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    def tried(outcome: str, seconds: float) -> None:
        nonlocal slowest
        outcomes[outcome] += 1
        slowest = max(slowest, seconds)

    fuzz(tmp_path, count // 10, seed=count, tried=tried)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzz(tmp_path, count - count // 10, seed=count + 1, tried=tried)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert min(outcomes[name] for name in ("refused", "findings", "read")) > count // 20, outcomes
    assert slowest < 1, f"one file took {slowest:.1f} s"
    assert grown < 100, f"memory grew by {grown:.0f} MB"
