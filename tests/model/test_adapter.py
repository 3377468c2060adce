"""fledge's adapters are PEFT's: each opens what the other wrote and means the same by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from fledge.errors import ModelError
from fledge.model.adapter import Adapter, check_fits, load_adapter, save_adapter
from fledge.model.weights import Weights, open_weights
from fledge.release.merge import merged
from tiny_llama import TARGETS, random_adapter, save_tiny, tiny_model

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return open_weights(save_tiny(tmp_path_factory.mktemp("tiny") / "model", tiny_model()))


@pytest.mark.parametrize("use_rslora", [False, True])
def test_peft_opens_our_adapter_and_merges_to_the_same_weights(
    weights: Weights, tmp_path: Path, use_rslora: bool
) -> None:
    adapter = random_adapter(weights, use_rslora=use_rslora)
    save_adapter(adapter, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter").merge_and_unload().state_dict()
    base = tiny_model().state_dict()
    for name, ours in merged(weights, adapter):
        np.testing.assert_allclose(ours, theirs[name].numpy(), atol=2e-6, err_msg=name)
        changed = not np.array_equal(ours, base[name].numpy())
        assert changed is (name.split(".")[-2] in TARGETS), name


def test_we_open_pefts_adapter(weights: Weights, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(TARGETS), init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model(), config)
    model.save_pretrained(tmp_path / "adapter")
    adapter = load_adapter(tmp_path / "adapter")
    assert (adapter.rank, adapter.alpha, adapter.scale, adapter.use_rslora) == (4, 8.0, 2.0, False)
    assert set(adapter.target_modules) == set(TARGETS)
    check_fits(adapter, weights)
    theirs = model.merge_and_unload().state_dict()
    for name, ours in merged(weights, adapter):
        np.testing.assert_allclose(ours, theirs[name].numpy(), atol=2e-6, err_msg=name)


def test_saving_twice_gives_the_same_bytes_and_loading_gives_the_adapter_back(weights: Weights, tmp_path: Path) -> None:
    adapter = random_adapter(weights)
    backwards = replace(adapter, tensors=dict(reversed(adapter.tensors.items())))
    save_adapter(adapter, tmp_path / "one")
    save_adapter(adapter, tmp_path / "two")
    save_adapter(backwards, tmp_path / "two")
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"], "no staging folder stays"
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    loaded = load_adapter(tmp_path / "one")
    assert replace(loaded, tensors={}) == replace(adapter, tensors={}, target_modules=tuple(sorted(TARGETS)))
    assert all(np.array_equal(loaded.tensors[name], values) for name, values in adapter.tensors.items())


def test_rank_stabilised_scale() -> None:
    assert Adapter(16, 32.0, False, (), "", {}).scale == 2.0
    assert Adapter(16, 32.0, True, (), "", {}).scale == 8.0


def test_half_precision_adapters_are_read(weights: Weights, tmp_path: Path) -> None:
    save_adapter(random_adapter(weights), tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    state = {name: tensor.bfloat16() for name, tensor in load_torch(path).items()}
    save_torch(state, path)
    loaded = load_adapter(tmp_path / "a")
    assert all(np.array_equal(loaded.tensors[n], t.float().numpy()) for n, t in state.items())
    assert torch.bfloat16 in {t.dtype for t in state.values()}


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_bias": True},
        {"peft_type": "IA3"},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 8}},
        {"alpha_pattern": {"q_proj": 8}},
        {"fan_in_fan_out": True},
        {"r": 5},
        {"r": "4"},
        {"r": 0},
        {"lora_alpha": None},
        {"lora_alpha": float("inf")},
    ],
)
def test_an_adapter_that_means_something_else_is_refused(
    weights: Weights, tmp_path: Path, changes: dict[str, Any]
) -> None:
    save_adapter(random_adapter(weights), tmp_path / "a")
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(ModelError) as caught:
        load_adapter(tmp_path / "a")
    assert caught.value.code == "model.bad_adapter"


def test_all_problems_are_told_at_once(weights: Weights, tmp_path: Path) -> None:
    save_adapter(random_adapter(weights), tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    prefix = "base_model.model.model.layers.0."
    del tensors[f"{prefix}mlp.up_proj.lora_B.weight"]
    tensors[f"{prefix}mlp.gate_proj.lora_A.weight"][0, 0] = np.nan
    tensors["base_model.model.model.norm.weight"] = np.ones(64, np.float32)
    save_file(tensors, path)
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_bias": True}))
    with pytest.raises(ModelError) as caught:
        load_adapter(tmp_path / "a")
    for word in (
        "lora_bias",
        "up_proj.lora_B.weight' is missing",
        "gate_proj.lora_A.weight' is not finite",
        "norm.weight",
    ):
        assert word in str(caught.value)


def test_a_folder_that_is_no_adapter_is_refused(weights: Weights, tmp_path: Path) -> None:
    save_adapter(random_adapter(weights), tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    (tmp_path / "b").mkdir()
    for folder, word in (("a", "pickle"), ("b", "missing"), ("c", "missing")):
        with pytest.raises(ModelError, match=word) as caught:
            load_adapter(tmp_path / folder)
        assert caught.value.code == "model.bad_adapter"


def test_an_adapter_of_another_model_is_refused_before_anything_is_read(weights: Weights) -> None:
    adapter = random_adapter(weights)
    prefix = "base_model.model.model.layers."
    misfit = {
        **adapter.tensors,
        f"{prefix}9.mlp.up_proj.lora_A.weight": np.zeros((4, 64), np.float32),
        f"{prefix}9.mlp.up_proj.lora_B.weight": np.zeros((128, 4), np.float32),
        f"{prefix}0.mlp.up_proj.lora_B.weight": np.zeros((127, 4), np.float32),
    }
    with pytest.raises(ModelError) as caught:
        merged(weights, replace(adapter, tensors=misfit))
    assert caught.value.code == "model.bad_adapter"
    assert "layers.9.mlp.up_proj" in str(caught.value) and "[128, 64]" in str(caught.value)
