"""Writes a model as one GGUF file: merged, quantised and streamed tensor by tensor, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from fledge.errors import writing
from fledge.model.adapter import Adapter
from fledge.model.names import ROPE_FREQS, permute_rows
from fledge.model.weights import GgufWeights, Weights
from fledge.project import fsync_folder, sha256_of
from fledge.release.merge import merged_reader
from fledge.release.metadata import Value, metadata_of
from fledge.release.quantize import bits_per_weight, file_type, plan, quantize

ALIGNMENT = 32
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """A finished GGUF file. `bits_per_weight` is that of the tensors as they really are, not what the name says."""

    path: Path
    type: str
    bytes: int
    bits_per_weight: float
    sha256: str


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: shape with rows first, ggml type, and a function that makes its bytes when it is due."""

    name: str
    shape: tuple[int, ...]
    type: str
    make: Callable[[], NDArray[np.uint8]]


def write_gguf(
    out: Path,
    weights: Weights,
    adapter: Adapter | None,
    kind: str,
    *,
    overrides: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write the weights, with the adapter merged into them, as a GGUF file of type `kind`.

    From a GGUF base all metadata are copied, and tensors that the adapter leaves alone and whose type stays are copied
    byte for byte; from a Hugging Face folder the metadata are made. `overrides` sets strings such as `general.name`.
    `progress` is called with (tensors done, tensors in all). About two tensors are in memory at a time.

    Raises ExportError for an unknown type or numbers that it cannot hold, ModelError for a misfit adapter or an
    unsupported tokenizer, DiskError for a full disk; then `out` is what it was before.
    """
    kind = file_type(kind)
    metadata = metadata_of(weights, kind, overrides=overrides or {})
    shapes = {weight.gguf: weights.tensor_shape(name) for name, weight in weights.weights.items()}
    types = plan(kind, shapes, num_layers=weights.shape.num_layers, tied=weights.shape.tied)
    tensors = [*_rope_tensor(weights), *_weight_tensors(weights, adapter, types)]
    write_file(out, metadata, tensors, progress=progress)
    return Written(out, kind, out.stat().st_size, bits_per_weight(types, shapes), sha256_of(out))


def write_file(
    out: Path, metadata: Mapping[str, Value], tensors: list[Tensor], *, progress: Progress | None = None
) -> None:
    """Write a GGUF file under a staging name, fsync it and rename it to `out`."""
    with writing(out), _staged(out) as staging:
        write_header(staging, metadata, tensors)
        with staging.open("ab") as file:
            file.write(bytes(-file.tell() % ALIGNMENT))
            for done, tensor in enumerate(tensors, start=1):
                stored = tensor.make()
                file.write(stored.data)
                file.write(bytes(-stored.nbytes % ALIGNMENT))
                if progress is not None:
                    progress(done, len(tensors))
            file.flush()
            os.fsync(file.fileno())


def write_header(path: Path, metadata: Mapping[str, Value], tensors: Iterable[Tensor]) -> None:
    """Write all of a GGUF file that stands before the bytes of its tensors."""
    writer = GGUFWriter(path, metadata["general.architecture"].value)
    for key, entry in metadata.items():
        if key != "general.architecture":
            writer.add_key_value(key, entry.value, entry.type, sub_type=entry.element)
    for tensor in tensors:
        kind = GGMLQuantizationType[tensor.type]
        block, block_bytes = GGML_QUANT_SIZES[kind]
        byte_shape = (*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)
        writer.add_tensor_info(tensor.name, byte_shape, np.dtype(np.uint8), int(np.prod(byte_shape)), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _weight_tensors(weights: Weights, adapter: Adapter | None, types: Mapping[str, str]) -> Iterator[Tensor]:
    read = merged_reader(weights, adapter)
    adapted = set(adapter.pairs()) if adapter is not None else set()
    donor = weights.origin if isinstance(weights.origin, GgufWeights) else None
    untouched = {name for name in weights.names() if name not in adapted and weights.is_stored(name)}

    def tensor(name: str) -> Tensor:
        stored = weights.weights[name]
        kind = types[stored.gguf]

        def make() -> NDArray[np.uint8]:
            if donor is not None and name in untouched and donor.header.tensors[stored.gguf].type == kind:
                return donor.raw(stored.gguf)
            values = read(name)
            if stored.heads is not None:
                values = permute_rows(values, getattr(weights.shape, stored.heads))
            return quantize(values, kind)

        return Tensor(stored.gguf, weights.tensor_shape(name), kind, make)

    return map(tensor, weights.names())


def _rope_tensor(weights: Weights) -> list[Tensor]:
    """Return the tensor of frequency divisors, except where there are none or a metadata key tells the same."""
    scaling = weights.shape.rope_scaling
    if scaling is None or scaling["rope_type"] == "linear":
        return []
    factors = np.array(scaling["factors"], dtype=np.float32)
    return [Tensor(ROPE_FREQS, factors.shape, "F32", lambda: factors.view(np.uint8))]


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Give a name beside `out`; the file is renamed to `out` when the block ends well and removed when it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        yield staging
        os.replace(staging, out)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    fsync_folder(out.parent)
