"""Files -> rows with their origin (file:line). A new file kind is a function and a line in READERS."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fledge.errors import DataError, Finding, nearest
from fledge.records import Row

# A single cell may hold a long answer; csv's own default of 128 KiB would refuse it.
csv.field_size_limit(1 << 24)


def read_rows(path: Path) -> list[Row]:
    """Return every row of a file, in order.

    Raises DataError: a missing or empty file, bytes that are not UTF-8, and all broken rows of the file at once.
    """
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        if path.is_dir():
            raise DataError("data.not_found", "is a folder; a file was expected.", where=str(path))
        remedy = "Check the path (data.train and data.eval in fledge.yaml start at the project folder)."
        raise DataError(
            "data.not_found", f"no such file{nearest(path.name, siblings) or '.'}", where=str(path), remedy=remedy
        )
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            "data.unknown_format",
            f"cannot read a '{path.suffix}' file; these can be read: {', '.join(READERS)}.",
            where=str(path),
        )
    findings: list[Finding] = []
    rows = list(reader(_text(path), path, findings))
    if findings:
        raise DataError.from_findings(findings)
    if not rows:
        raise DataError(
            "data.empty", "no rows in it.", where=str(path), remedy="Put at least one question with its answer in it."
        )
    return rows


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            "data.bad_encoding",
            f"byte 0x{raw[error.start]:02x} is not UTF-8 text.",
            where=f"{path}:{line}",
            remedy=f"Save it as UTF-8: iconv -f {_encoding(raw)} -t utf-8 '{path.name}' -o new{path.suffix}",
        ) from error


def _encoding(raw: bytes) -> str:
    return "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key '{twice}' stands twice in one object")
    return values


def _read_jsonl(text: str, path: Path, findings: list[Finding]) -> Iterator[Row]:
    # Only "\n" ends a row: str.splitlines would also cut at U+2028 and its kin, which may stand inside an answer.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            findings.append(
                Finding("data.bad_row", where, f"not one JSON object: {_reason(error)}.", "Mend or remove the line.")
            )
            continue
        if isinstance(value, dict):
            yield Row(value, where)
        else:
            findings.append(_not_an_object(value, where))


def _read_json(text: str, path: Path, findings: list[Finding]) -> Iterator[Row]:
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys) if text.strip() else []
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        findings.append(
            Finding("data.bad_row", f"{path}:{line}", f"not valid JSON: {_reason(error)}.", "Mend that place.")
        )
        return
    for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
        where = f"{path}: row {number}"
        if isinstance(item, dict):
            yield Row(item, where)
        else:
            findings.append(_not_an_object(item, where))


def _not_an_object(value: object, where: str) -> Finding:
    message = f"found {type(value).__name__}, expected an object such as {{'question': ..., 'answer': ...}}."
    return Finding("data.bad_row", where, message, "Mend or remove it.")


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _read_csv(text: str, path: Path, findings: list[Finding]) -> Iterator[Row]:
    header_line = text.partition("\n")[0]
    # The header names columns, so the delimiter is whichever of the usual ones it holds most often.
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            where, line = f"{path}:{line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                if twice := next((name for name in names if name and names.count(name) > 1), None):
                    findings.append(Finding("data.bad_row", where, f"two columns are called '{twice}'.", "Rename one."))
            elif len(cells) != len(names):
                message = f"{len(cells)} cells, expected {len(names)} ({', '.join(names)})."
                remedy = "Quote cells that hold the delimiter, or fill in the missing ones."
                findings.append(Finding("data.bad_row", where, message, remedy))
            else:
                yield Row(dict(zip(names, cells, strict=True)), where)
    except csv.Error as error:
        findings.append(
            Finding("data.bad_row", f"{path}:{line}", f"{error}.", "Close the quotes or double inner ones.")
        )


Reader = Callable[[str, Path, list[Finding]], Iterator[Row]]
READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}
