"""CSV, TSV and their kin -> rows: the delimiter, the quoting and the header are found out from the text itself."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.data.columns import KNOWN, spelled
from fledge.data.readers.opening import MAX_ROW_CHARS, Encoding, lines_of, open_text
from fledge.errors import Finding
from fledge.records import Row

# A single cell may hold a long answer; csv's own default of 128 KiB would refuse it.
csv.field_size_limit(MAX_ROW_CHARS)
SAMPLE_CHARS = 1 << 18
SAMPLE_ROWS = 200
DELIMITERS = {
    ",": "','",
    "\t": "tabs",
    ";": "';'",
    "|": "'|'",
    "^": "'^'",
    "~": "'~'",
    ":": "':'",
    "\x1f": "unit separators",
}
LONGEST_NAME = 64
# What Excel writes above a table, and reads.
TOLD = re.compile(r'"?sep=([,;|^~:\t])"?\r?\n', re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How a table is cut. `quoted`: cells may stand in double quotes. `names`: None where the first row is data.

    `share` of the `rows` looked at have as many cells as most. `told`: the first line says where it is cut.
    """

    delimiter: str
    quoted: bool
    names: tuple[str, ...] | None
    share: float = 1.0
    rows: int = 0
    told: bool = False

    @property
    def why(self) -> str:
        told = f"cut at {DELIMITERS.get(self.delimiter, repr(self.delimiter))}"
        told += "" if self.quoted else ", quotes are text"
        return told + ("" if self.names else ", no header: columns are called 1, 2, ...")


def sniff(sample: str, *, tabs: bool = False) -> Dialect | None:
    """Return how the table that `sample` begins is cut, or None where it is no table of two columns or more.

    The delimiter is the one that cuts most rows into equally many cells (the most frequent width); between equals it is
    the one that the header holds most often. `tabs`: the file says that it is cut at tabs.
    """
    told = TOLD.match(sample)
    sample = sample[told.end() :] if told else sample
    candidates = [told[1]] if told else ["\t"] if tabs else list(DELIMITERS)
    best: tuple[tuple[float, int], Dialect] | None = None
    for delimiter in candidates:
        if delimiter not in sample:
            continue
        for quoted in (True, False):
            rows, num_broken = _sample_rows(sample, delimiter, quoted=quoted)
            if not rows:
                continue
            widths = Counter(len(row) for row in rows)
            width, count = max(widths.items(), key=lambda item: (item[1], item[0]))
            if width < 2 or len(rows[0]) != width:
                continue
            # One quote left open is a slip, several are text. Equal shares keep quotes quoting.
            share = 1.0 if num_broken <= 1 and quoted and delimiter != "\t" and count == len(rows) else 0.0
            share = share or round(count / (len(rows) + num_broken), 2)
            if best is None or (share, width) > best[0]:
                best = ((share, width), Dialect(delimiter, quoted, _header(rows), share, len(rows), told is not None))
    return None if best is None else best[1]


def single_column(sample: str) -> Dialect:
    """Return how a table of one column is read: its lines, or what stands in quotes."""
    return Dialect(",", True, _header(_sample_rows(sample, ",", quoted=True)[0] or [[""]]))


def _sample_rows(sample: str, delimiter: str, *, quoted: bool) -> tuple[list[list[str]], int]:
    """Return the first rows of a sample, and how many broke at a quote."""
    reader = csv.reader(
        io.StringIO(sample, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    rows: list[list[str]] = []
    num_broken = 0
    while len(rows) + num_broken < SAMPLE_ROWS:
        try:
            row = next(reader, None)
        except csv.Error:
            num_broken += 1
            continue
        if row is None:
            break
        if any(cell.strip() for cell in row):
            rows.append(row)
    # The sample may end within a row.
    whole = len(sample) < SAMPLE_CHARS or len(rows) + num_broken == SAMPLE_ROWS or len(rows) < 3
    return (rows if whole else rows[:-1]), num_broken


def _header(rows: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """Return the column names in the first row, or None where it looks like one more row of data."""
    first = [cell.strip() for cell in rows[0]]
    named = [cell for cell in first if cell]
    if any(spelled(cell) in KNOWN for cell in named):
        return tuple(first)
    if not named or not all(_could_be_a_name(cell) for cell in named):
        return None
    below = rows[1:]
    # A value that comes again in its own column is a value: "ham" in a table of ham and spam.
    again = any(
        cell and sum(len(row) > column and row[column].strip() == cell for row in below) > 0
        for column, cell in enumerate(first)
    )
    return None if again else tuple(first)


def _could_be_a_name(cell: str) -> bool:
    number = cell.replace(".", "", 1).replace(",", "", 1).lstrip("+-").isdigit()
    return not number and len(" ".join(cell.split())) <= LONGEST_NAME


def read_table(path: Path, encoding: Encoding, dialect: Dialect) -> Iterator[Row | Finding]:
    """Yield every row under its column names. Empty cells at the end may be missing or too many."""
    with open_text(path, encoding, newline="") as file:
        lines = lines_of(file)
        above = 1 if dialect.told and next(lines, "") else 0
        reader = csv.reader(
            lines,
            delimiter=dialect.delimiter,
            quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
            strict=dialect.quoted,
        )
        names: Sequence[str] | None = None
        start = 1 + above
        while True:
            where = f"{path}:{start}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Finding("data.bad_row", where, f"{error}.", "Close the quotes or double inner ones.")
                start = reader.line_num + 1 + above
                continue
            if cells is None:
                return
            start = reader.line_num + 1 + above
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [" ".join(cell.split()) for cell in cells] if dialect.names else _numbers(len(cells))
                if twice := next((name for name in names if name and names.count(name) > 1), None):
                    yield Finding("data.bad_row", where, f"two columns are called '{twice}'.", "Rename one.")
                if dialect.names:
                    continue
            yield table_row(names, cells, where)


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def table_row(names: Sequence[str], cells: Sequence[object], where: str) -> Row | Finding:
    """Return the row of these cells, or the Finding of a width that does not fit. A column without a name and without
    content is none."""
    extra = list(cells[len(names) :])
    while extra and extra[-1] in ("", None):
        extra.pop()
    missing = [name for name in names[len(cells) :] if name]
    if extra or missing:
        named = [name for name in names if name]
        message = f"{len(cells)} cells, expected {len(names)} ({', '.join(named)})."
        return Finding("data.bad_row", where, message, "Quote cells that hold the delimiter, or fill in missing ones.")
    filled = list(cells) + [""] * (len(names) - len(cells))
    return Row(
        {
            name or f"({number})": cell
            for number, (name, cell) in enumerate(zip(names, filled, strict=False), start=1)
            if name or cell not in ("", None)
        },
        where,
    )
