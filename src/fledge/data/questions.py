"""Documents -> questions with their answers, without a model: what the documents themselves ask and answer.

Headings that are questions, Q: and A: lines, questions in bold, definition lists, and headings whose first sentence
says what they are. Nothing is made up: every answer stands in the document as it is told.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fledge.data.structure import Block, Kind, blocks
from fledge.records import Text

# Of headings beside each other so many, and such a share, must be questions for the others to count as questions too.
FAQ_LEAST, FAQ_SHARE = 3, 0.6
# A definition's term, or a heading that names a thing, has at most so many words.
TERM_WORDS = 6
_ASKS = re.compile(r"\?[\s\"'”’)\]*_`.!]*(?:\([^()]*\))?[\s*_`]*$|？$|؟$")
# Words that begin nothing but a question, its sign left out.
_BY_WORDS = re.compile(
    r"(?:[\d.]+\s+)?(?:how|why|when|where|what|who|which)\s+(?:do|does|did|is|are|was|were|can|could|should|will|would)\b"
    r"(?!\s+new\b)|(?:[\d.]+\s+)?(?:can|could|should|do|does)\s+(?:i|we|you)\b",
    re.I,
)
_LABEL = r"(?:\*\*|__)?\s*(?:{0})\s*\d*\s*(?:\*\*|__)?\s*[:.)]\s*(?:\*\*|__)?\s*"
_QUESTION = re.compile(_LABEL.format("Q|Question|Frage|Pregunta|Domanda|Vraag|Pytanie|Pergunta|Вопрос|问|問"), re.I)
_ANSWER = re.compile(
    _LABEL.format("A|Answer|Antwort|Réponse|Respuesta|Risposta|Antwoord|Odpowiedź|Resposta|Ответ|答"), re.I
)
_BOLD = re.compile(r"(\*\*|__)(?P<words>.+?)\1\s*")
_NUMBER = re.compile(r"(?:[-*+•]\s+)?(?:\d+(?:\.\d+)*[.)]\s+|\d+(?:\.\d+)+\s+|§\s*\d+\s+)?")
# What stands in lists of further reading is no term.
_POINTER = re.compile(r"(?:module|class|function|method|section|chapter|pep|rfc)\s|\d", re.I)
_BREAK = re.compile(r"(?:[-*_]\s*){3,}")
_IS = r"(?:(?:the|an?|der|die|das|ein|eine)\s+)?[`*_\"“]*{0}[`*_\"”]*(?:\s*\([^()]*\))?,?\s+(?P<verb>is|are)\s+\w"


@dataclass(frozen=True)
class Asked:
    """A question that a document asks and answers. `where` is file:line; `passage`: what it was taken from."""

    question: str
    answer: str
    where: str
    passage: str


def questions_of(document: Text) -> list[Asked]:
    """Return the questions of a document with their answers, in order, each once."""
    found: dict[int, Asked] = {}
    page = _Page(document)
    for way in (_of_headings, _of_labels, _of_bold, _of_lines, _of_definitions, _of_names):
        for start, asked in way(page):
            # What an answer already holds is not asked once more.
            if not any(first <= start < last for first, last in page.taken):
                found[start] = asked
        page.taken = page.taken + page.claimed
        page.claimed = []
    return [found[start] for start in sorted(found)]


class _Page:
    """A document, its blocks, and the parts of it that are answers already."""

    def __init__(self, document: Text) -> None:
        self.text, self.blocks = document.text, blocks(document.text)
        self.taken: list[tuple[int, int]] = []
        self.claimed: list[tuple[int, int]] = []
        self._document = document
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def of(self, block: Block) -> str:
        return self.text[block.start : block.end]

    def bold_question(self, block: Block) -> re.Match[str] | None:
        """Return the question in bold that a paragraph or list begins with."""
        said = self.of(block)
        begun = _NUMBER.match(said)
        bold = _BOLD.match(said, begun.end() if begun else 0)
        return bold if block.kind in (Kind.PARAGRAPH, Kind.LIST) and bold and asks(bold["words"]) else None

    def asks_within(self, start: int, end: int) -> bool:
        """Whether something is asked between two places: a labelled line or a question in bold."""
        labelled = any(_QUESTION.match(match[2]) for match in _lines_with_labels(self.text[start:end]))
        return labelled or any(start <= b.start < end and self.bold_question(b) is not None for b in self.blocks)

    def stops(self, block: Block) -> bool:
        """Whether an answer ends before this block, whatever it is to."""
        drawn = block.kind is not Kind.HEADING and _BREAK.fullmatch(self.of(block).strip())
        return block.kind is Kind.HEADING or bool(drawn) or self.bold_question(block) is not None

    def where(self, start: int) -> str:
        origin, lines = self._document.origin, self._document.lines
        line = bisect_right(self._line_starts, start) - 1
        number = lines[line] if lines else line + 1
        return f"{origin}:{number}" if number else origin

    def asked(
        self, question: str, start: int, answer: tuple[int, int], *, said: str = ""
    ) -> Iterator[tuple[int, Asked]]:
        """Yield the question that begins at `start`, unless its answer is empty. `said`: the answer, cleaned."""
        told = said or undented(self.text[answer[0] : answer[1]].strip("\n").rstrip())
        words = _cleaned(question)
        if not words or not re.search(r"\w", told):
            return
        self.claimed.append((start, answer[1]))
        yield start, Asked(words, told, self.where(start), self.text[start : answer[1]].strip())


def undented(text: str) -> str:
    """Return a text without the margin that all of its lines have."""
    lines = text.split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines)


def _cleaned(question: str) -> str:
    """Return a question in one line, without its number, label and marks."""
    words = " ".join(question.replace("¶", " ").split())
    words = words[_NUMBER.match(words).end() :]  # type: ignore[union-attr]
    if label := _QUESTION.match(words):
        words = words[label.end() :]
    bold = _BOLD.fullmatch(words)
    return (bold["words"] if bold else words).strip("# ").strip()


def asks(words: str) -> bool:
    """Whether a line is a question by its sign."""
    return bool(_ASKS.search(words))


def _of_headings(page: _Page) -> Iterator[tuple[int, Asked]]:
    headings = [block for block in page.blocks if block.kind is Kind.HEADING]
    wanted = _question_headings(headings)
    for number, heading in enumerate(headings):
        if number not in wanted:
            continue
        end = len(page.text)
        for later, other in enumerate(headings[number + 1 :], start=number + 1):
            # Questions below a question are asked by themselves.
            if other.level <= heading.level or later in wanted:
                end = other.start
                break
        if not _asks_by_itself(heading) and page.asks_within(heading.end, end):
            # One among questions that holds its own is no question.
            continue
        yield from page.asked(heading.title, heading.start, (heading.end, end))


def _asks_by_itself(heading: Block) -> bool:
    return asks(heading.title) or bool(_BY_WORDS.match(heading.title))


def _question_headings(headings: Sequence[Block]) -> set[int]:
    """Return which headings ask: by their sign, or as one of a family most of which do."""
    families: dict[tuple[int, int], list[int]] = {}
    open_: list[int] = []
    for number, heading in enumerate(headings):
        while open_ and headings[open_[-1]].level >= heading.level:
            open_.pop()
        families.setdefault((open_[-1] if open_ else -1, heading.level), []).append(number)
        open_.append(number)
    found: set[int] = set()
    for family in families.values():
        asking = [n for n in family if _asks_by_itself(headings[n])]
        faq = len(asking) >= FAQ_LEAST and len(asking) >= FAQ_SHARE * len(family)
        found |= set(family if faq else asking)
    return found


def _of_labels(page: _Page) -> Iterator[tuple[int, Asked]]:
    """Q: lines with the A: lines that follow them."""
    marks = [
        (match.start(2), match.end(), "Q" if _QUESTION.match(match[2]) else "A")
        for match in _lines_with_labels(page.text)
        if not any(block.start <= match.start() < block.end for block in page.blocks if block.kind >= Kind.CODE)
    ]
    stops = [block.start for block in page.blocks if page.stops(block)]
    for place, ((start, after, kind), (answer, begins, follows)) in enumerate(zip(marks, marks[1:], strict=False)):
        if (kind, follows) != ("Q", "A") or any(start < stop < answer for stop in stops):
            continue
        ends = (
            [mark[0] for mark in marks[place + 2 :][:1]] + [stop for stop in stops if stop > begins] + [len(page.text)]
        )
        end = _before_mark(page.text, begins, min(ends))
        first, _, rest = page.text[begins:end].partition("\n")
        said = f"{first}\n{undented(rest)}".strip()
        yield from page.asked(page.text[after:answer], start, (begins, end), said=said)


def _lines_with_labels(text: str) -> Iterator[re.Match[str]]:
    labels = f"(?:{_QUESTION.pattern}|{_ANSWER.pattern})"
    return re.finditer(rf"(?m)^([ \t]*(?:[-*+•]\s+|\d+[.)]\s+)?)({labels})", text, re.I)


def _before_mark(text: str, start: int, end: int) -> int:
    """Return where an answer ends: before the item's mark or number of what comes next."""
    mark = re.search(r"\n[ \t]*(?:[-*+•]|\d+[.)])[ \t]*$", text[start:end])
    return start + mark.start() if mark else end


def _of_bold(page: _Page) -> Iterator[tuple[int, Asked]]:
    """A question in bold as a paragraph, or the beginning of one."""
    starts = {}
    for block in page.blocks:
        if bold := page.bold_question(block):
            starts[block.start] = (bold["words"], block.start + bold.end())
    yield from _asked_until_next(page, starts)


def _asked_until_next(page: _Page, starts: dict[int, tuple[str, int]]) -> Iterator[tuple[int, Asked]]:
    """Yield each of the questions with what follows it up to the next, a heading or a line drawn across the page."""
    stops = [block.start for block in page.blocks if page.stops(block)]
    for start, (question, after) in starts.items():
        end = min([stop for stop in (*starts, *stops) if stop > start], default=len(page.text))
        yield from page.asked(question, start, (after, end))


def _of_lines(page: _Page) -> Iterator[tuple[int, Asked]]:
    """Questions in paragraphs of one line, where a page has several and each is followed by something that asks not."""
    starts = {}
    for block, after in zip(page.blocks, page.blocks[1:], strict=False):
        said = page.of(block)
        alone = block.kind in (Kind.PARAGRAPH, Kind.LIST) and "\n" not in said and asks(said)
        if alone and after.kind is not Kind.HEADING and not asks(page.of(after)):
            starts[block.start] = (said, block.end)
    if len(starts) >= FAQ_LEAST:
        yield from _asked_until_next(page, starts)


def _of_definitions(page: _Page) -> Iterator[tuple[int, Asked]]:
    """A term with what it means: "term", then ": meaning", or the meaning indented below the term."""
    for block in page.blocks:
        lines = page.of(block).split("\n")
        if block.kind is not Kind.PARAGRAPH or len(lines) < 2:
            continue
        term, rest = lines[0], lines[1:]
        margin = len(term) - len(term.lstrip())
        if rest[0].lstrip().startswith(": "):
            meaning = "\n".join(line.lstrip().removeprefix(":").strip() for line in rest)
        elif all(len(line) - len(line.lstrip()) >= margin + 2 for line in rest):
            meaning = undented("\n".join(rest))
        else:
            continue
        if _is_term(term) and not _POINTER.match(term.strip()) and _bare(term):
            question = f'What does "{_bare(term)}" mean?'
            yield from page.asked(question, block.start, (block.start + len(term), block.end), said=meaning)


def _is_term(words: str) -> bool:
    return 0 < len(words.split()) <= TERM_WORDS and not re.search(r"[.:;,!?]\s*$", words) and "(" not in words[:1]


def _bare(words: str) -> str:
    """Return a name without its marks; what stands between ticks is the name itself."""
    if ticked := re.fullmatch(r"\s*(`+)(.+?)\1\s*", words):
        return ticked[2].strip()
    return re.sub(r"[`*]|(?<!\w)_+|_+(?!\w)", "", words).strip()


def _of_names(page: _Page) -> Iterator[tuple[int, Asked]]:
    """A heading that names a thing, whose first sentence says what it is: "Tea", "Tea is a drink."."""
    for heading, block in zip(page.blocks, page.blocks[1:], strict=False):
        name = _bare(heading.title)
        if heading.kind is not Kind.HEADING or block.kind is not Kind.PARAGRAPH or not _is_term(name):
            continue
        said = re.match(_IS.format(re.escape(name)), page.of(block), re.I)
        if said:
            yield from page.asked(f"What {said['verb'].lower()} {name}?", heading.start, (block.start, block.end))
