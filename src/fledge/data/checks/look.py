"""Records -> what is wrong with each by itself, and the figures that tell what is wrong between them.

A file is looked at in pieces, each by whichever process has time. What a piece says is small: problems, counts, some
rows to count tokens of, and a folder with figures of every row, from which rows are compared when all have been seen.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fledge.data.canonical import as_line
from fledge.data.checks import near
from fledge.data.checks.language import NAMES, language_of
from fledge.data.checks.mask import check_personal
from fledge.data.checks.shape import ending_of
from fledge.data.checks.text import check_control, check_leftovers, check_letters, check_markup
from fledge.data.checks.view import View, bare, plain, quoted, spaced, view, warning
from fledge.data.checks.wording import COMPARED_CHARS, both_ends, content
from fledge.errors import Finding, Severity
from fledge.records import Record

# Every check of one row; a new one is a line here.
ROW_CHECKS: tuple[Callable[[View], Iterable[Finding]], ...] = (
    check_letters, check_leftovers, check_control, check_markup, check_personal,
)  # fmt: skip
MAX_KEPT = 1000
LANGUAGES = ("", *NAMES)
_LANGUAGE_PLACE = {name: place for place, name in enumerate(LANGUAGES)}
# What tells rows apart, one line a row: hashes of 8 bytes, 0 for "has none".
ROW = np.dtype(
    [
        ("whole", "<u8"), ("question", "<u8"), ("answer", "<u8"), ("group", "<u8"), ("at", "<u8"), ("size", "<u4"),
        ("asked", "<u8"), ("chars", "<u4"), ("content", "u1"), ("turns", "u1"), ("language", "u1"), ("ending", "u1"),
        ("exclusive", "u1"),
    ]
)  # fmt: skip
SKETCHED_AT_ONCE = 512
# A turn among others is told from small talk by so many words that carry meaning; in questions of more than MOST_WORDS
# no slip is looked for. Words are counted in so many places by their hash.
TURN = np.dtype([("row", "<u4"), ("asked", "<u8")])
LEAST_WORDS, MOST_WORDS, COUNTED = 3, 48, 1 << 20
MOST_COUNTED = np.iinfo(np.uint16).max
# An answer up to this is compared without its marks.
SHORT_ANSWER_CHARS = 200
# The order in which a row's words stand in the spool, each followed by a zero byte.
SEPARATOR = "\0"
SHOWN_CHARS = 200


@dataclass(frozen=True)
class Asked:
    """What to look for. told: how the form that answers must have is named to the user.

    sample_every: of so many rows one is handed back for its tokens; what is longer than `long_chars` is handed back
    always.
    """

    told: str = ""
    sample_every: int = 1
    long_chars: int = 1 << 60


@dataclass
class Seen:
    """What was seen in some rows: `counts` of every problem, of which `problems` holds at most MAX_KEPT per code."""

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    problems: list[Finding] = field(default_factory=list)
    samples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.counts[finding.code] += 1
        self.errors += finding.severity is Severity.ERROR
        if self.counts[finding.code] <= MAX_KEPT:
            self.problems.append(finding)


def hash_of(text: str) -> int:
    """Return 64 bits of a text's hash, never 0."""
    return (
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", errors="replace"), digest_size=8).digest(), "little") or 1
    )


def crc(text: str) -> int:
    """Return 32 bits that name a word, the same in every process."""
    return zlib.crc32(text.encode("utf-8", errors="replace"))


def whole_of(v: View) -> int:
    """Return the hash of all that a row says: rows with one are the same row."""
    return _whole(v, bare(v.question).casefold(), spaced(v.answer), _rest_of(v))


def _whole(v: View, question: str, answer: str, rest: str) -> int:
    return hash_of(SEPARATOR.join((question, answer, rest, spaced(v.thinking) if v.thinking else "")))


def _rest_of(v: View) -> str:
    return spaced(f"{v.system}\n{v.beside}") if v.system or v.beside else ""


class Recorder:
    """Writes one figure-row per record into `folder`, and beside it the files of FILES."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in FILES}
        self._rows: list[tuple[int, ...]] = []
        self._wholes: list[str] = []
        self._content: list[int] = []
        self._turns: list[tuple[int, int]] = []
        # Every word that carries meaning, by its hash, and the row that it stands in.
        self._met: list[int] = []
        self._met_in: list[int] = []
        self._known = np.zeros(COUNTED, dtype=np.uint32)
        self._number = self._at = 0

    def add(self, v: View) -> None:
        """Record one row."""
        asked, answer, rest = bare(v.question), spaced(v.answer), _rest_of(v)
        asks, question = both_ends(asked), asked.casefold()
        words = [v.origin, asks, both_ends(answer), v.answer[:SHOWN_CHARS]]
        if SEPARATOR in v.text:
            words = [word.replace(SEPARATOR, " ") for word in words]
        encoded = SEPARATOR.join(words).encode("utf-8", errors="replace")
        self._files["words"].write(encoded)
        meant, meaning, turns = self._meaning(v, asks or both_ends(answer))
        told = language_of(v.answer) or language_of(v.question)
        self._rows.append(
            (
                _whole(v, question, answer, rest),
                hash_of(f"{question}{SEPARATOR}{rest}") if question else 0,
                hash_of(plain(answer) if len(answer) <= SHORT_ANSWER_CHARS else answer) if answer else 0,
                hash_of(v.group) if v.group is not None else 0,
                self._at,
                len(encoded),
                meant,
                sum([len(turn.content) for turn in v.turns]),
                meaning,
                min(255, turns),
                _LANGUAGE_PLACE[told],
                ending_of(v.answer),
                v.answers,
            )
        )  # fmt: skip
        self._at += len(encoded)
        half = COMPARED_CHARS // 2
        self._wholes.append(f"{question[:half]} {answer[:half]}")
        self._number += 1
        if len(self._rows) >= SKETCHED_AT_ONCE:
            self._flush()

    def _meaning(self, v: View, text: str) -> tuple[int, int, int]:
        """Record the words that carry meaning; return (their hash, how many were kept, how many turns ask)."""
        asking = [turn.content for turn in v.turns if turn.role == "user"]
        system = f"{crc(spaced(v.system))}" if v.system else ""
        if len(asking) > 1:
            told = [words for turn in asking if len(words := content(bare(turn))) >= LEAST_WORDS]
            self._turns += [(self._number, _key(system, words)) for words in told]
        words = content(text)
        if not words:
            return 0, 0, len(asking)
        hashes = [zlib.crc32(word.encode("utf-8", "replace")) for word in words]
        self._met += hashes
        self._met_in += [self._number] * len(hashes)
        if len(words) >= MOST_WORDS:
            return _key(system, words), 0, len(asking)
        self._content.append(crc(system))
        self._content += hashes
        return _key(system, words), 1 + len(hashes), len(asking)

    def _flush(self) -> None:
        # Written by the file itself: numpy's tofile would not say that the disk is full.
        self._files["rows"].write(np.array(self._rows, dtype=ROW).tobytes())
        if self._rows:
            self._files["bands"].write(near.sketch(self._wholes).tobytes())
        places = np.array(self._met, dtype=np.int64) & (COUNTED - 1)
        once = np.unique(np.array(self._met_in, dtype=np.int64) * COUNTED + places) & (COUNTED - 1)
        np.add.at(self._known, once, 1)
        self._files["content"].write(np.array(self._content, dtype="<u4").tobytes())
        self._files["turns"].write(np.array(self._turns, dtype=TURN).tobytes())
        self._rows, self._wholes, self._turns, self._content, self._met, self._met_in = [], [], [], [], [], []

    def close(self) -> None:
        self._flush()
        self._files["known"].write(np.minimum(self._known, MOST_COUNTED).astype("<u2").tobytes())
        for file in self._files.values():
            file.close()


FILES = ("rows", "bands", "words", "content", "turns", "known")


def _key(system: str, words: Sequence[str]) -> int:
    return hash_of(SEPARATOR.join((system, *words)))


def look(
    records: Iterable[Record | Finding], asked: Asked, folder: Path, *, fits: Callable[[View], bool] | None = None
) -> Iterator[Finding | Seen]:
    """Yield every problem when it is met, and at the end what was seen in all. `fits`: has an answer its form?"""
    seen = Seen()
    recorder = Recorder(folder)
    try:
        for record in records:
            if isinstance(record, Finding):
                seen.add(record)
                yield record
                continue
            v = view(record)
            for check in ROW_CHECKS:
                for finding in check(v):
                    seen.add(finding)
                    yield finding
            if fits is not None and v.answer and not fits(v):
                seen.add(finding := _off_template(v, asked))
                yield finding
            recorder.add(v)
            if seen.rows % asked.sample_every == 0 or len(v.text) > asked.long_chars:
                seen.samples.append((v.origin, as_line(record)))
            seen.rows += 1
    finally:
        recorder.close()
    yield seen


def _off_template(v: View, asked: Asked) -> Finding:
    message = f"the answer {quoted(v.answer)} has not {asked.told}."
    return warning("data.off_template", v.origin, message, "Write it like the others, or remove the row.")


@dataclass(frozen=True)
class Rows:
    """The figures of all rows, in order of their pieces; the heavier ones are read from disk when asked for."""

    folders: tuple[Path, ...]
    figures: npt.NDArray[np.void]
    ends: npt.NDArray[np.int64]

    def column(self, name: str, place: int) -> npt.NDArray[np.uint32]:
        """Return one band of all rows."""
        parts = [_mapped(folder / f"{name}.bin")[:, place] for folder in self.folders]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint32)

    def contents(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
        """Return where each row's words that carry meaning begin, and the hashes of all rows' words."""
        parts = [np.fromfile(folder / "content.bin", dtype="<u4") for folder in self.folders]
        starts = np.cumsum(self.figures["content"], dtype=np.int64) - self.figures["content"]
        return starts, np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint32)

    def turns(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        """Return (row, hash of what it asks) of every turn of chats that ask more than once."""
        parts = [np.fromfile(folder / "turns.bin", dtype=TURN) for folder in self.folders]
        begins = np.append(0, self.ends)
        at = [part["row"].astype(np.int64) + begin for part, begin in zip(parts, begins, strict=False)]
        return (
            np.concatenate(at) if at else np.zeros(0, dtype=np.int64),
            np.concatenate([part["asked"] for part in parts]) if parts else np.zeros(0, dtype=np.uint64),
        )

    def known(self) -> npt.NDArray[np.uint16]:
        """Return in how many rows a word is, at most 65535, by its hash; rows that share one count for each other."""
        total = np.zeros(COUNTED, dtype=np.uint32)
        for folder in self.folders:
            total += np.fromfile(folder / "known.bin", dtype="<u2")
        return np.minimum(total, MOST_COUNTED).astype(np.uint16)

    def words(self, row: int) -> tuple[str, str, str, str]:
        """Return (origin, question with its capitals, folded answer, beginning of the answer as it is written)."""
        piece = int(np.searchsorted(self.ends, row, side="right"))
        with (self.folders[piece] / "words.bin").open("rb") as file:
            file.seek(int(self.figures["at"][row]))
            text = file.read(int(self.figures["size"][row])).decode("utf-8")
        origin, question, answer, written = text.split(SEPARATOR, 3)
        return origin, question, answer, written

    def origin(self, row: int) -> str:
        return self.words(row)[0]


def _mapped(path: Path) -> npt.NDArray[np.uint32]:
    if path.stat().st_size == 0:
        return np.zeros((0, near.BANDS), dtype=np.uint32)
    return np.memmap(path, dtype=np.uint32, mode="r").reshape(-1, near.BANDS)


def load(folders: Iterable[Path]) -> Rows:
    """Return the figures that `look` left in some folders."""
    kept = tuple(folders)
    parts = [np.fromfile(folder / "rows.bin", dtype=ROW) for folder in kept]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return Rows(kept, np.concatenate(parts) if parts else np.zeros(0, dtype=ROW), ends)


def as_mapping(finding: Finding) -> Mapping[str, str]:
    return {
        "code": finding.code, "where": finding.where, "message": finding.message, "remedy": finding.remedy,
        "severity": finding.severity.value,
    }  # fmt: skip
