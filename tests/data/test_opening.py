"""Bytes -> text: the encoding of a file and its packing are found out, and told."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from fledge.data.sources import open_source, read_rows
from fledge.errors import ConfigError, DataError, Finding
from fledge.records import Row

PANGRAMS = {
    "utf-8": "Zwölf Boxkämpfer, 東京",
    "utf-8-sig": "Zwölf Boxkämpfer, 東京",
    "utf-16": "Zwölf Boxkämpfer, 東京",
    "utf-16-le": "Zwölf Boxkämpfer jagen Viktor über den Sylter Deich",
    "utf-16-be": "Zwölf Boxkämpfer jagen Viktor über den Sylter Deich",
    "utf-32": "Zwölf Boxkämpfer, 東京",
    "latin-1": "Zwölf Boxkämpfer für 3 £",
    "cp1252": "„Zwölf“ Boxkämpfer – für 3 €",
    "cp1251": "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 4,
    "cp1253": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Τάχιστη αλώπηξ βαφής ψημένη γη. " * 4,
    "big5": "我能吞下玻璃而不傷身體,天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘成歲律呂調陽雲騰致雨露結為霜。"
    * 3,
}


@pytest.mark.parametrize("encoding", PANGRAMS)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_the_encoding_is_found_out_and_told(tmp_path: Path, encoding: str, name: str) -> None:
    said = PANGRAMS[encoding]
    row = {"question": "How?", "answer": said}
    text = f'question,answer\nHow?,"{said}"\n' if name == "a.csv" else json.dumps(row, ensure_ascii=False) + "\n"
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    source = open_source(path)
    (found,) = source.rows
    assert isinstance(found, Row)
    assert found.values == row
    assert encoding.startswith("utf-8") or source.why, "a guess is told"
    assert [r.values for r in read_rows(path, encoding=encoding)] == [row], "and can be overridden"


def test_damaged_utf8_stays_utf8(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"Größe {n}?", "answer": "東京"}, ensure_ascii=False) for n in range(50)]
    raw = "\n".join(rows).encode().replace("Größe 7?".encode(), "Gr\xf6\xdfe 7?".encode("latin-1"))
    (path := tmp_path / "a.jsonl").write_bytes(raw)
    source = open_source(path)
    assert "damaged" in source.why
    found = list(source.rows)
    assert isinstance(found[6], Row)
    assert found[6].values["question"] == "Größe 6?"
    assert isinstance(found[7], Finding)
    assert (found[7].code, found[7].where) == ("data.bad_encoding", f"{path}:8")
    assert len([row for row in open_source(path, encoding="latin-1").rows if isinstance(row, Row)]) == 50


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_packed_files_are_read_as_what_is_in_them(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], kind: str
) -> None:
    text = '{"q": "x", "a": "y"}\n' if kind == "jsonl" else "q,a\nx,y\n"
    path = tmp_path / f"rows.{kind}{suffix}"
    path.write_bytes(pack(text.encode()))
    (row,) = read_rows(path)
    assert row.values == {"q": "x", "a": "y"}
    damaged = tmp_path / f"damaged.{kind}{suffix}"
    damaged.write_bytes(pack(text.encode() * 100_000)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(damaged)


def test_an_encoding_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\nx,y\n")
    with pytest.raises(ConfigError, match=r"data\.encoding 'latin-99' is not known"):
        open_source(tmp_path / "a.csv", encoding="latin-99")
