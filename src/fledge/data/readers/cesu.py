"""The codec "cesu-8": UTF-8 in which some program wrote a character as two surrogates (Unicode Technical Report 26).

Java's and MySQL's old habit: an emoji takes six bytes, which no UTF-8 decoder takes. All other text is UTF-8.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

NAME = "cesu-8"
_PAIR = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
# The beginning of a pair at the end of what was read so far.
_CUT = re.compile(rb"\xed(?:[\xa0-\xaf](?:[\x80-\xbf](?:\xed[\xb0-\xbf]?)?)?)?\Z")


def has_pairs(raw: bytes) -> bool:
    """Whether a character in it stands as two surrogates."""
    return _PAIR.search(raw) is not None


def mended(raw: bytes) -> bytes:
    """Return the bytes with each pair of surrogates as the one character that it means."""
    return _PAIR.sub(lambda pair: _one(pair[0]), raw)


def _one(pair: bytes) -> bytes:
    # In UTF-16 the two are what they were meant to be.
    return pair.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16").encode()


class _Decoder(codecs.BufferedIncrementalDecoder):
    def _buffer_decode(self, input: Any, errors: str, final: bool) -> tuple[str, int]:
        raw = bytes(input)
        cut = None if final else _CUT.search(raw)
        raw = raw[: cut.start()] if cut else raw
        # A character that is cut at the end is kept for the next call; pairs stand before it.
        whole = mended(raw)
        text, used = codecs.utf_8_decode(whole, errors, final)
        return text, len(raw) - (len(whole) - used)


def _decode(raw: Any, errors: str = "strict", /) -> tuple[str, int]:
    held = bytes(raw)
    return mended(held).decode("utf-8", errors), len(held)


def _search(name: str) -> codecs.CodecInfo | None:
    if name.replace("_", "-") != NAME:
        return None
    return codecs.CodecInfo(codecs.utf_8_encode, _decode, incrementaldecoder=_Decoder, name=NAME)


codecs.register(_search)
