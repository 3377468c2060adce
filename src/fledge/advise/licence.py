"""What may be done with a model, by the licences of what it was made of: base, data and teacher.

A summary of what the licences say, for orientation; no lawyer wrote it, and whether a model is a work derived from its
data is not settled anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Verdict(IntEnum):
    """From best to worst: of several parts the worst counts. IF: yes, where the conditions are kept."""

    YES = 0
    IF = 1
    ASK = 2
    NO = 3


USES = ("private", "internal", "publish", "sell")
_YES, _IF, _ASK, _NO = Verdict.YES, Verdict.IF, Verdict.ASK, Verdict.NO


@dataclass(frozen=True)
class Terms:
    """What licences of one kind allow, in the order of USES, and their conditions in words."""

    pattern: re.Pattern[str]
    verdicts: tuple[Verdict, Verdict, Verdict, Verdict]
    conditions: str

    def verdict(self, use: str) -> Verdict:
        return self.verdicts[USES.index(use)]


def _terms(pattern: str, verdicts: str, conditions: str) -> Terms:
    letters = {"y": _YES, "i": _IF, "a": _ASK, "n": _NO}
    private, internal, publish, sell = (letters[letter] for letter in verdicts)
    return Terms(re.compile(pattern, re.IGNORECASE), (private, internal, publish, sell), conditions)


# The first that fits counts: the narrower stand first.
LICENCES: tuple[Terms, ...] = (
    _terms(r"all rights reserved|proprietary", "aann", "nothing is allowed without the owner's word"),
    _terms(r"\bcc0|public domain|unlicense|0bsd|wtfpl|pddl", "yyyy", ""),
    _terms(
        r"(?:\bnc\b|non-?commercial|qwen-research|tongyi-research|\bmrl\b|mistral-?(?:ai-)?research|\bmnpl\b"
        r"|research[- ]only|\bcohere\b)",
        "yain",
        "no commercial use; who uses it inside a business asks first, and who shares it passes the licence on",
    ),
    _terms(r"\bnd\b|noderiv", "yyan", "no changed versions may be shared, which a model trained on it may be"),
    _terms(
        r"cc[- ]by[- ]sa|\bodbl\b|\bcdla(?!-permissive)|\bagpl|\blgpl|\bgpl|gnu ",
        "yyii",
        "who shares what is made of it names the source and gives it under the same licence",
    ),
    _terms(
        r"llama-?\s*2\b",
        "yyii",
        "the licence and its use policy are passed on, no other language model is improved with it, and "
        "from 700 million users a month on Meta has to be asked",
    ),
    _terms(
        r"llama",
        "yyii",
        'the name begins with "Llama", "Built with Llama" is shown, the licence and its use policy are passed on, and '
        "from 700 million users a month on Meta has to be asked",
    ),
    _terms(r"gemma", "yyii", "the Gemma terms and their list of forbidden uses are passed on, and changes are told"),
    _terms(
        r"\bqwen\b|tongyi",
        "yyii",
        "the licence is passed on, and from 100 million users a month on Alibaba has to be asked",
    ),
    _terms(r"rail|deepseek|falcon", "yyii", "the licence and its list of forbidden uses are passed on"),
    _terms(
        r"apache|\bmit\b|\bbsd|\bpsf\b|\bisc\b|zlib|cc[- ]by\b|\bodc[- ]by|cdla-permissive|\bafl|\bmpl|artistic"
        r"|creative commons attribution",
        "yyii",
        "its notice is kept or its source named",
    ),
)  # fmt: skip
_UNKNOWN = Terms(re.compile(""), (_ASK, _ASK, _ASK, _ASK), "nobody has said what is allowed")
# Whose answers train the model: their terms leave the answers to who asked, and forbid some of what is made of them.
TEACHERS: tuple[Terms, ...] = (
    _terms(r"^(?:frames|none|own words|you)$", "yyyy", ""),
    _terms(
        r"openai|gpt|chatgpt|anthropic|claude|gemini|google|azure|x\.ai|grok",
        "iiaa",
        "the maker's terms forbid models that compete with its own",
    ),
)
OWN_WORDS = "own words"


@dataclass(frozen=True)
class Part:
    """What a model is made of. kind: base, data or teacher; licence: its name, "" where none is known."""

    kind: str
    what: str
    licence: str

    @property
    def terms(self) -> Terms:
        """The first terms that fit the licence; a teacher's follow from its name, or from the licence that it has."""
        if self.licence == OWN_WORDS:
            return TEACHERS[0]
        if self.kind == "teacher":
            found = next((terms for terms in TEACHERS if terms.pattern.search(self.what)), None)
            if found is not None:
                return found
        # Underscores are letters to a regular expression.
        name = self.licence.replace("_", "-")
        return next((terms for terms in LICENCES if terms.pattern.search(name)), _UNKNOWN) if name else _UNKNOWN


@dataclass(frozen=True)
class Use:
    """Whether one use is allowed, and what says so."""

    verdict: Verdict
    why: str


def uses_of(parts: Sequence[Part]) -> dict[str, Use]:
    """Return for every one of USES the worst that a part says, and why: each part that does not simply allow it."""
    found = {}
    for use in USES:
        held = [(part, part.terms) for part in parts if part.terms.verdict(use) > Verdict.YES]
        worst = max((terms.verdict(use) for _, terms in held), default=Verdict.YES)
        words = [
            f"{part.what} ({part.licence or 'no licence known'}): {terms.conditions}"
            for part, terms in held
            # What allows it under conditions is not why it is forbidden, but has to be kept where it is not.
            if terms.verdict(use) == worst or worst is not Verdict.NO
        ]
        found[use] = Use(worst, "; ".join(dict.fromkeys(words)))
    return found
