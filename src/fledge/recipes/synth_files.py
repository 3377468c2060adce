"""The files around `fledge data synth`: what is read before a row is made, what is written when all are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fledge.config import Config
from fledge.data.canonical import as_line
from fledge.data.facts import read_facts
from fledge.data.passages import passages
from fledge.data.sources import DOCUMENTS, files_in, open_source, suffix_kind
from fledge.data.synth.journal import Journal, locked
from fledge.data.synth.material import Material, Source, gather
from fledge.errors import ConfigError, DataError, Finding
from fledge.project import staged_file
from fledge.recipes.convert import refuse
from fledge.recipes.prepare import read_taught
from fledge.recipes.synth import Grower, Grown, Order, Progress
from fledge.recipes.teachers import Budget, Manner, Teacher, open_teacher
from fledge.records import Conversation, Message, Row, Text

# A passage is what one question can be about; so many characters are about 350 tokens.
PASSAGE_CHARS = 1400
# A piece that says less is a heading, a label or a page number.
SHORTEST_PASSAGE_CHARS = 120


@dataclass(frozen=True)
class Inputs:
    """What rows are grown from: seed rows, and facts or documents or neither."""

    seeds: tuple[Path, ...]
    facts: Path | None = None
    documents: Path | None = None


@dataclass(frozen=True)
class Written:
    """Where rows went. `journal` is set where it is kept for another run; `notes` are for the user."""

    out: Path
    held_out: Path | None
    grown: Grown
    teacher: str
    journal: Path | None
    notes: tuple[str, ...]


def read_material(inputs: Inputs, config: Config) -> tuple[Material, list[str]]:
    """Return what rows are made of, and what was found out about it, in words.

    Raises ConfigError where both facts and documents are given; DataError for what is wrong with a file.
    """
    if inputs.facts is not None and inputs.documents is not None:
        raise ConfigError("config.bad_value", "--facts and --documents exclude each other.",
                          remedy="Run the command once for each, and train on both files.")  # fmt: skip
    taught, notes = read_taught(list(inputs.seeds), config)
    seeds = [_last_turn(seed) for seed in taught]
    facts = read_facts(inputs.facts) if inputs.facts is not None else []
    pieces = _passages(inputs.documents) if inputs.documents is not None else []
    material = gather(seeds, facts, pieces)
    about = f"{len(facts)} facts" if facts else f"{len(pieces)} passages" if pieces else f"{len(seeds)} seeds"
    notes.append(f"{about} to ask about; answers have the form {material.template.shown!r}")
    if len(seeds) == 1:
        notes.append("one seed shows no form of answers; give two or more")
    return material, notes


def _last_turn(seed: Conversation | Text) -> Conversation:
    """Return the seed without earlier turns: what is grown is one question and its answer."""
    talk = seed if isinstance(seed, Conversation) else Conversation((Message("user", seed.text),), seed.origin)
    head = tuple(message for message in talk.messages if message.role == "system")[:1]
    asked = next((m for m in reversed(talk.prompt) if m.role == "user"), None)
    if asked is None or not talk.reply:
        raise DataError("data.bad_row", "is no question with its answer.", where=seed.origin,
                        remedy="Give seeds of a user's question and the assistant's answer.")  # fmt: skip
    return replace(talk, messages=(*head, asked, talk.messages[-1]))


def _passages(folder: Path) -> list[Source]:
    """Return the passages of a folder of documents, or of one."""
    found: list[Source] = []
    findings: list[Finding] = []
    for file in files_in(folder):
        if suffix_kind(file) not in DOCUMENTS:
            raise DataError("data.unknown_format", "holds rows, not text.", where=str(file),
                            remedy="Give documents (txt, md, rst, html, pdf, docx), or rows as --facts.")  # fmt: skip
        for row in open_source(file).rows:
            if isinstance(row, Finding):
                findings.append(row)
            else:
                found += _pieces(row)
    if findings:
        raise DataError.from_findings(findings)
    if not found:
        raise DataError("data.empty", "no passage long enough to ask about.", where=str(folder),
                        remedy=f"A passage has {SHORTEST_PASSAGE_CHARS} characters at least.")  # fmt: skip
    return found


def _pieces(row: Row) -> list[Source]:
    document = Text(str(row.values["text"]), row.origin, str(row.values.get("title", "")))
    pieces = [piece for piece in passages(document, PASSAGE_CHARS) if len(piece.text) >= SHORTEST_PASSAGE_CHARS]
    name = Path(row.origin).name
    return [
        Source(f"{name}#{number}", piece.whole, piece.where, own=False) for number, piece in enumerate(pieces, start=1)
    ]


def companion(out: Path) -> Path:
    """Return where the rows held out go: rows.eval.jsonl beside rows.jsonl."""
    return out.with_name(f"{out.stem}.eval{out.suffix}")


def journal_of(out: Path) -> Path:
    """Return the journal of an output: rows.jsonl.journal beside rows.jsonl."""
    return out.with_name(f"{out.name}.journal")


def synth(
    inputs: Inputs,
    out: Path,
    order: Order,
    spec: str,
    *,
    manner: Manner,
    budget: Budget,
    project: Path,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Written:
    """Grow rows and write them to `out`, those held out to its companion, both whole or not at all.

    Raises ConfigError for what cannot be (nothing is written over without `force`, but for what an earlier run of this
    order wrote itself), DataError for inputs and where no row passed the gate, TeacherError where the teacher is down.
    """
    material, notes = read_material(inputs, Config())
    for note in notes:
        say(note)
    _refuse_order(material, order, budget)
    given = [*inputs.seeds, *filter(None, (inputs.facts,))]
    with locked(out):
        journal = Journal(journal_of(out))
        outputs = [out, companion(out)] if order.eval_share else [out]
        for path in outputs:
            refuse(path, given, force=force or (path.is_file() and journal.knows(path)))
        grown, name = _grow(material, order, spec, manner, budget, journal, project=project, say=say, progress=progress)
        return _write(grown, name, outputs, journal, order)


def _refuse_order(material: Material, order: Order, budget: Budget) -> None:
    groups = {source.group for source in material.sources}
    if order.eval_share and order.hold.value == "facts" and len(groups) < 2:
        raise ConfigError("config.bad_value", "one fact cannot be both taught and held out.", where="--eval",
                          remedy="Give more facts, or hold out wordings: --hold wordings.")  # fmt: skip
    if budget.max_money is not None and not (budget.price_in or budget.price_out):
        raise ConfigError("config.bad_value", "--budget needs prices to count with.", where="--budget",
                          remedy="Give --price-in and --price-out, per million tokens.")  # fmt: skip


def _grow(
    material: Material,
    order: Order,
    spec: str,
    manner: Manner,
    budget: Budget,
    journal: Journal,
    *,
    project: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> tuple[Grown, str]:
    grower = Grower(material, order, progress=progress)
    teacher: Teacher | None = open_teacher(spec, manner, project=project, say=say)
    if teacher is None:
        return grower.by_frames(), "frames"
    if len(journal):
        say(f"{len(journal)} answers of an earlier run are in {journal.path}; they are not asked again")
    with closing(teacher):
        return grower.by_teacher(teacher, journal, budget, manner), teacher.name


def _write(grown: Grown, teacher: str, outputs: Sequence[Path], journal: Journal, order: Order) -> Written:
    if not grown.kept:
        told = ", ".join(f"{reason.value}: {count}" for reason, count in grown.dropped.most_common())
        why = (
            "the budget allowed no request."
            if grown.stopped and not grown.made
            else f"no row passed the gate ({told})."
        )
        remedy = "Raise --budget or --tokens."
        if not grown.stopped:
            remedy = "Look at seeds and facts, or take a teacher that can do it."
            if len(journal):
                # Asked again, the same answers would come out of the journal for ever.
                remedy += f" What was answered is set aside in {journal.set_aside()}; it is asked anew next time."
        raise DataError("data.empty", why, where=str(outputs[0]), remedy=remedy)
    contents = ["".join(map(as_line, rows)) for rows in (grown.train, grown.held_out)]
    notes = []
    for path, content in zip(outputs, contents, strict=False):
        if not content:
            notes.append(f"{path} is not written: no row came for it")
            continue
        journal.will_write(content)
        with staged_file(path) as file:
            file.write(content)
    keep = (grown.kept < order.num_rows and teacher != "frames") or bool(grown.stopped)
    if keep:
        notes.append(f"what was answered is kept in {journal.path}: the same command goes on from there")
    else:
        journal.remove()
    if grown.kept < order.num_rows:
        why = f"stopped by the {grown.stopped}" if grown.stopped else "nothing new came any more"
        notes.append(f"{grown.kept} of {order.num_rows} rows: {why}")
    if grown.held_out and order.hold.value == "facts":
        notes.append("the rows held out ask about what is not taught: they measure the form of answers, not the facts; "
                     "`--hold wordings` holds out other questions about taught facts")  # fmt: skip
    held = outputs[1] if len(outputs) > 1 and grown.held_out else None
    return Written(outputs[0], held, grown, teacher, journal.path if keep else None, tuple(notes))
