"""What is wrong with a text as text: letters decoded wrongly, placeholders never filled in, markup, control tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fledge.data.checks.view import View, holds_any, quoted, sieve, warning
from fledge.errors import Finding

# How Windows-1252 shows the bytes 0x80..0xBF that continue a letter of UTF-8; five of them it leaves as they are.
_CONTINUES = "".join(bytes([b]).decode("cp1252", errors="ignore") or chr(b) for b in range(0x80, 0xC0))
_MORE = f"[{re.escape(_CONTINUES)}\x80-\x9f]"
_MANGLED = re.compile(f"[\u00c2-\u00df]{_MORE}|[\u00e0-\u00ef]{_MORE}{{2}}|[\u00f0-\u00f4]{_MORE}{{3}}")
_BYTE = {character: 0x80 + place for place, character in enumerate(_CONTINUES)} | {chr(b): b for b in range(0x80, 256)}

# The same of Cyrillic, read as Windows-1251: every letter becomes a Р or С and one of these. Three such pairs in a
# row, of which one holds what stands in no Russian word, are no word.
_AFTER_CYRILLIC = "".join(bytes([b]).decode("cp1251", errors="ignore") or chr(b) for b in range(0x80, 0xC0))
_UNLIKELY = re.escape("".join(c for c in _AFTER_CYRILLIC if not c.isalpha() or c in "ЂЃѓЉЊЌЋЏђљњќћџЎўЈЅѕј"))
_MANGLED_CYRILLIC = re.compile(
    f"(?=(?:[РС][{re.escape(_AFTER_CYRILLIC)}])*[РС][{_UNLIKELY}])(?:[РС][{re.escape(_AFTER_CYRILLIC)}]){{3,}}"
)
_BYTE_1251 = {character: 0x80 + place for place, character in enumerate(_AFTER_CYRILLIC)} | {"Р": 0xD0, "С": 0xD1}

_UNFILLED = re.compile(
    r"\{\{\s*[\w.\- ]{1,40}\s*\}\}"
    r"|\[(?:INSERT|YOUR|ADD|ENTER|FILL|PLACEHOLDER|NAME|COMPANY|DATE|Insert|Your|Enter)\b[^\]\n]{0,60}\]"
    r"|<(?:your|insert|enter)[ _-][^>\n]{1,40}>"
    r"|\b(?:TODO|FIXME|TBD)\b"
    r"|\b[Ll]orem ipsum\b|\bLOREM IPSUM\b"
)
_UNFILLED_MARKS = sieve(("{{", "[", "<", "TODO", "FIXME", "TBD", "orem ipsum", "OREM IPSUM"))
_CONTROL = re.compile(
    r"<\|[\w /.-]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|<｜[^｜\n]{1,30}｜>|^### (?:Instruction|Response|Input|Human|Assistant):",
    re.MULTILINE,
)
_CONTROL_MARKS = sieve(("<", "INST]", "### "))
_LABEL = re.compile(r"^(?:Human|User|Assistant|AI|Bot|USER|ASSISTANT|Question|Answer): ?", re.MULTILINE)
_LABEL_MARKS = sieve(("Human:", "User:", "Assistant:", "AI:", "Bot:", "USER:", "ASSISTANT:", "Question:", "Answer:"))
_MARKUP = re.compile(
    r"</?(?:p|div|br|span|a|li|ul|ol|b|i|u|em|strong|table|tr|td|th|h[1-6]|font|img|body|html|script|style)"
    r"(?: [^<>\n]{0,200})?/?>"
    r"|&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,5}|#x[\da-fA-F]{2,4});",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)


def unmangled(text: str) -> str:
    """Return the text with letters of UTF-8 that were read as Windows-1252 put right; others stay untouched.

    Every run is decoded by itself, so one wrong letter does not depend on what else the text holds.
    """
    if text.isascii():
        return text
    for _ in range(2):
        # Some texts went wrong twice.
        better = _MANGLED_CYRILLIC.sub(_decoded_cyrillic, _MANGLED.sub(_decoded, text))
        if better == text:
            break
        text = better
    return text


def _decoded(match: re.Match[str]) -> str:
    try:
        letter = bytes(_BYTE[character] for character in match[0]).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return match[0]
    return letter if letter.isprintable() or letter == "\xa0" else match[0]


def _decoded_cyrillic(match: re.Match[str]) -> str:
    try:
        word = bytes(_BYTE_1251[character] for character in match[0]).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return match[0]
    return word if all("\u0400" <= letter <= "\u045f" for letter in word) else match[0]


def _first_mangled(text: str) -> re.Match[str] | None:
    for regex, decoded in ((_MANGLED, _decoded), (_MANGLED_CYRILLIC, _decoded_cyrillic)):
        if (found := next((m for m in regex.finditer(text) if decoded(m) != m[0]), None)) is not None:
            return found
    return None


def check_letters(view: View) -> Iterator[Finding]:
    """Yield mojibake, with what it would be, and U+FFFD."""
    text = view.text
    if text.isascii():
        return
    if (found := _first_mangled(text)) is not None:
        start, end = _word_around(text, found.start(), found.end())
        word = text[start:end]
        message = f"{quoted(word)} seems to be {quoted(unmangled(word))}, read in the wrong encoding."
        yield warning("data.mojibake", view.origin, message, "Save the source as UTF-8 again, or let --fix mend it.")
    if "\ufffd" in text:
        place = text.index("\ufffd")
        message = (
            f"holds U+FFFD, which stands where a letter was lost: {quoted(text[max(0, place - 20) : place + 20])}."
        )
        yield warning("data.bad_encoding", view.origin, message, "Fill the letter in, or fetch the text again.")


def _word_around(text: str, start: int, end: int) -> tuple[int, int]:
    while start and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return start, end


def check_leftovers(view: View) -> Iterator[Finding]:
    """Yield a placeholder that nobody filled in."""
    text = view.text
    if not holds_any(text, _UNFILLED_MARKS):
        return
    if (found := _UNFILLED.search(text)) is not None:
        message = f"{quoted(found[0])} was never filled in."
        yield warning("data.leftover", view.origin, message, "Fill it in; what is taught is said word for word.")


def check_control(view: View) -> Iterator[Finding]:
    """Yield what looks like the control tokens or role labels of a chat inside one turn."""
    text = view.text
    if holds_any(text, _CONTROL_MARKS) and (found := _CONTROL.search(text)) is not None:
        message = f"{quoted(found[0])} looks like a mark of a chat template inside a turn."
        remedy = (
            "Cut the text into turns; the template writes its marks itself. As text it teaches the model to say it."
        )
        yield warning("data.control_text", view.origin, message, remedy)
    elif ":" in text and holds_any(text, _LABEL_MARKS):
        yield from _labels(view)


def _labels(view: View) -> Iterator[Finding]:
    """An answer that begins with a label of its own, or that speaks for the other side too."""
    for turn in view.turns:
        if turn.role != "assistant":
            continue
        names = [match[0].strip(": ").lower() for match in _LABEL.finditer(turn.content)]
        opens = _LABEL.match(turn.content) is not None
        both = {"human", "user", "question"} & set(names) and {"assistant", "ai", "bot", "answer"} & set(names)
        if opens or both:
            message = f"an answer holds the label {quoted(_LABEL.search(turn.content)[0])} of a speaker."  # type: ignore[index]
            remedy = "Remove the label, or cut the text into turns: the model would learn to say it."
            yield warning("data.control_text", view.origin, message, remedy)
            return


def check_markup(view: View) -> Iterator[Finding]:
    """Yield HTML in an answer, outside of code."""
    text = view.answer
    if "<" not in text and "&" not in text:
        return
    found = _MARKUP.search(text)
    if found is not None and "`" in text:
        found = _MARKUP.search(_CODE.sub("", text))
    if found is not None:
        message = f"the answer holds HTML: {quoted(found[0])}."
        yield warning("data.markup", view.origin, message, "Take it out, unless the model is to answer in HTML.")
