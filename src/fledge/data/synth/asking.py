"""What a model that teaches is asked for, in words, as a JSON schema and as a grammar; and its answer read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fledge.data.synth.gate import Candidate
from fledge.data.synth.material import Material, Side, Source

QUESTIONS_A_REQUEST = 8
SHOWN_EXAMPLES = 4
AVOIDED = 12
MAX_FIELD_CHARS = 2000
# How questions are to be put, in turn. Those of held-out questions are never used for taught ones.
STYLES = {
    Side.TRAIN: (
        "as different people would say it out loud",
        "short, as people type into a search box",
        "formal and polite, in whole sentences",
        "casual, small letters and all, as in a chat",
        "as requests or statements of a need instead of questions",
    ),
    Side.EVAL: (
        "as a new customer would ask it in an e-mail",
        "as somebody who half remembers it and wants to be sure",
        "indirectly, telling first what they are about to do",
    ),
}
SYSTEM = (
    "You write questions that teach a small language model. You keep to what you are given, invent nothing, and answer "
    "with one JSON object and nothing else."
)
_STRING = r'"\"" ( [^"\\\x00-\x1f] | "\\" ["\\/bfnrt] ){LOW,HIGH} "\""'


@dataclass(frozen=True)
class Request:
    """One question to a teacher. `fields` are what each row holds; `key` names the request across runs."""

    key: str
    prompt: str
    fields: tuple[str, ...]
    count: int

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the answer."""
        text = {"type": "string"}
        row: dict[str, Any] = text
        if self.fields != ("question",):
            named = dict.fromkeys(self.fields, text)
            row = {"type": "object", "properties": named, "required": list(self.fields), "additionalProperties": False}
        listed = {"type": "array", "items": row}
        name = self._list_name
        return {"type": "object", "properties": {name: listed}, "required": [name], "additionalProperties": False}

    @property
    def grammar(self) -> str:
        """The same as a grammar of llama.cpp (GBNF), with limits that keep a small model from running on."""
        short, long = (_STRING.replace("LOW", low).replace("HIGH", high) for low, high in (("8", "160"), ("1", "600")))
        if self.fields == ("question",):
            row = "question"
        else:
            pairs = [f'"\\"{name}\\": " {"question" if name == "question" else "string"}' for name in self.fields]
            row = '"{" ' + ' ", " '.join(pairs) + ' "}"'
        more = max(0, self.count - 1)
        return (
            f'root ::= "{{\\"{self._list_name}\\": [" row (", " row){{{min(1, more)},{more}}} "]}}"\n'
            f"row ::= {row}\nquestion ::= {short}\nstring ::= {long}\n"
        )

    @property
    def _list_name(self) -> str:
        return "questions" if self.fields == ("question",) else "rows"


def request(
    material: Material, source: Source, side: Side, number: int, *, teacher: str, avoid: Sequence[str], count: int
) -> Request:
    """Return the `number`-th request about a source. `avoid` are questions that there are already.

    Its key depends on the source, the side, the number, the template and the teacher, not on `avoid`: an answer that
    was paid for is found again whatever else came out differently.
    """
    fields = _fields(material, source)
    named = [teacher, side, number, source.text, source.wordings, source.keys, source.values, material.template.shown]
    key = hashlib.sha256(json.dumps(named, ensure_ascii=False).encode()).hexdigest()[:24]
    style = STYLES[side][number % len(STYLES[side])]
    return Request(key, "\n\n".join(_prompt(material, source, fields, style, avoid, count)), fields, count)


def _fields(material: Material, source: Source) -> tuple[str, ...]:
    """Return what a row must hold: only the question where the answer is known."""
    if source.values is not None:
        return ("question",)
    labels = [slot.label or "answer" for slot in material.template.slots]
    return ("question", *labels, "quote")


def _prompt(
    material: Material, source: Source, fields: Sequence[str], style: str, avoid: Sequence[str], count: int
) -> Iterator[str]:
    yield f"{'Fact' if source.values is not None else 'Passage'}:\n{source.text}"
    if fields == ("question",):
        if source.wordings:
            yield "People ask about it like this:\n" + "\n".join(f"- {wording}" for wording in source.wordings)
        yield f"Write {count} different questions that this {'fact answers' if source.text else 'answers'}, {style}."
        told = [f'"{key}"' for key in source.keys if not any(key in wording for wording in source.wordings)]
        if told:
            yield f"No question may say {' or '.join(told)}: that is the answer."
        shape = '{"questions": ["...", "..."]}'
    else:
        shown = material.examples[:SHOWN_EXAMPLES]
        if shown:
            yield "Questions and answers look like this:\n" + "\n\n".join(f"Q: {q}\nA: {a}" for q, a in shown)
        yield (
            f"Write {count} different questions that the passage answers, {style}. Give each its answer, from the "
            "passage alone, and in 'quote' the words of the passage that say it, copied letter for letter."
        )
        shape = json.dumps({"rows": [dict.fromkeys(fields, "...")]})
    if avoid:
        yield "There are already:\n" + "\n".join(f"- {question}" for question in avoid[-AVOIDED:])
    yield f"Answer with JSON: {shape}"


def candidates(text: str, asked: Request, material: Material, source: Source, side: Side) -> list[Candidate] | None:
    """Return the rows in a teacher's answer, or None where nothing in it can be read.

    The object may stand in a code fence or between words; a teacher that lists bare questions is understood as well.
    """
    rows = _rows(text, asked.fields)
    if rows is None:
        return None
    found = []
    for row in rows:
        question = " ".join(str(row.get("question", "")).split())
        values = source.values
        if values is None:
            values = tuple(str(row.get(name, "")).strip() for name in asked.fields[1:-1])
        answer = material.template.render(question, values) if question and all(values) else ""
        found.append(Candidate(source, side, question, answer, values, str(row.get("quote", "")).strip()))
    return found


def _rows(text: str, fields: Sequence[str]) -> list[Mapping[str, Any]] | None:
    for value in _json_values(text):
        listed = value if isinstance(value, list) else next((v for v in value.values() if isinstance(v, list)), [value])
        rows: list[Mapping[str, Any]] = [
            item if isinstance(item, dict) else {"question": item} for item in listed if isinstance(item, dict | str)
        ]
        if rows and any("question" in row for row in rows):
            return rows
    if tuple(fields) == ("question",):
        lines = [line.strip(' \t-*•"').lstrip("0123456789.) ") for line in text.splitlines()]
        asked = [{"question": line} for line in lines if line.endswith("?")]
        return list(asked) or None
    return None


def _json_values(text: str) -> Iterator[Any]:
    """Yield the JSON objects and arrays in a text, the outermost first; one that is cut off is closed if that helps."""
    decoder = json.JSONDecoder(strict=False)
    for place, letter in enumerate(text):
        if letter in "{[":
            try:
                yield decoder.raw_decode(text, place)[0]
                return
            except (ValueError, RecursionError):
                for end in ('"]}', "]}", '"}]}', "}]}"):
                    cut = text[place : text.rfind('",') + 1] if end == "]}" else text[place:]
                    try:
                        yield decoder.decode(cut + end)
                        return
                    except (ValueError, RecursionError):
                        continue
