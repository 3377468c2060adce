"""Reads and writes safetensors files without torch; what is read may be bfloat16, and its header is checked first.

The file: 8 bytes with the length of a JSON header, the header (name -> dtype, shape, data_offsets), the data.
Source: the safetensors format description.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.errors import ModelError

BYTES_PER_WEIGHT = {"F32": 4, "F16": 2, "BF16": 2}
MAX_JSON_BYTES = 100_000_000
_NAMES = {"float64": "F64", "float32": "F32", "int64": "I64", "int16": "I16", "uint8": "U8"}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a mapped file: `raw` is a view of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    raw: NDArray[np.uint8]

    def read(self) -> NDArray[np.float32]:
        """Return the tensor as a new float32 array; its dtype must be one of BYTES_PER_WEIGHT."""
        return _floats(self.dtype, self.raw).reshape(self.shape)

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows `start` to `stop` of the tensor as a new float32 array."""
        row_bytes = math.prod(self.shape[1:]) * BYTES_PER_WEIGHT[self.dtype]
        return _floats(self.dtype, self.raw[start * row_bytes : stop * row_bytes]).reshape(-1, *self.shape[1:])


def _floats(dtype: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    if dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        halves = raw.view("<u2").astype(np.uint32)
        halves <<= 16
        return halves.view(np.float32)
    return raw.view({"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def map_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name; nothing but the header is read. Raises ModelError `model.broken_file`."""
    if not path.is_file():
        raise _broken(path, "is missing")
    size = path.stat().st_size
    if size < 10:
        raise _broken(path, f"has {size} bytes, too few for a safetensors file")
    data: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(size - 8, MAX_JSON_BYTES):
        raise _broken(path, f"claims a header of {length} bytes in a file of {size}")
    header = parse_object(data[8 : 8 + length].tobytes(), path)
    header.pop("__metadata__", None)
    return {name: _stored(name, entry, data[8 + length :], path) for name, entry in header.items()}


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model. Raises ModelError `model.broken_file`."""
    if not path.is_file():
        raise _broken(path, "is missing")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise _broken(path, f"has {path.stat().st_size} bytes, too many for a JSON file")
    return parse_object(path.read_bytes(), path)


def parse_object(raw: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object in `raw`, a part of `path`. Raises ModelError `model.broken_file`."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"holds no JSON ({error})") from error
    if not isinstance(value, dict):
        raise _broken(path, "holds no JSON object")
    return value


def _stored(name: str, entry: Any, data: NDArray[np.uint8], path: Path) -> StoredTensor:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise _broken(path, f"has an entry for {name[:64]!r} without dtype, shape and data_offsets")
    begin, end = offsets
    if not begin <= end <= len(data):
        raise _broken(path, f"puts {name[:64]!r} outside the file")
    num_bytes = math.prod(shape) * BYTES_PER_WEIGHT.get(dtype, 0)
    if dtype in BYTES_PER_WEIGHT and num_bytes != end - begin:
        raise _broken(path, f"gives {name[:64]!r} {end - begin} bytes; {shape} of {dtype} take {num_bytes}")
    return StoredTensor(dtype, tuple(shape), data[begin:end])


def _are_sizes(value: Any) -> bool:
    # Eight dimensions are more than any weight has; a list without end would make math.prod slow.
    return isinstance(value, list) and len(value) <= 8 and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _broken(path: Path, what: str) -> ModelError:
    return ModelError("model.broken_file", f"{what}.", where=str(path), remedy="Fetch or export the model again.")


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write float64, float32, int64, int16 or uint8 arrays, one after the other: no copy of them all is in memory.

    Equal tensors give equal bytes. Raises OSError, for one where the disk is full.
    """
    # The widest numbers first, so that each tensor begins at a multiple of its width.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _NAMES[tensors[name].dtype.name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
