"""Secrets in text: keys of the usual makers by their prefix, private keys, passwords in URLs, random-looking values."""

from __future__ import annotations

import math
import re
from collections import Counter

from fledge.data.checks.personal import Hit, has_digit
from fledge.data.checks.view import holds_any, marks_in, sieve

_ENDS = r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_PRIVATE_KEY = rf"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]{{0,8000}}?{_ENDS})?"
# (what stands in every one of them, what the whole looks like).
MAKERS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("sk-", re.compile(r"\bsk-(?:proj-|svcacct-|ant-(?:api|admin)\d\d-|or-v1-)?[A-Za-z0-9_-]{20,}")),
    ("AKIA", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
    ("ASIA", re.compile(r"\bASIA[0-9A-Z]{16}\b")),
    ("ghp_", re.compile(r"\bghp_[A-Za-z0-9]{36}\b")),
    ("gho_", re.compile(r"\bgho_[A-Za-z0-9]{36}\b")),
    ("ghs_", re.compile(r"\bghs_[A-Za-z0-9]{36}\b")),
    ("github_pat_", re.compile(r"\bgithub_pat_[A-Za-z0-9_]{60,}\b")),
    ("glpat-", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    ("hf_", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("AIza", re.compile(r"\bAIza[0-9A-Za-z_-]{35}")),
    ("ya29.", re.compile(r"\bya29\.[0-9A-Za-z_-]{20,}")),
    ("xox", re.compile(r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}")),
    ("hooks.slack.com/", re.compile(r"https://hooks\.slack\.com/services/T\w+/B\w+/\w{20,}")),
    ("_live_", re.compile(r"\b[rsp]k_live_[0-9A-Za-z]{16,}\b")),
    ("_test_", re.compile(r"\b[rs]k_test_[0-9A-Za-z]{16,}\b")),
    ("SG.", re.compile(r"\bSG\.[\w-]{20,24}\.[\w-]{39,50}")),
    ("npm_", re.compile(r"\bnpm_[A-Za-z0-9]{36}\b")),
    ("pypi-", re.compile(r"\bpypi-AgE[\w-]{50,}")),
    ("dop_v1_", re.compile(r"\bdop_v1_[a-f0-9]{64}\b")),
    ("gsk_", re.compile(r"\bgsk_[A-Za-z0-9]{40,}\b")),
    ("AccountKey=", re.compile(r"AccountKey=[A-Za-z0-9+/]{80,}={0,2}")),
    ("eyJ", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    ("PRIVATE KEY", re.compile(_PRIVATE_KEY)),
)  # fmt: skip
_REGEXES = dict(MAKERS)
_MARKS = sieve(_REGEXES)
_IN_URL = re.compile(
    r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,15}://[^\s/:@<>{}\[\]$]{1,64}:(?P<value>[^\s/@<>{}\[\]$]{3,128})@[\w.-]+"
)
# What people write into examples instead of a password.
_NO_PASSWORDS = frozenset(
    ("password", "passwd", "pass", "pwd", "secret", "xxx", "xxxx", "***", "your_password", "changeme")
)
_NAMED = re.compile(
    r"(?:api[_ -]?key|secret(?:[_ -]?key)?|access[_ -]?key|(?:access|auth|api|bearer|refresh)?[_ -]?token"
    r"|passw(?:or)?d|pwd|bearer|credential)s?[\"']?(?:\s{0,3}(?:[:=]|is)\s{0,3}|\s)[\"'`]?(?P<value>[A-Za-z0-9_+/=.~!@#$%^&*-]{12,200})",
    re.IGNORECASE,
)
_NAME_MARKS = sieve(("key", "token", "secret", "passw", "pwd", "bearer", "credential"))
# Bits per character from which a value looks random; English words have about 3 over such lengths.
RANDOM_BITS = 3.4


def find_secrets(text: str) -> list[Hit]:
    """Return the secrets in a text, in order."""
    hits = [
        Hit("SECRET", match.start(), match.end())
        for mark in marks_in(text, _MARKS)
        for match in _REGEXES[mark].finditer(text)
    ]
    if "://" in text and "@" in text:
        hits += [
            Hit("PASSWORD", *match.span("value"))
            for match in _IN_URL.finditer(text)
            if match["value"].lower() not in _NO_PASSWORDS
        ]
    # Nothing looks random without a digit.
    if has_digit(text) and holds_any(text.lower(), _NAME_MARKS):
        for match in _NAMED.finditer(text):
            start, end = match.span("value")
            if looks_random(match["value"]) and not any(start < hit.end and hit.start < end for hit in hits):
                hits.append(Hit("SECRET", start, end))
    return sorted(hits, key=lambda hit: hit.start)


def looks_random(value: str) -> bool:
    """Whether a value has letters and digits, and more bits a character than words have (Shannon's entropy)."""
    letters, digits = sum(c.isalpha() for c in value), sum(c.isdigit() for c in value)
    if digits < 2 or letters < 4 or len(value) < 12:
        return False
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return bits >= min(RANDOM_BITS, math.log2(len(value)) - 0.6)
