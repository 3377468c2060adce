"""Files -> rows with their origin (file:line). What a file is, is found out from its name and from what stands in it.

A new kind of file is a function in readers/ and a line in KINDS.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fledge.data.readers import books, chat_logs, documents, json_rows, opening, tables
from fledge.data.readers.opening import BROKEN, Encoding, compression, find_encoding, open_text, read_head, reading
from fledge.errors import ConfigError, DataError, Finding, nearest
from fledge.records import Row

Items = Iterator[Row | Finding]
ByText = Callable[[Path, Encoding], Items]
ByBytes = Callable[[Path], Items]

SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "table", ".tsv": "table", ".tab": "table",
    ".psv": "table", ".xlsx": "xlsx", ".xlsm": "xlsx", ".parquet": "parquet", ".pq": "parquet", ".yaml": "yaml",
    ".yml": "yaml", ".txt": "text", ".text": "text", ".log": "text", ".md": "markdown", ".markdown": "markdown",
    ".rst": "rst", ".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf", ".docx": "docx",
}  # fmt: skip
PACKED = (".gz", ".bz2", ".xz", ".gzip")
BY_BYTES: dict[str, ByBytes] = {
    "xlsx": books.read_xlsx,
    "parquet": books.read_parquet,
    "pdf": documents.read_pdf,
    "docx": documents.read_docx,
}
BY_TEXT: dict[str, ByText] = {
    "jsonl": json_rows.read_jsonl,
    "json": json_rows.read_json,
    "yaml": books.read_yaml,
    "chat": chat_logs.read_chat_log,
    **documents.TEXT_READERS,
}
DOCUMENTS = frozenset(("text", "markdown", "rst", "html", "pdf", "docx"))
# Files that are something else, by their first bytes, and what to do with them.
FOREIGN = {
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word file", "Save it as .xlsx or .docx."),
    b"GGUF": ("a model", "Give a file of rows."),
    b"\x89PNG": ("a picture", "Give a file of rows or text."),
    b"\xff\xd8\xff": ("a picture", "Give a file of rows or text."),
    b"Rar!": ("an archive", "Unpack it and give the files."),
    b"7z\xbc\xaf": ("an archive", "Unpack it and give the files."),
    b"SQLite format 3": ("a database", "Export the table as CSV."),
    b"\x93NUMPY": ("an array of numbers", "Give a file of rows or text."),
    b"\x7fELF": ("a program", "Give a file of rows or text."),
}
READABLE = "JSONL, JSON, CSV, TSV, XLSX, Parquet, YAML, txt, md, rst, html, pdf, docx, plain or packed with gzip"
TABLE_ROWS = 3


@dataclass(frozen=True)
class Source:
    """One file: `kind` of SUFFIXES, `why` it is read so, in words, and its rows, read one by one."""

    path: Path
    kind: str
    why: str
    rows: Items


def files_in(path: Path) -> list[Path]:
    """Return the files that `path` stands for: itself, or all of a folder in order, hidden ones left out.

    Where a folder holds rows, the texts beside them (a licence, a note) are not data.

    Raises DataError where there is nothing.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            "data.not_found",
            f"no such file{nearest(path.name, siblings) or '.'}",
            where=str(path),
            remedy="Check the path (data.train and data.eval in fledge.yaml start at the project folder).",
        )
    found = sorted(
        Path(folder) / name
        for folder, folders, names in os.walk(path)
        if not _prune(folders)
        for name in names
        if not name.startswith(".")
    )
    known = [file for file in found if suffix_kind(file) is not None]
    rows = [file for file in known if suffix_kind(file) not in DOCUMENTS]
    if not known:
        raise DataError(
            "data.empty", "holds no file that can be read.", where=str(path), remedy=f"Can be read: {READABLE}."
        )
    return rows or known


def _prune(folders: list[str]) -> bool:
    """Leave hidden folders out of a walk, and take the others in order."""
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    return False


def suffix_kind(path: Path) -> str | None:
    """Return the kind that a file's name tells, packed or not, or None."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return SUFFIXES.get(Path(name).suffix)


def by_place(columns: Mapping[str, str]) -> bool:
    """Whether columns are named by their places, 1, 2, ...: what a table without a header has for names."""
    return bool(columns) and all(name.isdigit() for name in columns.values())


def open_source(path: Path, *, encoding: str = "auto", headless: bool = False) -> Source:
    """Return what a file is and its rows, unread. Raises DataError for what cannot be read, with what to do.

    headless: the first row of a table is data, unless columns are called by numbers there.
    """
    if not path.is_file():
        files_in(path)
        raise DataError("data.not_found", "is a folder; a file was expected.", where=str(path))
    head = read_head(path)
    if not head.strip():
        raise no_rows(path)
    kind = _by_magic(head, path)
    packed = compression(path)
    notes = [f"{packed}"] if packed else []
    told = suffix_kind(path)
    if kind in BY_BYTES:
        if packed:
            raise DataError(
                "data.unknown_format", f"a {kind} file inside {packed}.", where=str(path), remedy="Unpack it."
            )
        notes += [f"a {kind} file, whatever its name says"] if told != kind else []
        read = partial(books.read_xlsx, headless=headless) if kind == "xlsx" else BY_BYTES[kind]
        return Source(path, kind, ", ".join(notes), _guarded(path, read(path)))
    found = _named(encoding) if encoding != "auto" else find_encoding(path)
    notes += [found.why] if found.why else []
    with reading(path), open_text(path, found, newline="") as file:
        sample = file.read(tables.SAMPLE_CHARS)
    kind, dialect = _text_kind(told, path, sample)
    if dialect is not None:
        if headless and not any(name.isdigit() for name in dialect.names or ()):
            dialect = replace(dialect, names=None)
        rows = tables.read_table(path, found, dialect)
        notes.append(dialect.why)
    else:
        rows = BY_TEXT[kind](path, found)
        notes += [f"{_called(kind)}, whatever its name says"] if told not in (kind, None) else []
    rows = _guarded(path, rows)
    return Source(path, kind, ", ".join(notes), _undamaged(rows, found) if found.damaged else rows)


def _guarded(path: Path, rows: Items) -> Items:
    """Yield the rows; what turns out to be damaged halfway is a DataError."""
    with reading(path):
        yield from rows


def _undamaged(rows: Items, encoding: Encoding) -> Items:
    """Yield the rows, those with bytes that are no text in the encoding as Findings."""
    for row in rows:
        if isinstance(row, Row) and any(opening.DAMAGE in text for text in _texts(row.values)):
            message = f"holds bytes that are no text in {encoding.name}."
            yield Finding("data.bad_encoding", row.origin, message, "Mend it, or name the encoding in data.encoding.")
        else:
            yield row


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for held in value.values() if isinstance(value, dict) else value:
            yield from _texts(held)


def _called(kind: str) -> str:
    return {"jsonl": "one JSON object a line", "json": "one JSON document", "chat": "an exported chat"}.get(kind, kind)


def _named(encoding: str) -> Encoding:
    try:
        "".encode(encoding)
    except (LookupError, ValueError) as error:
        raise ConfigError(
            "config.bad_value",
            f"data.encoding '{encoding}' is not known.",
            remedy="For example: utf-8, cp1252, utf-16.",
        ) from error
    return Encoding(encoding, f"{encoding}, as told", damaged=True)


def _by_magic(head: bytes, path: Path) -> str:
    """Return the kind that the first bytes tell, or "" for text. Raises DataError for what is something else."""
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head.startswith(b"%PDF-"):
        return "pdf"
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, (what, remedy) in FOREIGN.items():
        if head.startswith(magic):
            raise DataError("data.unknown_format", f"is {what}.", where=str(path), remedy=remedy)
    told = suffix_kind(path)
    if told in BY_BYTES:
        raise DataError(
            "data.unknown_format",
            f"is no {told} file, whatever its name says.",
            where=str(path),
            remedy="Save it again.",
        )
    return ""


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (*BROKEN, ValueError, RuntimeError) as error:
        raise DataError(
            "data.bad_row", "is a damaged ZIP or Office file.", where=str(path), remedy="Save or fetch it again."
        ) from error
    for folder, kind in (("xl/", "xlsx"), ("word/", "docx")):
        if any(name.startswith(folder) for name in names):
            return kind
    raise DataError("data.unknown_format", "is an archive.", where=str(path), remedy="Unpack it and give the folder.")


def _text_kind(told: str | None, path: Path, sample: str) -> tuple[str, tables.Dialect | None]:
    """Return the kind of a text file, and how it is cut where it is a table."""
    start = sample.lstrip("\ufeff \t\r\n")
    if told in ("json", "jsonl") or (told in ("text", None) and json_rows.begins_json(start)):
        return _json_kind(start, told), None
    if told in ("text", None) and chat_logs.is_chat_log(sample):
        return "chat", None
    if told == "table":
        tabs = path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
        return "table", tables.sniff(sample, tabs=tabs) or tables.single_column(sample)
    if told is None:
        if start[:15].lower().startswith(("<!doctype html", "<html")):
            return "html", None
        dialect = tables.sniff(sample)
        if dialect is not None and dialect.delimiter in "\t;|," and dialect.share == 1.0 and dialect.rows >= TABLE_ROWS:
            return "table", dialect
        if "\0" in sample:
            raise DataError("data.unknown_format", "is no text.", where=str(path), remedy=f"Can be read: {READABLE}.")
    return told or "text", None


def _json_kind(start: str, told: str | None) -> str:
    """Return "jsonl" for lines that are values of their own, "json" for one document over many lines.

    Broken lines in a file that calls itself JSONL are lines still, as long as they begin as objects do.
    """
    first, _, rest = start.partition("\n")
    more = rest.lstrip()[:1] in ("{", "[")
    if json_rows.is_whole(first):
        return "jsonl" if more or (told == "jsonl" and start[:1] == "{") else "json"
    spread = start[:1] == "[" or (start[:1] == "{" and not more and not first.rstrip().endswith("}"))
    return "jsonl" if told == "jsonl" and not spread else "json"


def read_rows(path: Path, *, encoding: str = "auto") -> list[Row]:
    """Return every row of a file, in order.

    Raises DataError: a missing or empty file, one that is no data, and all broken rows of the file at once.
    """
    rows: list[Row] = []
    findings: list[Finding] = []
    for item in open_source(path, encoding=encoding).rows:
        if isinstance(item, Finding):
            findings.append(item)
        else:
            rows.append(item)
    if findings:
        raise DataError.from_findings(findings)
    if not rows:
        raise no_rows(path)
    return rows


def no_rows(path: Path) -> DataError:
    """Return the error of a file that holds nothing."""
    return DataError(
        "data.empty", "no rows in it.", where=str(path), remedy="Put at least one question with its answer in it."
    )
