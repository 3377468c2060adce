"""A README: of a piece of work (what it is, what it does, how it is installed) or of a person's own page."""

from __future__ import annotations

import re

from fledge.data.profile.contact import name_in, plain
from fledge.data.profile.record import Profile, Project

_USUAL = re.compile(
    r"^#{1,4}\s+\W*(?:install(?:ation|ing)?|usage|getting started|quick ?start|features|licen[sc]e|contributing"
    r"|requirements|documentation|how (?:it works|to use)|build(?:ing)?|setup|set-up|examples?|roadmap|faq|tests?)\b",
    re.IGNORECASE | re.MULTILINE,
)
_BADGE = re.compile(r"!\[[^\]]*\]\([^)]*\)|<img[^>]*>|\[\s*\]\([^)]*\)")
_I_AM = re.compile(r"\b(?:I'm|I’m|I am|my name is|this is)\s+((?:[A-ZÀ-Ý][\w'’-]+\s?){1,4})")
_WORKING = re.compile(r"(?:currently\s+)?(?:working|building)\s+on\s+(.+)", re.IGNORECASE)
_LICENCE = re.compile(
    r"\b(MIT|Apache(?:[- ]License)?,?[- ](?:Version )?2(?:\.0)?|BSD(?:[- ][23][- ]Clause)?"
    r"|A?L?GPL(?:[- ]?v?[23](?:\.0)?)?|MPL[- ]2\.0|ISC|Unlicense|CC[- ]BY(?:-\w+)*(?:[- ]4\.0)?)\b"
)
MOST_FEATURES = 8
SECTION = re.compile(r"^(#{1,6})\s+(.*)$")


# What a README tells under a heading: how the heading is called, and which words the fact begins with.
_INSTALL = re.compile(r"install|getting started|quick ?start|set-?up", re.IGNORECASE)
_FEATURES = re.compile(r"feature|what it does|highlights", re.IGNORECASE)
_NEEDS = re.compile(r"require|what it needs|prerequisite", re.IGNORECASE)
_LICENCES = re.compile(r"licen[sc]e", re.IGNORECASE)


def is_readme(text: str) -> bool:
    """Whether a text has the headings or the code of a README, or greets as a person's own page does."""
    code = re.match(r"\s*#\s", text) and re.search(r"^```", text, re.MULTILINE)
    return bool(_USUAL.search(text) or code or re.match(r"\s*#{1,3}\s.{0,40}\b(?:I'm|I’m|I am)\b", text))


def read_readme(text: str) -> Profile:
    """Return what a README tells: the project with its facts in `others`, or the person of a page about themselves."""
    text = _BADGE.sub("", text)
    if (greeting := _I_AM.search(text[:400])) and not _USUAL.search(text):
        return _own_page(text, greeting[1].strip())
    sections = _sections(text)
    title = next((words for words, _ in sections if words), "")
    name, _, tagline = (part.strip() for part in re.sub(r"\s+[–—:-]\s+|:\s+", "\0", title, count=1).partition("\0"))
    if not name:
        return Profile()
    first = next((said for _, body in sections[:2] if (said := _paragraph(body))), "")
    what = f"{tagline.rstrip('.')}." if tagline else first
    others = [first] if tagline and first else []
    bodies = {
        kind: next((body for words, body in sections if kind.search(words)), "")
        for kind in (_FEATURES, _INSTALL, _NEEDS, _LICENCES)
    }
    if features := _bullets(bodies[_FEATURES]):
        others.append(f"{name} has these features: {'; '.join(f.rstrip('.') for f in features[:MOST_FEATURES])}.")
    if command := _code(bodies[_INSTALL]):
        others.append(f"{name} is installed with: {command}")
    if needs := _paragraph(bodies[_NEEDS]) or "; ".join(_bullets(bodies[_NEEDS])):
        others.append(f"{name} needs: {needs.rstrip('.')}.")
    if licence := _LICENCE.search(bodies[_LICENCES]):
        others.append(f"{name} is under the {licence[1]} licence.")
    return Profile(projects=(Project(name, what),), others=tuple(others))


def _own_page(text: str, name: str) -> Profile:
    lines = [plain(line) for line in text.split("\n")]
    projects = tuple(
        Project(match[1].strip(" ."))
        for line in lines
        if (match := _WORKING.search(line)) and len(match[1].split()) <= 8
    )
    sentences = [
        s for s in lines if re.match(r"(?:I|I'm|I’m|My)\b", s) and len(s.split()) > 3 and not _WORKING.search(s)
    ]
    return Profile(
        name=name_in(name) or name,
        projects=projects,
        others=tuple(s if s.endswith((".", "!")) else f"{s}." for s in sentences[:10]),
    )


def _sections(text: str) -> list[tuple[str, str]]:
    """Return (heading, what stands below it) in order; a # inside a block of code is no heading."""
    found: list[tuple[str, list[str]]] = [("", [])]
    code = False
    for line in text.split("\n"):
        code ^= line.lstrip().startswith("```")
        heading = None if code else SECTION.match(line)
        if heading:
            found.append((plain(heading[2]).strip(" #"), []))
        else:
            found[-1][1].append(line)
    told = [(words, "\n".join(body)) for words, body in found]
    return told[1:] if len(told) > 1 and not told[0][1].strip() else told


def _paragraph(body: str) -> str:
    """Return the first paragraph of prose, its first two sentences."""
    outside = re.sub(r"```.*?(?:```|\Z)", "", body, flags=re.DOTALL)
    for block in re.split(r"\n\s*\n", outside):
        words = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(block.split()))
        words = plain(words)
        if len(words.split()) >= 3 and not re.match(r"[-*+>|<]|\d+[.)]\s", block.strip()):
            return " ".join(re.split(r"(?<=[.!?])\s+(?=[A-ZÀ-Ý])", words)[:2])
    return ""


def _bullets(body: str) -> list[str]:
    """Return the items of a list, each its bold words or its first sentence; a line that goes on is put back."""
    joined = re.sub(r"\n[ \t]{2,}(?![-*+\d])", " ", body)
    items = [match[1] for line in joined.split("\n") if (match := re.match(r"\s{0,3}[-*+]\s+(.+)", line))]
    texts = (re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", item) for item in items)
    return [plain(re.split(r"(?<=[.!?:])\s", text.strip())[0]).rstrip(":") for text in texts]


def _code(body: str) -> str:
    """Return the first command of the first block of code."""
    block = re.search(r"```[^\n]*\n(.*?)```", body, re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for line in block[1].split("\n")] if block else []
    return next((line.split("  #")[0].strip() for line in lines if line and not line.startswith("#")), "")
