"""Weights read without torch equal those that transformers reads, and what cannot be read is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fledge.errors import ModelError
from fledge.model.weights import OtherWeights, Weights, open_weights
from fledge.release.gguf import write_gguf
from tiny_llama import save_tiny, tiny_config, tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", tiny_model())


def assert_equal(weights: Weights, state: dict[str, torch.Tensor]) -> None:
    assert set(weights.names()) <= set(state)
    for name in weights.names():
        values = weights.read(name)
        assert values.dtype == np.float32 and values.flags.writeable and values.shape == weights.tensor_shape(name)
        assert np.array_equal(values, state[name].float().numpy()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_reads_as_transformers_reads_it(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    model = tiny_model(tiny_config(tie_word_embeddings=tied)).to(dtype)
    model.save_pretrained(tmp_path)
    weights = open_weights(tmp_path)
    assert weights.kind == "folder" and weights.shape.tied is tied
    assert ("lm_head.weight" in weights.names()) is not tied
    assert_equal(weights, LlamaForCausalLM.from_pretrained(tmp_path, dtype=dtype).state_dict())


def test_shards_read_as_one(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_equal(open_weights(tmp_path), model.state_dict())


def test_the_shape_is_that_of_the_config(tiny: Path) -> None:
    shape = open_weights(tiny).shape
    assert (shape.architecture, shape.num_layers, shape.width, shape.ffn_width) == ("llama", 3, 64, 128)
    assert (shape.num_heads, shape.num_kv_heads, shape.head_width, shape.vocab_size) == (4, 2, 16, 384)
    assert (shape.context_tokens, shape.rope_theta, shape.rope_scaling) == (256, 10_000.0, None)
    assert (shape.norm_eps, shape.tied) == (1e-5, True)


def test_older_configs_mean_the_same(tiny: Path, tmp_path: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    del config["rope_parameters"], config["head_dim"]
    config |= {"rope_theta": 500_000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(tiny / "model.safetensors")
    shape = open_weights(tmp_path).shape
    assert shape.rope_theta == 500_000.0 and shape.head_width == 16
    assert shape.rope_scaling == {"rope_type": "linear", "factor": 4.0, "factors": [4.0] * 8}


@pytest.mark.parametrize("rope", [LLAMA3, {"rope_type": "linear", "factor": 3.0, "rope_theta": 10_000.0}])
def test_rotary_factors_divide_into_transformers_frequencies(tmp_path: Path, rope: dict[str, Any]) -> None:
    config = tiny_config(rope_parameters=rope)
    tiny_model(config).save_pretrained(tmp_path)
    shape = open_weights(tmp_path).shape
    assert shape.rope_scaling is not None
    plain = shape.rope_theta ** -(np.arange(0, shape.head_width, 2) / shape.head_width)
    theirs, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, device=torch.device("cpu"))
    np.testing.assert_allclose(plain / np.array(shape.rope_scaling["factors"]), theirs.numpy(), rtol=1e-6)


def test_rotary_factors_survive_the_way_through_gguf(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", tiny_model(tiny_config(rope_parameters=LLAMA3)))
    before = open_weights(folder)
    write_gguf(tmp_path / "m.gguf", before, None, "f32")
    after = open_weights(tmp_path / "m.gguf")
    assert before.shape.rope_scaling is not None and after.shape.rope_scaling is not None
    np.testing.assert_allclose(after.shape.rope_scaling["factors"], before.shape.rope_scaling["factors"], rtol=1e-6)
    write_gguf(tmp_path / "again.gguf", after, None, "f16")
    assert open_weights(tmp_path / "again.gguf").shape.rope_scaling == after.shape.rope_scaling


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_a_gguf_reads_as_transformers_reads_it(tiny: Path, tmp_path: Path, kind: str) -> None:
    write_gguf(tmp_path / "m.gguf", open_weights(tiny), None, kind)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    weights = open_weights(tmp_path / "m.gguf")
    assert weights.kind == "gguf"
    assert_equal(weights, theirs.state_dict())


def test_the_starter_reads_as_the_gguf_package_reads_it(starter_gguf: Path) -> None:
    weights = open_weights(starter_gguf)
    assert weights.shape.rope_theta == 100_000.0 and weights.shape.norm_eps == 1e-5 and weights.shape.tied
    stored = {t.name: t for t in gguf.GGUFReader(starter_gguf).tensors}
    assert {weight.gguf for weight in weights.weights.values()} == set(stored)

    def theirs(name: str) -> np.ndarray:
        return gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)

    assert np.array_equal(weights.read("model.layers.7.mlp.down_proj.weight"), theirs("blk.7.ffn_down.weight"))
    query = theirs("blk.7.attn_q.weight").reshape(9, 32, 2, 576).swapaxes(1, 2).reshape(576, 576)
    assert np.array_equal(weights.read("model.layers.7.self_attn.q_proj.weight"), query)


def rewritten(tiny: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    config = json.loads((tiny / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").symlink_to(tiny / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"model_type": "rwkv", "auto_map": {"AutoModel": "m.M"}}, "model.unsupported", "auto_map"),
        ({"model_type": ["llama"]}, "model.broken_file", "architecture"),
        ({"model_type": None}, "model.broken_file", "architecture"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "model.unsupported", "auto_map"),
        ({"quantization_config": {"bits": 4}}, "model.unsupported", "quantised"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8}}, "model.broken_file", "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 10**400}}, "model.broken_file", "linear"),
        ({"rope_parameters": [1]}, "model.broken_file", "rope"),
        ({"num_hidden_layers": 2**30}, "model.broken_file", "layers"),
        ({"num_hidden_layers": -1}, "model.broken_file", "num_hidden_layers"),
        ({"num_hidden_layers": 4}, "model.broken_file", "model.layers.3"),
        ({"num_hidden_layers": 2}, "model.unsupported", "model.layers.2"),
        ({"head_dim": 2**31}, "model.broken_file", "head_dim"),
        ({"head_dim": 15}, "model.broken_file", "even"),
        ({"num_key_value_heads": 3}, "model.broken_file", "key heads"),
        ({"rms_norm_eps": float("nan")}, "model.broken_file", "rms_norm_eps"),
        ({"rms_norm_eps": "1e-5"}, "model.broken_file", "rms_norm_eps"),
        ({"intermediate_size": 256}, "model.broken_file", "mlp"),
        ({"vocab_size": 385}, "model.broken_file", "embed_tokens"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], code: str, word: str
) -> None:
    with pytest.raises(ModelError, match=word) as caught:
        open_weights(rewritten(tiny, tmp_path / "m", **changes))
    assert caught.value.code == code and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2}}, "yarn"),
        ({"model_type": "rwkv"}, "rwkv"),
    ],
)
def test_what_the_engine_cannot_compute_opens_for_the_plain_path(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    weights = open_weights(rewritten(tiny, tmp_path / "m", **changes))
    assert isinstance(weights, OtherWeights)
    assert word in weights.why
    assert weights.tensor_shape("model.norm.weight") == (weights.shape.width,)


def test_pickles_are_refused_with_a_way_out(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="pickle.*save_pretrained") as caught:
        open_weights(tmp_path)
    assert caught.value.code == "model.unsupported"


def header(value: Any, data: bytes = bytes(64)) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(raw)) + raw + data


SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "a header longer than the file": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": header(b"{"),
    "JSON without end": header(b"[" * 100_000),
    "a list": header([]),
    "an entry that is no object": header({"a": 1}),
    "no offsets": header({"a": {"dtype": "F32", "shape": [4]}}),
    "a negative shape": header({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}),
    "a shape with truth values": header({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}),
    "offsets turned round": header({"a": {"dtype": "F32", "shape": [0], "data_offsets": [16, 0]}}),
    "offsets outside": header({"a": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}),
    "too few bytes for the shape": header({"a": {"dtype": "BF16", "shape": [64], "data_offsets": [0, 64]}}),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_damaged_safetensors_are_refused(tiny: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(SAFETENSORS[name])
    with pytest.raises(ModelError) as caught:
        open_weights(tmp_path)
    assert caught.value.code == "model.broken_file"


def test_a_shard_outside_the_folder_is_not_opened(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    index = {"weight_map": {"model.norm.weight": str(tiny / "model.safetensors")}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="no file of the folder"):
        open_weights(tmp_path)


def test_float8_weights_are_refused_by_name(tmp_path: Path) -> None:
    model = tiny_model()
    state = {n: t.to(torch.float8_e4m3fn) for n, t in model.state_dict().items() if n != "lm_head.weight"}
    model.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="F8_E4M3") as caught:
        open_weights(tmp_path)
    assert caught.value.code == "model.unsupported"


def gguf_with(path: Path, architecture: str, **numbers: int) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, number in numbers.items():
        writer.add_uint32(f"{architecture}.{key.replace('__', '.')}", number)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_another_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'gemma3'.*can load: llama") as caught:
        open_weights(gguf_with(tmp_path / "m.gguf", "gemma3"))
    assert caught.value.code == "model.unsupported"


def test_a_gguf_that_claims_billions_of_layers_is_refused_at_once(tmp_path: Path) -> None:
    numbers = {"block_count": 2**31 - 1, "embedding_length": 32, "feed_forward_length": 32, "context_length": 8}
    path = gguf_with(tmp_path / "m.gguf", "llama", **numbers, attention__head_count=2)
    with pytest.raises(ModelError, match="2147483647 layers with 1 tensors") as caught:
        open_weights(path)
    assert caught.value.code == "model.broken_file"


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        open_weights(tmp_path / "nothing")
    assert caught.value.code == "model.unknown"


def test_configs_of_the_defaults_agree_with_transformers() -> None:
    config = LlamaConfig()
    assert (config.rms_norm_eps, config.max_position_embeddings, config.tie_word_embeddings) == (1e-6, 2048, False)
    assert config.rope_parameters["rope_theta"] == 10_000.0
