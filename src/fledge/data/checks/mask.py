"""Personal data -> stable placeholders: one value has one name in the whole file, so rows about it still agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fledge.data.checks.personal import Hit, find_personal
from fledge.data.checks.secrets import find_secrets
from fledge.data.checks.view import View, warning
from fledge.errors import Finding

NAMES = {
    "EMAIL": "an e-mail address", "PHONE": "a phone number", "CARD": "a payment card number", "IBAN": "an IBAN",
    "SSN": "a US social security number", "NINO": "a UK national insurance number", "DNI": "a Spanish identity number",
    "CODICE_FISCALE": "an Italian tax number", "CPF": "a Brazilian tax number",
    "NIR": "a French social security number", "PERSONNUMMER": "a Swedish personal number",
    "ID_CARD": "a Chinese identity number", "PESEL": "a Polish personal number", "TAX_ID": "a German tax number",
    "IP": "an internet address", "ADDRESS": "a postal address", "SECRET": "a key or token",
    "PASSWORD": "a password",
}  # fmt: skip
SECRETS = frozenset(("SECRET", "PASSWORD"))


def find_all(text: str) -> list[Hit]:
    """Return secrets and personal data in a text, in order, none inside another."""
    hits = find_secrets(text)
    hits += [hit for hit in find_personal(text) if not any(hit.start < o.end and o.start < hit.end for o in hits)]
    return sorted(hits, key=lambda hit: hit.start)


def check_personal(view: View) -> Iterator[Finding]:
    """Yield one Finding for every find, never with the value in full: reports are passed around."""
    text = view.text
    for hit in find_all(text):
        code = "data.secret" if hit.kind in SECRETS else "data.personal"
        message = f"holds {NAMES[hit.kind]}: {_hidden(text[hit.start : hit.end])}."
        remedy = "Anything that is taught can be asked for. Take it out, or let --fix OUT --mask replace it."
        yield warning(code, view.origin, message, remedy)


def _hidden(value: str) -> str:
    flat = " ".join(value.split())
    shown = max(1, min(4, len(flat) // 4))
    return f"'{flat[:shown]}...{flat[-min(2, shown) :]}'"


class Masker:
    """Replaces finds by <KIND_n>, the same value by the same name. Holds one entry per distinct value."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._counts: Counter[str] = Counter()
        self.masked = 0

    def __call__(self, text: str) -> str:
        """Return the text with every find replaced."""
        pieces, end = [], 0
        for hit in find_all(text):
            pieces += [text[end : hit.start], self._name(hit.kind, text[hit.start : hit.end])]
            end = hit.end
            self.masked += 1
        return "".join([*pieces, text[end:]])

    def _name(self, kind: str, value: str) -> str:
        key = (kind, value if kind in SECRETS else "".join(value.split()).casefold())
        if key not in self._names:
            self._counts[kind] += 1
            self._names[key] = f"<{kind}_{self._counts[kind]}>"
        return self._names[key]
