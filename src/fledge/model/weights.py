"""Opens the weights of a model, a GGUF file or a Hugging Face folder, and reads them one tensor at a time.

Both kinds give the same thing: Hugging Face names, Hugging Face row order, float32. Files are memory-mapped, so opening
costs little and reading a tensor costs that tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from fledge.errors import ModelError
from fledge.model.memory import forget_pages
from fledge.model.names import ARCHITECTURES, ROPE_FREQS, Weight, unpermute_rows, weights_of
from fledge.model.safetensors_file import BYTES_PER_WEIGHT, StoredTensor, map_safetensors, read_object
from fledge.model.shape import Shape as Shape
from fledge.model.shape import known_architecture, no_fast_path, other_shape, shape_from_config, shape_from_gguf
from fledge.runtime.gguf_check import Header, TensorInfo, read_header

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
# Types of numbers that stand by themselves.
UNQUANTISED = ("F32", "F16", "BF16", "F64")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Blocks:
    """A tensor as it is stored: rows of blocks [rows, bytes] of a ggml type, memory-mapped.

    order: which stored row each row of the tensor is, in Hugging Face order; None where they are the same.
    """

    type: str
    rows: NDArray[np.uint8]
    order: NDArray[np.int64] | None

    @property
    def columns(self) -> int:
        """The numbers of a row."""
        block, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.type]]
        return int(self.rows.shape[1]) // int(num_bytes) * int(block)


class Weights(ABC):
    """The weights of one model. `weights` tells each tensor's GGUF name and meaning by its Hugging Face name."""

    kind: Literal["gguf", "folder"]

    def __init__(self, path: Path, shape: Shape) -> None:
        self.path, self.shape = path, shape
        self.weights: Mapping[str, Weight] = weights_of(shape.architecture, shape.num_layers, tied=shape.tied)

    def names(self) -> list[str]:
        """Return the Hugging Face names of all tensors, in file order; a tied head has none."""
        return list(self.weights)

    @property
    def origin(self) -> Weights:
        """The model as it came: where its tokenizer is, and all that is not a weight."""
        return self

    @property
    def added(self) -> Mapping[str, int]:
        """The ids of tokens that a run has added to the vocabulary, by their texts."""
        return {}

    def is_stored(self, name: str) -> bool:
        """Whether a tensor's numbers are those of the files that it came in."""
        return name in self.weights

    def tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, rows first, without reading it."""
        return tuple(getattr(self.shape, dim) for dim in self.weights[name].dims)

    @abstractmethod
    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as a new float32 array with rows in Hugging Face order, dequantised."""

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows `start` to `stop` of what `read` returns; of large tensors no more than these are in memory."""
        return self.read(name)[start:stop]

    def blocks(self, name: str) -> Blocks | None:
        """Return how a quantised tensor is stored; None for one that is not quantised."""
        return None

    def _check(
        self, stored: Mapping[str, tuple[int, ...]], own_names: Mapping[str, str], ignored: Iterable[str]
    ) -> None:
        """Raise one ModelError that tells how the stored tensors differ from those of the architecture."""
        expected = {own_names[name]: self.tensor_shape(name) for name in self.weights}
        problems = [f"'{name}' is missing" for name in expected if name not in stored]
        problems += [
            f"'{name}' has shape {list(stored[name])}, not {list(shape)}"
            for name, shape in expected.items()
            if name in stored and stored[name] != shape
        ]
        if problems:
            raise _broken(self.path, f"does not fit a {self.shape.architecture} model: {_first_few(problems)}")
        extra = sorted(set(stored) - set(expected) - set(ignored))
        if extra:
            raise ModelError(
                "model.unsupported",
                f"holds tensors that a {self.shape.architecture} model does not have: {_first_few(extra)}.",
                where=str(self.path),
                remedy="Choose another model.",
            )


def open_weights(path: Path) -> Weights:
    """Open a `.gguf` file or a Hugging Face folder (config.json and safetensors).

    A folder of an architecture without an entry in `names.ARCHITECTURES` opens too, for the plain path.

    Raises ModelError: `model.unknown` where there is no such path, `model.unsupported` for what cannot be loaded,
    `model.broken_file` for damaged files. Nothing in the files is executed.
    """
    if path.is_dir():
        why = no_fast_path(read_object(path / "config.json"), where=str(path / "config.json"))
        return OtherWeights(path, why) if why else FolderWeights(path)
    if path.is_file():
        return GgufWeights(path)
    raise ModelError("model.unknown", "there is no such file or folder.", where=str(path), remedy="Check the path.")


class GgufWeights(Weights):
    """A GGUF file. `header` is its checked header; `raw` gives stored bytes without dequantising them."""

    kind = "gguf"

    def __init__(self, path: Path) -> None:
        self.header: Header = read_header(path)
        self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        tensors = self.header.tensors
        arch = known_architecture(self.header.kv.get("general.architecture"), str(path), gguf=True)
        self._check_types(path, tensors.values())
        embedding, head = arch.outside[arch.embedding].gguf, arch.outside[arch.head].gguf
        if embedding not in tensors:
            raise _broken(path, f"has no tensor '{embedding}'")
        vocab_size = tensors[embedding].shape[0]
        factors = [float(f) for f in self._floats(ROPE_FREQS).ravel()] if ROPE_FREQS in tensors else None
        shape = shape_from_gguf(
            self.header.kv, vocab_size=vocab_size, tied=head not in tensors, factors=factors, where=str(path)
        )
        if shape.num_layers > len(tensors):
            raise _broken(path, f"claims {shape.num_layers} layers with {len(tensors)} tensors")
        super().__init__(path, shape)
        stored = {name: info.shape for name, info in tensors.items()}
        self._check(stored, {name: weight.gguf for name, weight in self.weights.items()}, [ROPE_FREQS])

    def raw(self, gguf_name: str) -> NDArray[np.uint8]:
        """Return the stored bytes of a tensor as a read-only view of the file."""
        info = self.header.tensors[gguf_name]
        return self._bytes[info.offset_bytes : info.offset_bytes + info.num_bytes]

    def read(self, name: str) -> NDArray[np.float32]:
        weight = self.weights[name]
        values = self._floats(weight.gguf)
        # A model is read once; its file would stay in our memory beside what was made of it.
        forget_pages(self._bytes)
        if weight.heads is not None:
            return unpermute_rows(values, getattr(self.shape, weight.heads))
        return values

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        weight = self.weights[name]
        if weight.heads is not None:
            # Their rows stand in another order.
            return self.read(name)[start:stop]
        values = self._floats(weight.gguf, slice(start, stop))
        forget_pages(self._bytes)
        return values

    def blocks(self, name: str) -> Blocks | None:
        weight = self.weights[name]
        info = self.header.tensors[weight.gguf]
        if info.type in UNQUANTISED or len(info.shape) != 2:
            return None
        rows = self.raw(weight.gguf).reshape(info.shape[0], -1)
        order = None
        if weight.heads is not None:
            order = unpermute_rows(np.arange(info.shape[0], dtype=np.int64), getattr(self.shape, weight.heads))
        return Blocks(info.type, rows, order)

    def _floats(self, gguf_name: str, which: slice = slice(None)) -> NDArray[np.float32]:
        info = self.header.tensors[gguf_name]
        rows = self.raw(gguf_name).reshape(*info.shape[:-1], -1)[which]
        values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[info.type])
        return np.array(values, dtype=np.float32, order="C", copy=None if info.type != "F32" else True)

    @staticmethod
    def _check_types(path: Path, tensors: Iterable[TensorInfo]) -> None:
        readable = {"F32", "F16"} | {t.name for t in gguf.quants._type_traits}
        unreadable = sorted({info.type for info in tensors} - readable)
        if unreadable:
            raise ModelError(
                "model.unsupported",
                f"has weights of type {', '.join(unreadable)}, which cannot be read.",
                where=str(path),
                remedy="Choose a file of another type, such as Q8_0 or Q4_K_M.",
            )


class FolderWeights(Weights):
    """A Hugging Face folder. `config` is its config.json."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.config = read_object(path / "config.json")
        shape = shape_from_config(self.config, where=str(path / "config.json"))
        self._stored: dict[str, StoredTensor] = {}
        for file in _safetensors_files(path):
            self._stored.update(map_safetensors(file))
        if shape.num_layers > len(self._stored):
            raise _broken(path, f"claims {shape.num_layers} layers with {len(self._stored)} tensors")
        super().__init__(path, shape)
        # Older files carry the rotary frequencies as buffers and may repeat a tied head.
        ignored = [name for name in self._stored if name.endswith("rotary_emb.inv_freq")]
        ignored += [ARCHITECTURES[shape.architecture].head] if shape.tied else []
        self._check({n: t.shape for n, t in self._stored.items()}, {n: n for n in self.weights}, ignored)
        odd = sorted({self._stored[name].dtype for name in self.weights} - set(BYTES_PER_WEIGHT))
        if odd:
            raise ModelError(
                "model.unsupported",
                f"has weights of type {', '.join(odd)}; {', '.join(BYTES_PER_WEIGHT)} can be read.",
                where=str(path),
                remedy="Use the original weights.",
            )

    def read(self, name: str) -> NDArray[np.float32]:
        values = self._stored[name].read()
        forget_pages(self._stored[name].raw)
        return values

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        values = self._stored[name].read_rows(start, stop)
        forget_pages(self._stored[name].raw)
        return values


class OtherWeights(Weights):
    """A Hugging Face folder that the engine has no fast path for, and `why`: its tensors by their own names."""

    kind = "folder"

    def __init__(self, path: Path, why: str) -> None:
        self.config, self.why = read_object(path / "config.json"), why
        self._stored: dict[str, StoredTensor] = {}
        for file in _safetensors_files(path):
            self._stored.update(map_safetensors(file))
        self.path, self.shape = path, other_shape(self.config, where=str(path / "config.json"))
        self.weights = {name: Weight(name, ()) for name in self._stored}

    def tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def read(self, name: str) -> NDArray[np.float32]:
        return self._stored[name].read()


def _safetensors_files(folder: Path) -> list[Path]:
    if (folder / INDEX_NAME).is_file():
        shards = read_object(folder / INDEX_NAME).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise _broken(folder / INDEX_NAME, "has no weight_map")
        names = sorted(set(shards.values()))
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise _broken(folder / INDEX_NAME, f"names {name!r}, which is no file of the folder")
        return [folder / name for name in names]
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise ModelError(
            "model.unsupported",
            f"holds its weights as pickles ({_first_few(pickles)}), which can run code when opened.",
            where=str(folder),
            remedy="Convert it where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OUT).",
        )
    raise _broken(folder, f"has neither {SINGLE_NAME} nor {INDEX_NAME}")


def _first_few(items: list[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def _broken(path: Path, what: str) -> ModelError:
    return ModelError("model.broken_file", f"{what}.", where=str(path), remedy="Fetch or export the model again.")
