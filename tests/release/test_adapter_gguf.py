"""An adapter GGUF on its base answers under llama.cpp as the merged weights do under transformers."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fledge.errors import ExportError
from fledge.model.weights import Weights, open_weights
from fledge.release import adapter_gguf
from fledge.release.adapter_gguf import write_adapter_gguf
from fledge.release.gguf import write_gguf
from fledge.release.merge import merged
from fledge.runtime.logits import Scoring, logits
from tiny_llama import random_adapter, save_tiny, tiny_model

IDS = [1, 70, 5, 201, 9, 318, 33, 2, 1, 150, 88, 260]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return open_weights(save_tiny(tmp_path_factory.mktemp("tiny") / "model", tiny_model()))


@pytest.fixture(scope="module")
def base(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("base") / "base.gguf", weights, None, "f32").path


def distance(weights: Weights, base: Path, adapter_file: Path, use_rslora: bool) -> float:
    """The largest difference of a log-probability between llama.cpp and the merged model in transformers."""
    model = tiny_model()
    state = dict(merged(weights, random_adapter(weights, use_rslora=use_rslora)))
    model.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()}, strict=False)
    with torch.no_grad():
        theirs = torch.log_softmax(model(torch.tensor([IDS])).logits[0].double(), -1).numpy()
    [ours] = logits(base, [Scoring(IDS, list(range(len(IDS))))], adapter=adapter_file)
    found: NDArray[np.float64] = torch.log_softmax(torch.tensor(ours).double(), -1).numpy() - theirs
    return float(np.abs(found).max())


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize(("kind", "most"), [("f32", 0.03), ("f16", 0.05)])
def test_llama_cpp_answers_with_it_as_with_merged_weights(
    weights: Weights, base: Path, tmp_path: Path, kind: str, most: float, use_rslora: bool
) -> None:
    adapter = random_adapter(weights, use_rslora=use_rslora)
    written = write_adapter_gguf(tmp_path / "a.gguf", adapter, weights, kind)
    assert distance(weights, base, written.path, use_rslora) < most
    assert written.bytes == written.path.stat().st_size and written.bits_per_weight == {"f32": 32, "f16": 16}[kind]


def test_rows_in_the_wrong_order_would_show(
    weights: Weights, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_gguf, "permute_rows", lambda values, num_heads: values)
    write_adapter_gguf(tmp_path / "a.gguf", random_adapter(weights), weights, "f32")
    assert distance(weights, base, tmp_path / "a.gguf", False) > 0.1


def test_the_scale_of_rank_stabilised_adapters_would_show(weights: Weights, base: Path, tmp_path: Path) -> None:
    write_adapter_gguf(tmp_path / "a.gguf", random_adapter(weights, use_rslora=False), weights, "f32")
    assert distance(weights, base, tmp_path / "a.gguf", True) > 0.1


def test_its_keys_are_those_that_llama_cpp_reads(weights: Weights, tmp_path: Path) -> None:
    adapter = random_adapter(weights, use_rslora=True)
    reader = gguf.GGUFReader(write_adapter_gguf(tmp_path / "a.gguf", adapter, weights).path)
    kv = {key: field.contents() for key, field in reader.fields.items()}
    assert (kv["general.architecture"], kv["general.type"], kv["adapter.type"]) == ("llama", "adapter", "lora")
    assert kv["adapter.lora.alpha"] == 16.0, "alpha 8 * sqrt(rank 4)"
    shapes = {t.name: t.shape.tolist() for t in reader.tensors}
    assert len(shapes) == 2 * 7 * 3
    assert shapes["blk.2.ffn_down.weight.lora_a"] == [128, 4] and shapes["blk.2.ffn_down.weight.lora_b"] == [4, 64]


def test_an_adapter_is_not_quantised(weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="f16 or f32"):
        write_adapter_gguf(tmp_path / "a.gguf", random_adapter(weights), weights, "q8_0")
