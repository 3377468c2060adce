"""Reads the header of a GGUF file and believes nothing in it.

Native code and other libraries trust the counts, lengths and offsets of a file; a damaged or hostile one makes them
allocate gigabytes, read outside their buffers or die. So every file goes through `read_header` first: each number is
held against the bytes that are really there before anything is allocated for it.
Source: the GGUF specification (ggml/docs/gguf.md), versions 2 and 3, little endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fledge.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
# Far above any real model (the largest have some thousand tensors and 1.5 million vocabulary entries and merges), and
# low enough that a hostile file costs neither a second nor much memory.
MAX_ENTRIES = 1 << 16
MAX_VALUES = 1 << 21
MAX_KEY_BYTES = 65_535
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMS = 4

# Value type id -> struct code. The ids between are BOOL, STRING and ARRAY.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9

# ggml tensor type id -> (name, weights per block, bytes per block). A test compares this with the gguf package.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies. `shape` has rows first, as in numpy; `type` is a ggml name."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset_bytes: int
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """A checked GGUF header. `kv_types` has (value type, element type or None) by key, as ids of the specification."""

    version: int
    kv: dict[str, Any]
    kv_types: dict[str, tuple[int, int | None]]
    tensors: dict[str, TensorInfo]
    alignment: int


def read_header(path: Path) -> Header:
    """Return the checked header of a GGUF file; the weights themselves are not read.

    Raises ModelError `model.broken_file` that says what is wrong and at which byte.
    """
    try:
        if not path.is_file():
            _broken(path, "is a folder or a device, not a file" if path.exists() else "does not exist")
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                _broken(path, f"has {path.stat().st_size} bytes, too few for a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _Reader(mapped, path).header()
    except OSError as error:
        raise ModelError(
            "model.broken_file", f"cannot be read: {error.strerror}.", where=str(path), remedy="Give a .gguf file."
        ) from error


def _shown(name: str) -> str:
    # A name from a hostile file may hold line breaks or be as long as a page.
    return repr(name if len(name) <= 64 else name[:61] + "...")


def _broken(path: Path, what: str) -> NoReturn:
    raise ModelError(
        "model.broken_file", f"{what}.", where=str(path), remedy="Fetch or export the file again; this one is damaged."
    )


class _Reader:
    """A cursor over the mapped file. `pos` moves only over bytes that were seen to be there."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.size, self.pos = data, path, len(data), 0
        self.values_left = MAX_VALUES

    def header(self) -> Header:
        version, num_tensors, num_kv = self._counts()
        kv: dict[str, Any] = {}
        kv_types: dict[str, tuple[int, int | None]] = {}
        for _ in range(num_kv):
            key = self._string(MAX_KEY_BYTES, "a key")
            if key in kv:
                self._fail(f"has the key {_shown(key)} twice")
            kv[key], kv_types[key] = self._value(key)
        alignment = self._alignment(kv, kv_types)
        raw = [self._tensor() for _ in range(num_tensors)]
        start = self.pos + -self.pos % alignment
        return Header(version, kv, kv_types, self._placed(raw, start, alignment), alignment)

    def _counts(self) -> tuple[int, int, int]:
        if self.data[:4] != MAGIC:
            _broken(self.path, f"is no GGUF file: it begins with {self.data[:4]!r}, not {MAGIC!r}")
        version, num_tensors, num_kv = struct.unpack_from("<IQQ", self.data, 4)
        if version & 0xFFFF == 0:
            _broken(self.path, "is a big-endian GGUF file; only little-endian ones can be read")
        if version not in VERSIONS:
            _broken(self.path, f"has GGUF version {version}; versions 2 and 3 can be read")
        # The least room: a tensor takes 8 + 4 + 8 + 4 + 8 bytes, a key with its value 8 + 4 + 1.
        for what, count, least in (("tensors", num_tensors, 32), ("metadata keys", num_kv, 13)):
            if count > MAX_ENTRIES or count * least > self.size:
                _broken(self.path, f"claims {count} {what} in {self.size} bytes")
        self.pos = 24
        return version, num_tensors, num_kv

    def _fail(self, what: str) -> NoReturn:
        _broken(self.path, f"{what} (byte {self.pos})")

    def _unpack(self, code: str, what: str) -> Any:
        width = struct.calcsize("<" + code)
        if self.pos + width > self.size:
            self._fail(f"ends in the middle of {what}")
        (value,) = struct.unpack_from("<" + code, self.data, self.pos)
        self.pos += width
        return value

    def _string(self, most_bytes: int, what: str) -> str:
        length = self._unpack("Q", what)
        if length > self.size - self.pos:
            self._fail(f"has {what} of {length} bytes, more than the file holds")
        if length > most_bytes:
            self._fail(f"has {what} of {length} bytes; at most {most_bytes} are allowed")
        raw = self.data[self.pos : self.pos + length]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._fail(f"has {what} that is not UTF-8")
        self.pos += length
        return text

    def _value(self, key: str) -> tuple[Any, tuple[int, int | None]]:
        what = f"the value of {_shown(key)}"
        kind = self._unpack("I", what)
        if kind == ARRAY:
            element = self._unpack("I", what)
            return self._array(element, what), (kind, element)
        if kind == STRING:
            return self._string(self.size, what), (kind, None)
        if kind == BOOL:
            return self._bools(1, what)[0], (kind, None)
        if kind not in _NUMBERS:
            self._fail(f"has type {kind} for {what}, which GGUF does not know")
        return self._unpack(_NUMBERS[kind], what), (kind, None)

    def _array(self, element: int, what: str) -> list[Any]:
        count = self._unpack("Q", what)
        width = {BOOL: 1, STRING: 8}.get(element) or (
            struct.calcsize("<" + _NUMBERS[element]) if element in _NUMBERS else 0
        )
        if not width:
            self._fail(f"has an array of type {element} as {what}; arrays hold numbers, truth values or strings")
        if count * width > self.size - self.pos:
            self._fail(f"claims {count} entries in {what}, more than the file holds")
        self.values_left -= count
        if self.values_left < 0:
            self._fail(f"has more than {MAX_VALUES} metadata values")
        if element == STRING:
            return self._strings(count, what)
        if element == BOOL:
            return self._bools(count, what)
        found = list(struct.unpack_from(f"<{count}{_NUMBERS[element]}", self.data, self.pos))
        self.pos += count * width
        return found

    def _strings(self, count: int, what: str) -> list[str]:
        # A vocabulary has 100 000 strings; this loop is the whole cost of reading a header, so it is written flat.
        data, size, pos = self.data, self.size, self.pos
        length_at: Callable[[mmap.mmap, int], tuple[int]] = struct.Struct("<Q").unpack_from
        found: list[str] = []
        try:
            for _ in range(count):
                start = pos + 8
                end = start + length_at(data, pos)[0]
                if end > size:
                    self._fail(f"has {what} with a string that is longer than the file")
                found.append(data[start:end].decode("utf-8"))
                pos = end
        except struct.error:
            self._fail(f"ends in the middle of {what}")
        except UnicodeDecodeError:
            self._fail(f"has {what} with a string that is not UTF-8")
        self.pos = pos
        return found

    def _bools(self, count: int, what: str) -> list[bool]:
        raw = self.data[self.pos : self.pos + count]
        if len(raw) < count:
            self._fail(f"ends in the middle of {what}")
        if raw.strip(b"\0\1"):
            self._fail(f"has {what} with a truth value that is neither 0 nor 1")
        self.pos += count
        return [byte == 1 for byte in raw]

    def _alignment(self, kv: dict[str, Any], kv_types: dict[str, tuple[int, int | None]]) -> int:
        alignment = kv.get("general.alignment", DEFAULT_ALIGNMENT)
        if kv_types.get("general.alignment", (UINT32, None)) != (UINT32, None):
            self._fail("has a general.alignment that is no 32-bit number")
        if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self._fail(f"has general.alignment {alignment}; it must be a power of two up to {MAX_ALIGNMENT}")
        return int(alignment)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return (name, shape with rows first, type id, offset from the start of the data) of the next tensor."""
        name = self._string(MAX_TENSOR_NAME_BYTES, "a tensor name")
        what = f"the tensor {_shown(name)}"
        num_dims = self._unpack("I", what)
        if not 1 <= num_dims <= MAX_DIMS:
            self._fail(f"has {num_dims} dimensions for {what}; 1 to {MAX_DIMS} are allowed")
        dims = [self._unpack("Q", what) for _ in range(num_dims)]
        kind, offset = self._unpack("I", what), self._unpack("Q", what)
        if kind not in TENSOR_TYPES:
            self._fail(f"has type {kind} for {what}, which ggml does not know")
        block = TENSOR_TYPES[kind][1]
        if min(dims) < 1:
            self._fail(f"has a dimension of 0 in {what}")
        if dims[0] % block:
            self._fail(f"has rows of {dims[0]} weights in {what}; {TENSOR_TYPES[kind][0]} has blocks of {block}")
        return name, tuple(reversed(dims)), kind, offset

    def _placed(
        self, raw: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> dict[str, TensorInfo]:
        """Return the tensors by name, each seen to lie aligned, inside the file and apart from the others."""
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in raw:
            type_name, block, block_bytes = TENSOR_TYPES[kind]
            num_bytes = math.prod(shape) // block * block_bytes
            if name in tensors:
                _broken(self.path, f"has the tensor {_shown(name)} twice")
            if offset % alignment:
                _broken(self.path, f"has the tensor {_shown(name)} at {offset}, which is no multiple of {alignment}")
            if start + offset + num_bytes > self.size:
                _broken(
                    self.path,
                    f"has {self.size} bytes, but the tensor {_shown(name)} lies at {start + offset} to "
                    f"{start + offset + num_bytes}",
                )
            tensors[name] = TensorInfo(name, shape, type_name, start + offset, num_bytes)
        in_order = sorted(tensors.values(), key=lambda t: t.offset_bytes)
        for before, after in zip(in_order, in_order[1:], strict=False):
            if before.offset_bytes + before.num_bytes > after.offset_bytes:
                _broken(self.path, f"has the tensors {_shown(before.name)} and {_shown(after.name)} on the same bytes")
        return tensors
