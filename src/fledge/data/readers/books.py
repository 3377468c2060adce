"""XLSX, Parquet and YAML -> rows, each through the library for it, which is loaded only when such a file comes."""

from __future__ import annotations

import datetime
import warnings
import zipfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from fledge.data.columns import KNOWN, spelled
from fledge.data.readers.json_rows import unwrap
from fledge.data.readers.opening import Encoding, open_text
from fledge.data.readers.tables import table_row
from fledge.errors import DataError, Finding, SetupError
from fledge.records import Row

# A sheet of this many cells is about as much as Excel itself opens; a small file may claim to hold far more.
MAX_XLSX_BYTES = 1 << 30
MAX_YAML_CHARS = 1 << 26
# At most so many rows above a table say what it is.
TITLE_ROWS = 8


def read_xlsx(path: Path, *, headless: bool = False) -> Iterator[Row | Finding]:
    """Yield the rows of every sheet under the names in its first row that is not blank and not a title.

    headless: that row is data, and the columns are called 1, 2, ...
    """
    try:
        import openpyxl
    except ImportError as error:
        raise needs("openpyxl", path) from error
    # What it warns of, formats and extensions, is about writing the book back.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"openpyxl\.")
    _check_size(path)
    with path.open("rb") as file:
        try:
            # By its bytes: openpyxl would refuse a name that does not end as it expects.
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            for sheet in book.worksheets:
                yield from _sheet_rows(sheet, f"{path}:{sheet.title}", headless=headless)
            book.close()
        except Exception as error:  # noqa: BLE001 - openpyxl raises whatever its parsers raise
            raise DataError(
                "data.bad_row", f"not a readable XLSX file: {error}.", where=str(path), remedy="Save it again as CSV."
            ) from error


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_XLSX_BYTES:
        raise DataError("data.bad_row", f"unpacks to {size:,} bytes.", where=str(path), remedy="Save its rows as CSV.")


def _sheet_rows(sheet: Any, name: str, *, headless: bool) -> Iterator[Row | Finding]:
    names: list[str] | None = None
    for number, cells in _under_titles(_filled_rows(sheet)):
        if names is None:
            names = [" ".join(str(cell).split()) for cell in cells]
            if headless and not any(label.isdigit() for label in names):
                names = [str(place) for place, _ in enumerate(cells, start=1)]
                yield table_row(names, cells, f"{name}!{number}")
            elif twice := next((label for label in names if label and names.count(label) > 1), None):
                yield Finding("data.bad_row", f"{name}!{number}", f"two columns are called '{twice}'.", "Rename one.")
        else:
            yield table_row(names, cells, f"{name}!{number}")


def _filled_rows(sheet: Any) -> Iterator[tuple[int, list[object]]]:
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells = [_plain(value) for value in values]
        if any(cell not in ("", None) for cell in cells):
            yield number, cells


def _under_titles(rows: Iterator[tuple[int, list[object]]]) -> Iterator[tuple[int, list[object]]]:
    """Yield the rows without those above the table: one cell each, no name of a column, and wider rows below."""
    head = list(islice(rows, TITLE_ROWS + 1))
    widths = [sum(cell not in ("", None) for cell in cells) for _, cells in head]
    start = next((place for place, width in enumerate(widths) if width > 1), 0)
    if any(spelled(cell) in KNOWN for _, cells in head[:start] for cell in cells):
        start = 0
    yield from chain(head[start:], rows)


def _plain(value: object) -> object:
    """Return a cell's value as text or number: 3.0 is 3 in a sheet, and no cell is nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def read_parquet(path: Path) -> Iterator[Row | Finding]:
    """Yield the rows of a Parquet file, batch by batch."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise needs("pyarrow", path) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{path}: row {number}")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise DataError(
            "data.bad_row",
            f"not a readable Parquet file: {first}.",
            where=f"{path}: row {number + 1}",
            remedy="Write it again.",
        ) from error


def read_yaml(path: Path, encoding: Encoding) -> Iterator[Row | Finding]:
    """Yield the rows of a YAML document: a list of rows, a mapping that wraps one, or questions with their answers."""
    with open_text(path, encoding) as file:
        text = file.read(MAX_YAML_CHARS + 1)
    if len(text) > MAX_YAML_CHARS:
        message = "too large to be read as YAML."
        yield Finding("data.bad_row", str(path), message, "Write one object a line (JSONL).")
        return
    # Every scalar stays the text it is: an answer "no" must not become false, nor 1.10 a number.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)(text)
    documents = []
    try:
        while loader.check_data():
            documents.append(loader.get_data())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        yield Finding("data.bad_row", where, f"not valid YAML: {problem}.", "Mend that place.")
        return
    if len(documents) > 1:
        yield from unwrap(documents, path)
    elif documents:
        yield from unwrap(documents[0], path)


def read_yaml_items(path: Path, encoding: Encoding) -> Iterator[tuple[str, Any, str]]:
    """Yield (name, value, file:line) of each item of a list, of a list that one key wraps, or of a mapping by its keys.

    Scalars stay text, as in `read_yaml`. What is no YAML gives a Finding as the value.
    """
    with open_text(path, encoding) as file:
        text = file.read(MAX_YAML_CHARS + 1)
    if len(text) > MAX_YAML_CHARS:
        yield (
            "",
            Finding("data.bad_row", str(path), "too large to be read as YAML.", "Write one fact a line."),
            str(path),
        )
        return
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)(text)
    try:
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode) and len(root.value) == 1:
            inner = root.value[0][1]
            root = inner if isinstance(inner, yaml.CollectionNode) else root
        if isinstance(root, yaml.MappingNode):
            pairs = [(str(loader.construct_object(key, deep=True)), node) for key, node in root.value]
        elif isinstance(root, yaml.SequenceNode):
            pairs = [("", node) for node in root.value]
        else:
            pairs = [("", root)] if root is not None else []
        found = [(name, loader.construct_object(node, deep=True), node.start_mark.line + 1) for name, node in pairs]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        yield "", Finding("data.bad_row", where, f"not valid YAML: {problem}.", "Mend that place."), where
        return
    yield from ((name, value, f"{path}:{line}") for name, value, line in found)


def needs(library: str, path: Path) -> SetupError:
    """Return the error of a file kind whose library is not installed."""
    return SetupError(
        "setup.missing_extra",
        f"reading a {path.suffix or 'binary'} file needs {library}.",
        where=str(path),
        remedy="Install it with: pip install 'fledge[data]'",
    )
