from __future__ import annotations

import subprocess
import sys

import pytest

from fledge.errors import ModelError
from fledge.model import catalog
from fledge.model.catalog import MODELS, CatalogModel, HubFiles, PackageFile

TRANSFORMERS_TYPE = {"smollm2": "llama", "llama": "llama", "qwen2.5": "qwen2", "qwen3": "qwen3", "gemma": "gemma3_text"}


def count_params(model: CatalogModel) -> int:
    """Weights of a decoder with grouped-query attention and a gated feed-forward net; biases and norms left out."""
    attention = 2 * model.width * model.head_width * (model.num_heads + model.num_kv_heads)
    feed_forward = 3 * model.width * model.ffn_width
    tables = (1 if model.tied_embeddings else 2) * model.vocab_size * model.width
    return model.num_layers * (attention + feed_forward) + tables


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_params_follow_from_the_widths(model: CatalogModel) -> None:
    assert count_params(model) == pytest.approx(model.params, rel=1e-3)


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_params_are_those_transformers_builds(model: CatalogModel) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        TRANSFORMERS_TYPE[model.name.split("-")[0]],
        num_hidden_layers=model.num_layers,
        hidden_size=model.width,
        intermediate_size=model.ffn_width,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads,
        head_dim=model.head_width,
        vocab_size=model.vocab_size,
        tie_word_embeddings=model.tied_embeddings,
    )
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in built.parameters()) == model.params


def test_the_starter_file_is_the_catalogs(starter_gguf: object) -> None:
    from pathlib import Path

    from fledge.project import sha256_of

    assert isinstance(starter_gguf, Path)
    source = next(s for s in MODELS["smollm2-135m"].sources if isinstance(s, PackageFile))
    assert starter_gguf.stat().st_size == source.bytes == catalog.bytes_of(MODELS["smollm2-135m"])
    assert sha256_of(starter_gguf) == source.sha256 == catalog.pinned_sha256(MODELS["smollm2-135m"].sources)


def test_every_model_has_a_name_in_lower_case_and_a_hub_source() -> None:
    for name, model in MODELS.items():
        assert name == model.name == name.lower()
        assert HubFiles(model.hub_id) in model.sources
        assert catalog.bytes_of(model) > 0


def test_names_are_found_in_any_case() -> None:
    assert catalog.get(" SmolLM2-135M ") is MODELS["smollm2-135m"]


def test_an_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(ModelError) as caught:
        catalog.get("smolm2-135")
    assert caught.value.code == "model.unknown"
    assert "did you mean 'smollm2-135m'?" in str(caught.value)
    assert "fledge models list" in caught.value.remedy


def test_the_catalog_loads_nothing_heavy() -> None:
    code = "import sys, fledge.model.pull; print(*({'torch', 'transformers', 'numpy', 'httpx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
