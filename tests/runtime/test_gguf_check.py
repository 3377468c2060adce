"""A GGUF header is either read rightly or refused in one line, whatever the bytes."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from fledge.errors import ModelError
from fledge.runtime import gguf_check
from fledge.runtime.gguf_check import ARRAY, BOOL, MAX_VALUES, STRING, UINT32, Header, read_header

HUGE = 2**64 - 1


def text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def u32(key: str, value: int) -> bytes:
    return entry(key, UINT32, struct.pack("<I", value))


def array(key: str, kind: int, count: int, values: bytes) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", kind, count) + values)


def tensor(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int, num_dims: int | None = None) -> bytes:
    sizes = struct.pack(f"<{len(dims)}Q", *dims)
    count = struct.pack("<I", len(dims) if num_dims is None else num_dims)
    return text(name) + count + sizes + struct.pack("<IQ", kind, offset)


KV = [entry("general.architecture", STRING, text("llama")), u32("llama.block_count", 1)]
TENSORS = [tensor("a", (4,), 0, 0), tensor("b", (32, 2), 8, 32)]


def file_of(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    kv: list[bytes] = KV,
    tensors: list[bytes] = TENSORS,
    num_kv: int | None = None,
    num_tensors: int | None = None,
    data: bytes = bytes(128),
    alignment: int = 32,
) -> bytes:
    counts = (len(tensors) if num_tensors is None else num_tensors, len(kv) if num_kv is None else num_kv)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(kv) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


def with_kv(*more: bytes) -> bytes:
    return file_of(kv=[*KV, *more])


def with_tensors(*tensors: bytes) -> bytes:
    return file_of(tensors=list(tensors))


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "four bytes": b"GGUF",
    "23 bytes": file_of()[:23],
    "counts only": file_of()[:24],
    "another magic": file_of(magic=b"GGML"),
    "magic turned round": file_of(magic=b"FUGG"),
    "a zip": b"PK\3\4" + bytes(100),
    "version 0": file_of(version=0),
    "version 1": file_of(version=1),
    "version 4": file_of(version=4),
    "big endian": b"GGUF" + struct.pack(">IQQ", 3, 2, 2) + bytes(100),
    "2^64 - 1 tensors": file_of(num_tensors=HUGE),
    "2^63 tensors": file_of(num_tensors=2**63),
    "more tensors than bytes": file_of(num_tensors=1000),
    "one tensor too many": file_of(num_tensors=3, data=b""),
    "2^64 - 1 keys": file_of(num_kv=HUGE),
    "more keys than bytes": file_of(num_kv=1000),
    "one key too many": file_of(num_kv=3),
    "one key too few": file_of(num_kv=1),
    "a key longer than the file": file_of(kv=[text(b"k", HUGE)]),
    "a key of 2^32 bytes": file_of(kv=[text(b"k", 2**32)]),
    "a key above 65535 bytes": with_kv(u32("k" * 65_536, 1)),
    "a key twice": with_kv(u32("llama.block_count", 2)),
    "a key that is not UTF-8": with_kv(entry(b"\xff\xfe", UINT32, bytes(4))),
    "value type 13": with_kv(entry("k", 13, bytes(8))),
    "value type 2^32 - 1": with_kv(entry("k", 2**32 - 1, bytes(8))),
    "a string longer than the file": with_kv(entry("k", STRING, text(b"v", HUGE))),
    "a string one byte too long": with_kv()[:24] + entry("k", STRING, text(b"v", 400)),
    "a string that is not UTF-8": with_kv(entry("k", STRING, text(b"\xc3\x28"))),
    "a truth value of 2": with_kv(entry("k", BOOL, b"\2")),
    "an array of truth values with a 7": with_kv(array("k", BOOL, 3, b"\0\7\1")),
    "an array of 2^64 - 1 numbers": with_kv(array("k", UINT32, HUGE, b"")),
    "an array of 2^62 numbers": with_kv(array("k", UINT32, 2**62, b"")),
    "an array of 2^64 - 1 strings": with_kv(array("k", STRING, HUGE, b"")),
    "an array of 2^40 truth values": with_kv(array("k", BOOL, 2**40, b"")),
    "an array of arrays": with_kv(array("k", ARRAY, 1, struct.pack("<IQ", UINT32, 1) + bytes(4))),
    "an array of unknown things": with_kv(array("k", 99, 1, bytes(8))),
    "a string in an array that is too long": with_kv(array("k", STRING, 2, text("x") + text(b"y", HUGE))),
    "a string in an array that is not UTF-8": with_kv(array("k", STRING, 1, text(b"\xff"))),
    "an array of strings that ends early": file_of()[:24] + array("k", STRING, 3, text("abc")),
    "more values than any model": with_kv(array("k", BOOL, MAX_VALUES + 1, bytes(MAX_VALUES + 1))),
    "alignment 0": with_kv(u32("general.alignment", 0)),
    "alignment 24": with_kv(u32("general.alignment", 24)),
    "alignment 2^31": with_kv(u32("general.alignment", 2**31)),
    "alignment as text": with_kv(entry("general.alignment", STRING, text("32"))),
    "alignment as 64 bits": with_kv(entry("general.alignment", 10, struct.pack("<Q", 32))),
    "alignment as truth value": with_kv(entry("general.alignment", BOOL, b"\1")),
    "alignment as array": with_kv(array("general.alignment", UINT32, 1, struct.pack("<I", 32))),
    "no dimensions": with_tensors(tensor("a", (), 0, 0)),
    "five dimensions": with_tensors(tensor("a", (1,) * 5, 0, 0)),
    "2^32 - 1 dimensions": with_tensors(tensor("a", (1,), 0, 0, num_dims=2**32 - 1)),
    "a dimension of 0": with_tensors(tensor("a", (4, 0), 0, 0)),
    "a dimension of 2^64 - 1": with_tensors(tensor("a", (HUGE,), 0, 0)),
    "a size that overflows 64 bits to 0": with_tensors(tensor("a", (2**32, 2**32), 0, 0)),
    "a size that overflows 64 bits to 16": with_tensors(tensor("a", (2**62 + 4,), 0, 0)),
    "tensor type 4, which was taken away": with_tensors(tensor("a", (32,), 4, 0)),
    "tensor type 2^32 - 1": with_tensors(tensor("a", (32,), 2**32 - 1, 0)),
    "31 weights in blocks of 32": with_tensors(tensor("a", (31,), 8, 0)),
    "64 weights in blocks of 256": with_tensors(tensor("a", (64, 4), 12, 0)),
    "an offset between alignments": with_tensors(tensor("a", (4,), 0, 4)),
    "an offset behind the file": with_tensors(tensor("a", (4,), 0, 2**20)),
    "an offset that overflows": with_tensors(tensor("a", (4,), 0, HUGE - 31)),
    "a tensor one byte too long": file_of(data=bytes(99)),
    "data cut off": file_of(data=b""),
    "two tensors on the same bytes": with_tensors(tensor("a", (16,), 0, 0), tensor("b", (16,), 0, 32)),
    "two tensors at the same offset": with_tensors(tensor("a", (4,), 0, 0), tensor("b", (4,), 0, 0)),
    "a tensor twice": with_tensors(tensor("a", (4,), 0, 0), tensor("a", (4,), 0, 32)),
    "a tensor name of 64 bytes": with_tensors(tensor("a" * 64, (4,), 0, 0)),
    "a tensor name that is not UTF-8": with_tensors(tensor(b"\xff", (4,), 0, 0)),
    "tensor infos cut off": file_of()[:-160],
}


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    path.write_bytes(with_kv(array("k", BOOL, 2, b"\1\0"), array("s", STRING, 2, text("ä") + text(""))))
    header = read_header(path)
    assert header.version == 3 and header.alignment == 32
    assert header.kv == {"general.architecture": "llama", "llama.block_count": 1, "k": [True, False], "s": ["ä", ""]}
    assert header.kv_types["s"] == (ARRAY, STRING)
    assert [(t.name, t.shape, t.type, t.num_bytes) for t in header.tensors.values()] == [
        ("a", (4,), "F32", 16),
        ("b", (2, 32), "Q8_0", 68),
    ]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(BROKEN[name])
    started = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert time.perf_counter() - started < 1
    assert caught.value.code == "model.broken_file"
    assert caught.value.where == str(path) and "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing.gguf", tmp_path / "pipe"):
        with pytest.raises(ModelError) as caught:
            read_header(path)
        assert caught.value.code == "model.broken_file"


def test_the_alignment_of_the_file_is_used(tmp_path: Path) -> None:
    path = tmp_path / "aligned.gguf"
    tensors = [tensor("a", (4,), 0, 0), tensor("b", (4,), 0, 4096)]
    kv = [*KV, u32("general.alignment", 4096)]
    path.write_bytes(file_of(kv=kv, tensors=tensors, alignment=4096, data=bytes(4112)))
    header = read_header(path)
    assert header.alignment == 4096
    assert [t.offset_bytes % 4096 for t in header.tensors.values()] == [0, 0]


def test_random_damage_never_gets_past(tmp_path: Path) -> None:
    whole = with_kv(
        array("tokens", STRING, 20, b"".join(text(f"token {i}") for i in range(20))),
        array("scores", 6, 20, bytes(80)),
        array("flags", BOOL, 9, bytes(9)),
        u32("general.alignment", 32),
    )
    numbers = np.random.default_rng(20261121)
    extremes = [0, 1, 2**31, 2**32 - 1, 2**63, HUGE, HUGE - 7, len(whole)]
    path = tmp_path / "mutant.gguf"
    refused = 0
    for _ in range(2500):
        mutant = bytearray(whole)
        for _ in range(int(numbers.integers(1, 4))):
            at = int(numbers.integers(len(mutant)))
            match int(numbers.integers(4)):
                case 0:
                    mutant[at] = int(numbers.integers(256))
                case 1:
                    mutant[at : at + 8] = struct.pack("<Q", extremes[int(numbers.integers(len(extremes)))])
                case 2:
                    del mutant[at : at + int(numbers.integers(1, 40))]
                case _:
                    mutant[at:at] = bytes(int(numbers.integers(1, 40)))
        path.write_bytes(mutant)
        started = time.perf_counter()
        try:
            header = read_header(path)
        except ModelError as error:
            refused += 1
            assert error.code == "model.broken_file"
        else:
            assert_inside(header, len(mutant))
        assert time.perf_counter() - started < 1
    assert 1000 < refused < 2500, "the damage must be caught often and missed sometimes, else this test sees nothing"


def assert_inside(header: Header, size: int) -> None:
    spans = sorted((t.offset_bytes, t.offset_bytes + t.num_bytes) for t in header.tensors.values())
    assert all(start % header.alignment == 0 and end <= size for start, end in spans)
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))


def test_the_most_values_that_are_allowed_take_less_than_a_second(tmp_path: Path) -> None:
    path = tmp_path / "many.gguf"
    path.write_bytes(with_kv(array("k", STRING, MAX_VALUES, bytes(8 * MAX_VALUES))))
    started = time.perf_counter()
    assert len(read_header(path).kv["k"]) == MAX_VALUES
    assert time.perf_counter() - started < 1


def test_the_table_of_types_is_that_of_the_gguf_package() -> None:
    theirs = {int(t): (t.name, block, size) for t, (block, size) in gguf.GGML_QUANT_SIZES.items()}
    assert theirs == gguf_check.TENSOR_TYPES


def test_the_starter_is_read_as_the_gguf_package_reads_it(starter_gguf: Path) -> None:
    started = time.perf_counter()
    header = read_header(starter_gguf)
    assert time.perf_counter() - started < 0.5
    reader = gguf.GGUFReader(starter_gguf)
    theirs = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert list(header.kv) == list(theirs)
    for name, field in theirs.items():
        assert header.kv[name] == field.contents(), name
        assert [int(t) for t in field.types] == [t for t in header.kv_types[name] if t is not None]
    assert [
        (t.name, t.type, t.offset_bytes, t.num_bytes, list(reversed(t.shape))) for t in header.tensors.values()
    ] == [(t.name, t.tensor_type.name, t.data_offset, t.n_bytes, t.shape.tolist()) for t in reader.tensors]
