"""Is a reply right? Four scorers, the choice between them, and the template that every answer must match.

A scorer is a pure function of a reply and its row. To add one: write it, put it in SCORERS and, if it asks something of
the row, say so in `_lacking`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fledge.errors import ConfigError, DataError, Finding, nearest
from fledge.records import Conversation

Scorer = Callable[[str, Conversation], bool]

# What is longer is no answer and matches no pattern: a runaway reply must not meet a slow regular expression.
MAX_PATTERN_CHARS = 100_000

# Decimal counts exactly and without overflow up to here; a longer run of digits is no answer.
MAX_NUMBER_CHARS = 400
FLOAT_NOISE = Decimal("1e-12")

_NUMERAL = r"(?:\d{1,3}(?:[,\u00a0\u2009\u202f]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?"
# A sign counts where it cannot be a hyphen or a minus between two terms: not in "covid-19", not in "5-3".
_NUMBER = re.compile(
    rf"(?:(?<![A-Za-z\d_)\]%.])(?P<sign>[-+\u2212]))?[$€£¥]?(?<![A-Za-z\d_])(?P<number>{_NUMERAL})"
    rf"(?:[ ]?/[ ]?(?P<below>{_NUMERAL}))?(?P<percent>[ \u00a0\u202f]?%)?"
)
_SEPARATORS = str.maketrans("", "", ",\u00a0\u2009\u202f")


@dataclass(frozen=True)
class _Number:
    value: Decimal
    percent: bool


def normalise(text: str) -> str:
    """Return `text` with line feeds as its line ends and no outer white space; nothing inside is changed."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def expected(score: str, row: Conversation) -> str:
    """Return what `score` holds a reply against: the reference for `exact`, else the row's answer where it has one."""
    if score == "exact":
        return row.reply or row.answer or ""
    return row.reply if row.answer is None else row.answer


def exact(reply: str, row: Conversation) -> bool:
    return normalise(reply) == normalise(expected("exact", row))


def contains(reply: str, row: Conversation) -> bool:
    return normalise(expected("contains", row)) in normalise(reply)


def number(reply: str, row: Conversation) -> bool:
    """Say whether the last numbers of the reply and of the row's answer (else its reference) are the same quantity.

    Thousands separators, a plus sign, a currency, trailing zeros and noise in the last digits of a float do not matter.
    50 % is 0.5, and it is also 50, because an answer may leave the unit to the question. 3/4 is 0.75.
    """
    found, wanted = _last_number(reply), _last_number(expected("number", row))
    if found is None or wanted is None:
        return False
    return _close(found.value, wanted.value) or _close(_fraction(found), _fraction(wanted))


def regex(reply: str, row: Conversation) -> bool:
    """Say whether the row's answer, a regular expression, is found in the reply."""
    if row.answer is None or len(reply) > MAX_PATTERN_CHARS:
        return False
    return re.search(row.answer, normalise(reply)) is not None


SCORERS: dict[str, Scorer] = {"exact": exact, "contains": contains, "number": number, "regex": regex}


def choose_scorer(score: str, rows: Sequence[Conversation]) -> tuple[str, str]:
    """Return the name of the scorer for `rows` and the reason in plain words.

    Raises ConfigError when `score` is neither `auto` nor in SCORERS, and DataError that lists every row which the
    scorer cannot judge: an empty answer would be found in anything.
    """
    if score != "auto" and score not in SCORERS:
        known = ("auto", *SCORERS)
        raise ConfigError(
            "config.bad_value",
            f"evaluate.score is {score!r}, which is no scorer{nearest(score, known) or '.'}",
            remedy=f"Use one of: {', '.join(known)}.",
        )
    name, reason = _suited(rows) if score == "auto" else (score, "evaluate.score says so")
    findings = [
        Finding(
            "data.bad_row", row.origin, f"{lacking}; the scorer '{name}' needs one.", "Correct the row or remove it."
        )
        for row in rows
        if (lacking := _lacking(name, row))
    ]
    if findings:
        raise DataError.from_findings(findings)
    return name, reason


@dataclass(frozen=True)
class Template:
    """The regular expression `evaluate.template`, which every answer must match in full, outer white space aside.

    `{prompt}` in it stands for the last user message, letter for letter. Raises ConfigError when it is no regular
    expression. A pattern that backtracks without end is the user's own, and Ctrl-C ends it.
    """

    pattern: str

    def __post_init__(self) -> None:
        if problem := _regex_problem(self._filled("x")):
            raise ConfigError(
                "config.bad_value",
                f"evaluate.template is no regular expression: {problem}.",
                remedy="Correct it; put a backslash before a character that stands for itself, such as ( or ?.",
            )

    def adheres(self, reply: str, row: Conversation) -> bool:
        """Say whether the whole reply has the form that the template asks for, given the row's last user message."""
        if len(reply) > MAX_PATTERN_CHARS:
            return False
        asked = next((m.content for m in reversed(row.prompt) if m.role == "user"), "")
        return re.fullmatch(self._filled(asked), normalise(reply)) is not None

    def _filled(self, prompt: str) -> str:
        as_it_stands = prompt.replace("\r\n", "\n").replace("\r", "\n")
        # A reply loses its outer white space, so a prompt quoted at its edge must be allowed to lose it too.
        forms = "|".join(re.escape(form) for form in (as_it_stands, normalise(prompt)))
        return self.pattern.replace("{prompt}", f"(?:{forms})")


def _suited(rows: Sequence[Conversation]) -> tuple[str, str]:
    answers = [row.answer for row in rows if row.answer is not None]
    if not answers:
        return "exact", "no row has an 'answer', so a reply must equal the reference"
    if len(answers) == len(rows) and all(_NUMBER.fullmatch(normalise(answer)) for answer in answers):
        return "number", "every 'answer' is a number"
    return "contains", f"{len(answers)} of {len(rows)} rows have an 'answer' to be found in the reply"


def _lacking(score: str, row: Conversation) -> str:
    """Return what keeps scorer `score` from judging the row, or ""."""
    wanted = expected(score, row)
    if score == "regex":
        if row.answer is None:
            return "no 'answer' that holds a regular expression"
        problem = _regex_problem(row.answer)
        return f"'answer' is no regular expression ({problem})" if problem else ""
    if not wanted.strip():
        return "neither an 'answer' nor a reference reply"
    if score == "number" and _last_number(wanted) is None:
        return f"no number in {wanted[:40]!r}"
    return ""


def _regex_problem(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return ""


def _last_number(text: str) -> _Number | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    if last is None or len(last[0]) > MAX_NUMBER_CHARS:
        return None
    value = _decimal(last["number"])
    if last["below"]:
        below = _decimal(last["below"])
        if not below:
            return None
        value /= below
    # copy_negate: the minus operator would round to 28 digits.
    return _Number(value.copy_negate() if last["sign"] in ("-", "\u2212") else value, last["percent"] is not None)


def _decimal(numeral: str) -> Decimal:
    return Decimal(numeral.translate(_SEPARATORS))


def _fraction(number: _Number) -> Decimal:
    return number.value / 100 if number.percent else number.value


def _close(a: Decimal, b: Decimal) -> bool:
    """Whole numbers are equal or not, however long; others may differ by the noise of a float."""
    if a == b:
        return True
    if a == a.to_integral_value() and b == b.to_integral_value():
        return False
    return abs(a - b) <= FLOAT_NOISE * (max(abs(a), abs(b)) if a and b else 1)
