"""`fledge data check`: everything a person should be told about their rows before a model learns them."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fledge.config import Config
from fledge.data.checks import outliers, repeats
from fledge.data.checks.licence import Licence, find_licences
from fledge.data.checks.look import MAX_KEPT, Asked, Rows, load
from fledge.data.checks.shape import SHARE, common_shape, joined
from fledge.data.checks.view import view, warning
from fledge.data.formats import open_records
from fledge.data.sources import files_in, no_rows
from fledge.data.template import ChatTemplate
from fledge.errors import DataError, Finding, Severity, writing
from fledge.recipes.check_pieces import PIECE_BYTES, Piece, look_at_all
from fledge.recipes.check_tokens import SAMPLE_BYTES, Lengths, count_tokens
from fledge.runtime.threads import usable_cores

# By these words in its name a file is there to measure with.
EVAL_WORDS = frozenset(("eval", "evaluation", "valid", "validation", "validate", "val", "dev", "test", "heldout"))
# The common form of answers is read off so many first rows of each file.
SHAPE_ROWS = 1000
# Below this a second process costs more than it saves.
ALONE_BYTES = 2 * PIECE_BYTES
PACKED_RATIO = 4

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """Where rows are held out, what is strict. workers 0: as many as there are cores, where it pays."""

    held_out: tuple[Path, ...] = ()
    strict: bool = False
    workers: int = 0


@dataclass
class FileSeen:
    """One file: how it was read, and how many rows of it were good."""

    path: Path
    held_out: bool
    format: str | None = None
    why: str = ""
    rows: int = 0
    errors: int = 0


@dataclass
class Report:
    """What was found. `counts` counts every problem; `problems` holds at most MAX_KEPT of each code."""

    files: list[FileSeen] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    rows: int = 0
    balance: outliers.Balance = field(default_factory=lambda: outliers.Balance({}, {}))
    lengths: Lengths = field(default_factory=Lengths)
    licences: list[Licence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, finding: Finding, *, counted: bool = True) -> None:
        if counted:
            self.counts[finding.code] += 1
            self.errors += finding.severity is Severity.ERROR
        if self._kept[finding.code] < MAX_KEPT:
            self._kept[finding.code] += 1
            self.problems.append(finding)

    _kept: Counter[str] = field(default_factory=Counter)

    @property
    def personal(self) -> int:
        return self.counts["data.personal"] + self.counts["data.secret"]


def check(
    paths: Sequence[Path],
    config: Config,
    *,
    template: ChatTemplate | None = None,
    options: Options = Options(),
    on_finding: Callable[[Finding], None] = lambda finding: None,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Return what there is to say about some files. `template` None: no tokens are counted.

    `on_finding` gets each problem when it is met; `progress` gets what is done, how far, of how much.
    """
    report = Report()

    def tell(finding: Finding, *, counted: bool = True) -> None:
        strict = options.strict and finding.severity is Severity.WARNING
        finding = replace(finding, severity=Severity.ERROR) if strict else finding
        report.add(finding, counted=counted)
        on_finding(finding)

    folder = Path(tempfile.mkdtemp(prefix="fledge-check-"))
    try:
        with writing(folder):
            report.files = _files(paths, options.held_out, report)
            pieces = list(_plan(report, config, folder, tell))
            samples = _read(report, pieces, options, tell, progress)
            rows = load(Path(piece.folder) for piece in pieces)
            _compare(report, rows, _held_out(report, pieces, rows), tell, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if template is not None and samples:
        report.lengths, too_long = count_tokens(
            samples, template, limit=config.train.max_tokens, taught=config.train.taught, rows=report.rows,
            step=lambda done, total: progress("counting tokens", done, total),
        )  # fmt: skip
        for finding in too_long:
            tell(finding)
    _licence(report, paths, tell)
    return report


def _files(paths: Sequence[Path], held_out: Sequence[Path], report: Report) -> list[FileSeen]:
    """Return the files of both sides. Of several given together, those whose name says so are held out: it is told."""
    given = [file for path in paths for file in files_in(path)]
    named = [
        file for file in given if EVAL_WORDS & set(file.stem.lower().replace("-", "_").replace(".", "_").split("_"))
    ]
    if not held_out and named and len(named) < len(given):
        report.notes.append(f"taken as rows to measure with, by their names: {', '.join(file.name for file in named)}")
    else:
        named = []
    seen = [FileSeen(file, file in named) for file in dict.fromkeys(given)]
    return seen + [FileSeen(file, True) for path in held_out for file in files_in(path) if file not in given]


def _plan(report: Report, config: Config, folder: Path, tell: Callable[[Finding], None]) -> Iterator[Piece]:
    """Yield the pieces of every file that can be read; the others are told."""
    total = sum(_size(seen.path) for seen in report.files)
    asked = Asked(
        sample_every=max(1, round(total / SAMPLE_BYTES)),
        long_chars=2 * config.train.max_tokens if total > SAMPLE_BYTES else 1 << 60,
    )
    readings = []
    answers: list[str] = []
    for seen in report.files:
        try:
            source, reading = open_records(seen.path, config.data, through=lambda rows: islice(rows, SHAPE_ROWS))
            heads = [view(record) for record in reading.records if not isinstance(record, Finding)]
        except DataError as error:
            seen.errors += 1
            tell(Finding(error.code, error.where or str(seen.path), error.message, error.remedy))
            continue
        seen.format, seen.why = reading.form, ", ".join(filter(None, (source.why, reading.why)))
        answers += [v.answer for v in heads if v.answers]
        readings.append(
            (seen, reading, source.kind == "jsonl" and source.why in ("", "UTF-8") and not _packed(seen.path))
        )
    asked, template, shape = _form_of_answers(report, config, answers, asked)
    number = 0
    for seen, reading, cut in readings:
        for start, end, line in _spans(seen.path, cut and not reading.whole):
            form = "auto" if reading.whole else reading.form
            columns = config.data.columns if reading.whole else reading.columns
            yield Piece(
                str(seen.path), str(folder / f"{number:06d}"), form, dict(columns), reading.me, config.data.encoding,
                start, end, line, template, shape, asked,
            )  # fmt: skip
            number += 1


def _form_of_answers(
    report: Report, config: Config, answers: Sequence[str], asked: Asked
) -> tuple[Asked, str | None, str | None]:
    """Return what is asked, with the project's template or, without one, the shape that nearly all answers have."""
    if config.evaluate.template is not None:
        return replace(asked, told="the form that evaluate.template asks for"), config.evaluate.template, None
    if not (found := common_shape(answers)):
        return asked, None, None
    name, shape = joined(found)
    report.notes.append(
        f"more than {SHARE:.0%} of the answers have one form: {name} (as a regular expression: {shape})"
    )
    return replace(asked, told=f"the form that the others have, {name}"), None, shape


def _size(path: Path) -> int:
    return path.stat().st_size * (PACKED_RATIO if _packed(path) or path.suffix == ".parquet" else 1)


def _packed(path: Path) -> bool:
    return path.suffix in (".gz", ".bz2", ".xz", ".gzip")


def _spans(path: Path, cut: bool) -> Iterator[tuple[int, int, int]]:
    from fledge.data.readers.json_rows import spans

    if cut and path.stat().st_size > PIECE_BYTES:
        yield from spans(path, size=PIECE_BYTES)
    else:
        yield 0, 0, 1


def _read(
    report: Report, pieces: Sequence[Piece], options: Options, tell: Callable[..., None], progress: Progress
) -> list[tuple[str, str]]:
    """Look at every piece and return the rows to count tokens of."""
    total = sum(_size(Path(piece.path)) if not piece.end else piece.end - piece.start for piece in pieces)
    workers = options.workers or (min(2, usable_cores()) if total > ALONE_BYTES and len(pieces) > 1 else 1)
    files = {str(seen.path): seen for seen in report.files}
    samples: list[tuple[str, str]] = []
    odd: list[Finding] = []
    done = 0
    for piece, found in look_at_all(pieces, workers=workers):
        if isinstance(found, Finding):
            if piece.shape is not None and found.code == "data.off_template":
                odd.append(found)
            else:
                tell(found, counted=False)
            continue
        seen = files[piece.path]
        seen.rows += found.rows
        seen.errors += found.errors
        report.rows += found.rows
        report.counts.update(found.counts)
        report.errors += found.errors
        samples += found.samples
        done += piece.end - piece.start if piece.end else _size(Path(piece.path))
        progress("reading", done, total)
    # Each of two shapes may be missing in a tenth of the answers.
    shapes = 1 + any(piece.shape is not None and piece.shape.startswith("(?=") for piece in pieces)
    if len(odd) and report.counts["data.off_template"] > shapes * (1 - SHARE) * report.rows:
        # A form read off the first rows that too many later ones have not is none.
        del report.counts["data.off_template"]
        report.notes = [note for note in report.notes if "have one form" not in note]
        odd = []
    for finding in odd:
        tell(finding, counted=False)
    if options.strict:
        report.errors = sum(report.counts.values())
    for seen in files.values():
        if seen.format is not None and not seen.rows and not seen.errors:
            seen.errors += 1
            error = no_rows(seen.path)
            tell(Finding(error.code, error.where, error.message, error.remedy))
    return samples


def _held_out(report: Report, pieces: Sequence[Piece], rows: Rows) -> npt.NDArray[np.bool_]:
    """Return which rows are there to measure with."""
    held = {str(seen.path) for seen in report.files if seen.held_out}
    counts = np.diff(rows.ends, prepend=0)
    return np.repeat(np.array([piece.path in held for piece in pieces], dtype=np.bool_), counts)


def _compare(
    report: Report,
    rows: Rows,
    held: npt.NDArray[np.bool_],
    tell: Callable[..., None],
    progress: Progress,
) -> None:
    """Say what is wrong between rows."""
    if not len(rows.figures):
        return
    for repeat in repeats.exact_duplicates(rows, ~held):
        tell(repeat.finding)
    for repeat in repeats.contradictions(rows, ~held):
        tell(repeat.finding)
    near, whole = repeats.near_duplicates(rows, ~held, step=lambda d, t: progress("comparing rows", d, t))
    for repeat in near:
        tell(repeat.finding)
    if not whole:
        report.notes.append(
            f"so many rows are alike that only the {repeats.MAX_COMPARED:,} likeliest pairs were compared"
        )
    if held.any():
        for repeat in repeats.leaks(rows, ~held, held, step=lambda d, t: progress("looking for leaks", d, t)):
            tell(repeat.finding)
    report.balance = outliers.balance(rows)
    for finding in outliers.check_languages(rows, report.balance):
        tell(finding)
    for finding in outliers.check_endings(rows):
        tell(finding)
    for finding in outliers.check_balance(report.balance, str(report.files[0].path)):
        tell(finding)


def _licence(report: Report, paths: Sequence[Path], tell: Callable[..., None]) -> None:
    report.licences = find_licences(paths)
    named = [one for one in report.licences if one.name]
    where = str(paths[0]) if paths else ""
    if not named:
        message = "nothing beside the data says under which licence it is."
        tell(
            Finding(
                "data.licence", where, message, "Before you share the model, make sure that you may.", Severity.NOTE
            )
        )
        return
    restricting = next((one for one in named if one.restricts), None)
    if restricting is not None:
        message = f"says {restricting.name}, which {restricting.restricts}."
        tell(warning("data.licence", restricting.file, message, "What is learnt from it falls under it, most likely."))
    else:
        first = named[0]
        tell(
            Finding("data.licence", first.file, f"says {first.name}.", "Name the source when you share.", Severity.NOTE)
        )
