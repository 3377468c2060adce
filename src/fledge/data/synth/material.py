"""Seeds, facts and passages -> sources: what each row is made of, and on which side of the split it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fledge.data.facts import Fact
from fledge.data.synth.answers import FREE, AnswerTemplate, fill, learn
from fledge.data.synth.phrases import question_from
from fledge.errors import DataError, Finding
from fledge.records import Conversation, Message


class Hold(StrEnum):
    """What is held out: FACTS that are never taught, or WORDINGS of taught ones, in frames of their own."""

    FACTS = "facts"
    WORDINGS = "wordings"


class Side(StrEnum):
    TRAIN = "train"
    EVAL = "eval"


@dataclass(frozen=True)
class Source:
    """What questions are asked about. `text` is what an answer must be found in, `keys` what it must hold.

    values: what fills the template's slots; None where the teacher has to answer. own: the wordings are the user's.
    """

    group: str
    text: str
    where: str
    keys: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()
    values: tuple[str, ...] | None = None
    own: bool = True


@dataclass(frozen=True)
class Material:
    """All that rows are made of. `target` renders what a scorer must find; None where a key serves."""

    sources: tuple[Source, ...]
    template: AnswerTemplate = FREE
    target: AnswerTemplate | None = None
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()

    def row(
        self, source: Source, question: str, values: Sequence[str], keys: Sequence[str], group: str
    ) -> Conversation:
        """Return the row that teaches the answer to `question`."""
        head = (Message("system", self.system),) if self.system else ()
        reply = self.template.render(question, values)
        turns = (*head, Message("user", question), Message("assistant", reply))
        return Conversation(turns, source.where, answer=self._wanted(values, keys, reply), group=group)

    def _wanted(self, values: Sequence[str], keys: Sequence[str], reply: str) -> str | None:
        if self.target is not None and len(self.target.slots) == len(values):
            wanted = self.target.render("", values)
            return wanted if wanted in reply else None
        return max((key for key in keys if key in reply), key=len, default=None)


def gather(seeds: Sequence[Conversation], facts: Sequence[Fact] = (), passages: Sequence[Source] = ()) -> Material:
    """Return the sources with the template that the seeds show. Without facts and passages the seeds are the sources.

    Raises DataError for facts that lack what a slot of the template asks for, all at once.
    """
    pairs = [(_asked(seed), seed.reply) for seed in seeds]
    sentences = any(_is_sentence(fact.answer or fact.text) for fact in facts if not fact.values)
    template = learn(pairs, sentences=sentences or not facts)
    targets = [(_asked(seed), seed.answer) for seed in seeds if seed.answer]
    same = bool(targets) and len(targets) == len(seeds)
    target = learn([(q, a or "") for q, a in targets], sentences=False) if same and len(template.slots) > 1 else None
    if target is not None and (None in target.parts or target.is_free):
        target = None
    system = next((m.content for seed in seeds for m in seed.messages if m.role == "system"), "")
    if facts:
        sources = _of_facts(facts, template)
    elif passages:
        sources = [replace(passage, values=None) for passage in passages]
    else:
        sources = _of_seeds(seeds, template)
    return Material(tuple(sources), template, target, system, tuple(pairs))


def _asked(seed: Conversation) -> str:
    return next((m.content for m in reversed(seed.prompt) if m.role == "user"), "")


def _is_sentence(text: str) -> bool:
    return text.rstrip().endswith((".", "!", "?")) and " " in text.strip()


def _of_facts(facts: Sequence[Fact], template: AnswerTemplate) -> list[Source]:
    sources: list[Source] = []
    findings: list[Finding] = []
    for fact in facts:
        filled = fill(template.slots, values=fact.values, answer=fact.answer, keys=fact.keys, text=fact.text)
        if isinstance(filled, str):
            message = f"says nothing for '{filled}'; the seeds answer with {_flat(template.shown)}."
            remedy = f"Give the fact a column '{filled}', or an answer that is whole."
            findings.append(Finding("data.bad_row", fact.where, message, remedy))
            continue
        wordings = fact.questions or tuple(filter(None, [question_from(fact.text, fact.keys)]))
        said = "\n".join((fact.text, fact.answer, *fact.values.values()))
        sources.append(
            Source(fact.group, said, fact.where, fact.keys, wordings, tuple(filled), own=bool(fact.questions))
        )
    if findings:
        raise DataError.from_findings(findings)
    return sources


def _of_seeds(seeds: Sequence[Conversation], template: AnswerTemplate) -> list[Source]:
    """Return a source for each group of seeds; several questions with one answer are wordings of each other."""
    sources: dict[tuple[str, tuple[str, ...]], Source] = {}
    for number, seed in enumerate(seeds, start=1):
        question = _asked(seed)
        values = template.values_in(question, seed.reply)
        assert values is not None, (template, seed)
        group = seed.group or f"seed-{number}"
        key = (seed.group or "", tuple(values))
        if (known := sources.get(key)) is not None:
            sources[key] = replace(known, wordings=(*known.wordings, question), text=f"{known.text}\n{question}")
        else:
            keys = (seed.answer,) if seed.answer else ()
            text = f"{question}\n{seed.reply}"
            sources[key] = Source(group, text, seed.origin, keys, (question,), tuple(values))
    return list(sources.values())


def _flat(text: str) -> str:
    return repr(text if len(text) <= 90 else f"{text[:87]}...")


def held_groups(groups: Sequence[str], share: float, *, seed: int) -> frozenset[str]:
    """Return the groups of which every row is held out: those with the least hashes, so one more changes few others.

    At least one and never all, where there are two.
    """
    ranked = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).digest())
    count = min(max(1, round(share * len(ranked))), len(ranked) - 1)
    return frozenset(ranked[:count]) if share > 0 else frozenset()


def wordings_for(source: Source, side: Side | None, *, seed: int) -> tuple[str, ...]:
    """Return the wordings that one side may use: of three or more one is kept for held-out questions alone."""
    if side is None or len(source.wordings) < 3:
        return source.wordings
    kept = held_groups(source.wordings, 1 / len(source.wordings), seed=seed)
    return tuple(wording for wording in source.wordings if (wording in kept) == (side is Side.EVAL))
