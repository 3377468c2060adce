"""Path -> text stream: takes off compression and finds out the encoding, with the reason of each guess."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from fledge.data.readers import cesu
from fledge.data.readers.code_pages import best_page
from fledge.errors import DataError

# A row longer than this is not a row: the file is something else, or a quote was never closed.
MAX_ROW_CHARS = 1 << 24
# What stands where bytes were no text.
DAMAGE = "\ufffd"
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 1 << 16
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
OPENERS: dict[str, Callable[[Path], object]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What a page says of itself in its first bytes; browsers look no further.
DECLARED_WITHIN = 4096
DECLARATION = re.compile(
    rb"<\?xml[^>]{0,80}encoding\s*=\s*[\"']([\w.:-]+)|<meta[^>]{1,200}charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE
)
# The names that pages use, and the larger encodings in which browsers read them (https://encoding.spec.whatwg.org).
AS_BROWSERS_READ = {
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "us-ascii", "ascii"), "cp1252"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"), "cp932"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk", "gb_2312-80"), "gb18030"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "ksc5601"), "cp949"),
    **dict.fromkeys(("iso-8859-9", "latin5"), "cp1254"),
    "big5": "big5hkscs", "x-euc-jp": "euc_jp", "iso-8859-8-i": "iso8859_8", "tis-620": "cp874", "iso-8859-11": "cp874",
    "x-mac-cyrillic": "mac_cyrillic", "macintosh": "mac_roman", "windows-949": "cp949", "windows-874": "cp874",
}  # fmt: skip
# Fewer bytes above 127 than this have no statistics: a pound sign, some accents. Western Europe is then likeliest.
COUNTABLE = 40
# So many well-formed letters of UTF-8 for every broken byte make a UTF-8 file with damage, not one in another encoding.
DAMAGED_AT = 20
# A sample may begin and end within a character.
CUT_BYTES = 7
# Where the best code page of an alphabet makes less sense of a text than this, it is in a script of another kind.
SENSE = 0.5


@dataclass(frozen=True)
class Encoding:
    """`name` is Python's. `why` is said with the guess; "" where there was nothing to guess.

    damaged: some bytes may be no text in it.
    """

    name: str
    why: str = ""
    damaged: bool = False


def compression(path: Path) -> str:
    """Return "gzip", "bzip2", "xz" or "", by the first bytes and not by the name."""
    with reading(path), path.open("rb") as file:
        head = file.read(8)
    return next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), "")


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed."""
    packed = compression(path)
    return cast(BinaryIO, OPENERS[packed](path)) if packed else path.open("rb")


def read_head(path: Path) -> bytes:
    """Return the first bytes of the file, decompressed. Raises DataError where it is damaged."""
    with reading(path), open_bytes(path) as file:
        return file.read(HEAD_BYTES)


# What a damaged or unreadable file raises, while it is opened or anywhere in the middle of it.
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged or unreadable file raises inside the block into one DataError."""
    try:
        yield
    except BROKEN as error:
        if isinstance(error, DataError):
            raise
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            "data.not_found", f"cannot be read: {told}.", where=str(path), remedy="Fetch or save it again."
        ) from error


def find_encoding(path: Path) -> Encoding:
    """Return the encoding of a text file. A file that is not UTF-8 is read to its first foreign byte, no further."""
    with reading(path), open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
        for bom, name in BOMS:
            if head.startswith(bom):
                return Encoding(name, "" if name == "utf-8-sig" else f"{name.upper()}, by its first bytes")
        if wide := _wide(head):
            return Encoding(wide, f"{wide.upper()}, by its zero bytes")
        around = _first_foreign(file, head)
    if around is None:
        return Encoding("utf-8")
    return _declared(head, around) or _legacy(around)


def _declared(head: bytes, sample: bytes) -> Encoding | None:
    """Return the encoding that a page of HTML or XML says it is in, where it is text in that encoding."""
    found = DECLARATION.search(head, 0, DECLARED_WITHIN) if head.lstrip()[:1] == b"<" else None
    if found is None:
        return None
    told = (found[1] or found[2]).decode("ascii").lower()
    name = AS_BROWSERS_READ.get(told, told)
    try:
        text = sample.decode(name, "replace")
    except (LookupError, ValueError):
        return None
    # A sample of a long page may begin and end within a character.
    broken = text.count(DAMAGE) + sum("\x80" <= character < "\xa0" for character in text)
    if broken > (2 if len(sample) > HEAD_BYTES else 0):
        return None
    return Encoding(name, f"{told}, as the page says", damaged=True)


def _wide(head: bytes) -> str:
    """Return the UTF-16 that text without a byte order mark seems to be in, or ""."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = max(1, len(head) // 2)
    if max(even, odd) < 0.4 * half or min(even, odd) > 0.1 * half:
        return ""
    return "utf-16-be" if even > odd else "utf-16-le"


def _first_foreign(file: BinaryIO, head: bytes) -> bytes | None:
    """Return the bytes around the first that are not UTF-8, or None where all are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk, before = head, b""
    while chunk:
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError:
            return before[-HEAD_BYTES:] + chunk + file.read(HEAD_BYTES)
        before, chunk = chunk, file.read(CHUNK_BYTES)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return before
    return None


def _legacy(sample: bytes) -> Encoding:
    """Return the encoding of bytes that are not UTF-8: damaged UTF-8, Windows-1252, or what the statistics say."""
    if cesu.has_pairs(sample):
        whole = cesu.mended(sample)
        if len(whole) - len(whole.decode("utf-8", errors="ignore").encode()) < CUT_BYTES:
            return Encoding(cesu.NAME, "UTF-8 with characters as pairs of surrogates (CESU-8), mended", damaged=True)
    good = len(sample.decode("utf-8", errors="ignore").encode())
    multi = sum(byte >= 0xC0 for byte in sample)
    broken = len(sample) - good
    if multi > DAMAGED_AT * broken:
        return Encoding("utf-8", "UTF-8 with damaged bytes", damaged=True)
    page = best_page(sample)
    if page.score < SENSE and sum(byte > 127 for byte in sample) >= COUNTABLE:
        from charset_normalizer import from_bytes

        best = from_bytes(sample).best()
        if best is not None and "cp1252" not in best.could_be_from_charset:
            return Encoding(best.encoding, f"{best.encoding}, by the frequency of its letters: a guess")
    if page.name != "cp1252":
        return Encoding(page.name, f"{page.name}, by its letters and small words: a guess")
    # Windows-1252 is Latin-1 with curly quotes where Latin-1 has control characters that nobody types.
    name = "latin-1" if any(byte in sample for byte in b"\x81\x8d\x8f\x90\x9d") else "cp1252"
    return Encoding(name, "Windows-1252, not UTF-8")


def open_text(path: Path, encoding: Encoding, *, newline: str = "\n") -> IO[str]:
    """Open a file as text; what is no character in `encoding` becomes U+FFFD."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding.name, errors="replace", newline=newline)


def lines_of(file: IO[str]) -> Iterator[str]:
    """Yield lines with their ends; a line beyond the limit comes in pieces of the limit's length."""
    while line := file.readline(MAX_ROW_CHARS):
        yield line
