"""txt, md, rst, html, pdf, docx -> one text a file, its structure written the Markdown way: # headings, - lists."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

from fledge.data.readers.books import needs
from fledge.data.readers.opening import BROKEN, Encoding, open_text
from fledge.errors import DataError, Finding
from fledge.records import Row

MAX_DOCUMENT_CHARS = 1 << 28
MAX_XML_BYTES = 1 << 28
# Lines this long, with none empty between them, are texts of their own: one document a line.
LONG_LINE = 400


def read_text(path: Path, encoding: Encoding) -> Iterator[Row | Finding]:
    """Yield the text of a plain file, or one text a line where the lines are long and none is empty."""
    text = _whole(path, encoding)
    lines = text.rstrip("\n").split("\n")
    if len(lines) > 2 and all(line.strip() for line in lines) and median(map(len, lines)) > LONG_LINE:
        for number, line in enumerate(lines, start=1):
            yield Row({"text": line.strip()}, f"{path}:{number}")
    else:
        yield from _one(text, path)


def read_markdown(path: Path, encoding: Encoding) -> Iterator[Row | Finding]:
    text = _whole(path, encoding)
    # A block between --- at the very top is about the page, not on it.
    yield from _one(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL), path)


def read_rst(path: Path, encoding: Encoding) -> Iterator[Row | Finding]:
    yield from _one(from_rst(_whole(path, encoding)), path)


def read_html(path: Path, encoding: Encoding) -> Iterator[Row | Finding]:
    page = _Page()
    page.feed(_whole(path, encoding))
    page.close()
    yield from _one(page.text(), path)


def read_pdf(path: Path) -> Iterator[Row | Finding]:
    try:
        import pypdf
    except ImportError as error:
        raise needs("pypdf", path) from error
    # It tells everything that it mends on the way.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError("data.bad_row", "is locked with a password.", where=str(path), remedy="Save it unlocked.")
        pages = [page.extract_text() for page in reader.pages]
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - a broken PDF makes pypdf raise nearly anything
        raise DataError(
            "data.bad_row", f"not a readable PDF: {error}.", where=str(path), remedy="Save it again, or as text."
        ) from error
    text = "\n\n".join(_unbroken(page) for page in pages)
    if pages and not text.strip():
        message = f"{len(pages)} pages without text: it holds pictures of pages."
        yield Finding("data.empty", str(path), message, "Recognise its text first, for example with ocrmypdf.")
        return
    yield from _one(text, path)


def read_docx(path: Path) -> Iterator[Row | Finding]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo("word/document.xml").file_size
            if size > MAX_XML_BYTES:
                raise ValueError(f"its text unpacks to {size:,} bytes")
            root = ElementTree.fromstring(archive.read("word/document.xml"))
    # RuntimeError is what an encrypted or otherwise unusual archive raises.
    except (*BROKEN, KeyError, ValueError, RuntimeError, ElementTree.ParseError) as error:
        raise DataError(
            "data.bad_row", f"not a readable DOCX file: {error}.", where=str(path), remedy="Save it again, or as text."
        ) from error
    yield from _one("\n\n".join(_docx_blocks(root)), path)


def _whole(path: Path, encoding: Encoding) -> str:
    with open_text(path, encoding, newline="") as file:
        text = file.read(MAX_DOCUMENT_CHARS + 1)
    if len(text) > MAX_DOCUMENT_CHARS:
        raise DataError("data.bad_row", "one text too large to be read.", where=str(path), remedy="Cut it into files.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _one(text: str, path: Path) -> Iterator[Row | Finding]:
    text = tidy(text)
    if text:
        heading = re.match(r"#+ +(.+)", text)
        yield Row({"text": text, "title": heading[1] if heading else path.stem}, str(path))


def tidy(text: str) -> str:
    """Return `text` without blanks at line ends and with at most one empty line between blocks."""
    text = re.sub(r"[^\S\n]+$", "", text.replace("\ufeff", "").replace("\xad", ""), flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _unbroken(page: str) -> str:
    """Return a page's text with words and sentences that were broken at line ends put together again."""
    page = re.sub(r"(\w)-\n(?=[a-zà-ÿ])", r"\1", page)
    return re.sub(r"(?<=[^\n.!?:;])\n(?=[a-zà-ÿ(])", " ", page)


_ADORNMENT = re.compile(r"^([!-/:-@[-`{-~])\1{2,}\s*$")
# Roles show their text, or the title before <target>.
_ROLE = re.compile(r":[\w:+.-]+:`([^`]+?)(?:\s*<[^>`]*>)?`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^>`]+>`__?")
_UNSEEN = re.compile(
    r"index|highlight|highlightlang|contents|toctree|only|image|figure|raw|module|currentmodule|testsetup|sectionauthor"
    r"|moduleauthor|tocdepth|include|_.*|\|.*"
)


def from_rst(text: str) -> str:
    """Return reStructuredText as Markdown: headings, roles, literals, code blocks; comments and machinery left out."""
    lines = text.expandtabs().split("\n")
    levels: list[tuple[str, bool]] = []
    out: list[str] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        indent = len(line) - len(line.lstrip())
        if directive := re.match(r"(\s*)\.\. ?(.*)", line):
            place = _rst_directive(lines, place, directive[2], len(directive[1]), out)
            continue
        if title := _rst_title(lines, place):
            words, style, place = title
            levels += [] if style in levels else [style]
            out += ["", "#" * min(6, levels.index(style) + 1) + " " + _inline(words), ""]
            continue
        if line.rstrip().endswith("::"):
            said = line.rstrip()[:-2].rstrip()
            out.append(_inline(said + ":") if said else "")
            place = _rst_block(lines, place + 1, indent, out)
            continue
        if not re.match(r":[\w -]+:(\s|$)", line):
            out.append(_inline(line))
        place += 1
    return tidy("\n".join(out))


def _inline(line: str) -> str:
    line = _LINK.sub(r"\1", _ROLE.sub(lambda found: "`" + found[1].lstrip("~!") + "`", line))
    return re.sub(r"``(.+?)``", r"`\1`", line)


def _rst_title(lines: list[str], place: int) -> tuple[str, tuple[str, bool], int] | None:
    """Return (words, (adornment, overlined), next place) where a section title stands here."""
    line, after = lines[place], lines[place + 1] if place + 1 < len(lines) else ""
    if _ADORNMENT.match(line) and place + 2 < len(lines) and lines[place + 2].rstrip() == line.rstrip() and after:
        return after.strip(), (line[0], True), place + 3
    under = _ADORNMENT.match(after)
    if under and line.strip() and not line[0].isspace() and len(after.rstrip()) >= len(line.rstrip()) - 1:
        return line.strip(), (under[1], False), place + 2
    return None


def _rst_directive(lines: list[str], place: int, told: str, indent: int, out: list[str]) -> int:
    """Write what a directive shows; return the place after what it hides."""
    name, separator, argument = told.partition("::")
    if not separator or _UNSEEN.fullmatch(name.strip()):
        return _rst_after(lines, place + 1, indent)
    if name.strip() in ("code-block", "code", "sourcecode", "doctest", "parsed-literal", "testcode", "productionlist"):
        while place + 1 < len(lines) and re.match(r"\s+:\w+:", lines[place + 1]):
            place += 1
        return _rst_block(lines, place + 1, indent, out)
    # A note, a function's signature: what it says stands in its argument and in the indented lines below, as text.
    out += ["", f"**{_inline(argument.strip())}**" if argument.strip() else "", ""]
    return place + 1


def _rst_after(lines: list[str], place: int, indent: int) -> int:
    while place < len(lines) and (not lines[place].strip() or len(lines[place]) - len(lines[place].lstrip()) > indent):
        place += 1
    return place


def _rst_block(lines: list[str], place: int, indent: int, out: list[str]) -> int:
    """Write the indented block that begins here as a code block; return the place after it."""
    end = _rst_after(lines, place, indent)
    block = "\n".join(lines[place:end]).strip("\n").split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in block if line.strip()), default=0)
    if any(line.strip() for line in block):
        out += ["", "```", *(line[margin:].rstrip() for line in block), "```", ""]
    return end


# A term and its meaning, and what unfolds below a line, as Markdown writes them.
_OPENS = {"li": "\n- ", "br": "\n", "td": " | ", "th": " | ", "dd": "\n: ", "summary": "\n\n**"}
_CLOSES = {"summary": "**\n\n", "details": "\n\n---\n\n", "dt": ""}


class _Page(HTMLParser):
    """Gathers the readable text of a page: no scripts, no navigation."""

    HIDDEN = frozenset(
        ("script", "style", "head", "nav", "footer", "aside", "template", "noscript", "svg", "form", "button", "iframe")
    )
    BLOCKS = frozenset(
        (
            "p",
            "div",
            "section",
            "article",
            "ul",
            "ol",
            "table",
            "tr",
            "blockquote",
            "dl",
            "dt",
            "dd",
            "main",
            "details",
            "hr",
        )
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._hidden: list[str] = []
        self._pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.HIDDEN:
            self._hidden.append(tag)
        elif not self._hidden:
            self._open(tag)

    def _open(self, tag: str) -> None:
        heading = re.fullmatch(r"h([1-6])", tag)
        if heading:
            self._out.append("\n\n" + "#" * int(heading[1]) + " ")
        elif tag == "pre":
            self._out.append("\n\n```\n")
            self._pre = True
        elif tag in _OPENS:
            self._out.append(_OPENS[tag])
        elif tag in self.BLOCKS:
            self._out.append("\n\n" if tag != "tr" else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            # What was opened inside and never closed ends with it.
            del self._hidden[self._hidden.index(tag) :]
        elif not self._hidden and tag == "pre":
            self._pre = False
            self._out.append("\n```\n\n")
        elif not self._hidden and tag in _CLOSES:
            self._out.append(_CLOSES[tag])
        elif not self._hidden and (tag in self.BLOCKS or re.fullmatch(r"h[1-6]", tag)):
            self._out.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._out.append(data if self._pre else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        # A meaning begins on the line below its term, whatever element it is in.
        text = re.sub(r"\n: *\s+", "\n: ", re.sub(r"\s+\n: ", "\n: ", "".join(self._out)))
        return tidy(re.sub(r"(?m)^ +(?=[^ ])| +$", "", text) if "```" not in text else text)


_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def _docx_blocks(root: ElementTree.Element) -> Iterator[str]:
    body = root.find(f"{_WORD}body")
    for child in body if body is not None else []:
        if child.tag == f"{_WORD}p":
            yield _docx_paragraph(child)
        elif child.tag == f"{_WORD}tbl":
            rows = (
                " | ".join(_docx_words(cell) for cell in row.iter(f"{_WORD}tc")) for row in child.iter(f"{_WORD}tr")
            )
            yield "\n".join(rows)


def _docx_paragraph(paragraph: ElementTree.Element) -> str:
    words = _docx_words(paragraph)
    style = paragraph.find(f"{_WORD}pPr/{_WORD}pStyle")
    name = "" if style is None else style.get(f"{_WORD}val", "")
    heading = re.fullmatch(r"(?i)(?:heading|überschrift|titre|berschrift)\s?(\d)", name)
    if words and (heading or name.lower() == "title"):
        return "#" * (int(heading[1]) if heading else 1) + f" {words}"
    listed = paragraph.find(f"{_WORD}pPr/{_WORD}numPr") is not None
    return f"- {words}" if listed and words else words


def _docx_words(element: ElementTree.Element) -> str:
    marks = {f"{_WORD}tab": "\t", f"{_WORD}br": "\n"}
    return "".join(part.text or "" if part.tag == f"{_WORD}t" else marks.get(part.tag, "") for part in element.iter())


TEXT_READERS: dict[str, Callable[[Path, Encoding], Iterator[Row | Finding]]] = {
    "text": read_text,
    "markdown": read_markdown,
    "rst": read_rst,
    "html": read_html,
}
