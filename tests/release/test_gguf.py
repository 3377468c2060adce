"""A written GGUF file answers as its weights do under real llama.cpp, and is whole or not there."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import LlamaForCausalLM

from fledge.errors import DiskError, ExportError, ModelError
from fledge.model.weights import Weights, open_weights
from fledge.release import gguf as release
from fledge.release.gguf import write_gguf
from fledge.release.merge import merged
from fledge.release.metadata import pre_tokenizer_name
from fledge.runtime.gguf_check import read_header
from fledge.runtime.llama import Llama
from fledge.runtime.logits import Scoring, logits
from tiny_llama import CHAT_TEMPLATE, CORPUS, random_adapter, save_tiny, tiny_config, tiny_model, tiny_tokenizer

# llama.cpp keeps keys and values, and adds up attention, in float16: with these strong random weights that alone moves
# a log-probability by up to 0.014. (With keys and values rounded so in torch too, the first position agrees to 1e-5.)
FLOAT16_CACHE = 0.03
IDS = [1, 70, 5, 201, 9, 318, 33, 2, 1, 150, 88, 260]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", tiny_model())


@pytest.fixture(scope="module")
def weights(folder: Path) -> Weights:
    return open_weights(folder)


def log_probs(values: torch.Tensor) -> NDArray[np.float64]:
    return torch.log_softmax(values.double(), -1).numpy()


def of_llama_cpp(path: Path) -> NDArray[np.float64]:
    [answer] = logits(path, [Scoring(IDS, list(range(len(IDS))))])
    return log_probs(torch.tensor(answer))


def of_transformers(model: LlamaForCausalLM) -> NDArray[np.float64]:
    with torch.no_grad():
        return log_probs(model(torch.tensor([IDS])).logits[0])


def loaded_with(weights: Weights, adapter: Any) -> LlamaForCausalLM:
    model = tiny_model()
    state = {name: torch.from_numpy(values) for name, values in merged(weights, adapter)}
    assert model.load_state_dict(state, strict=False).unexpected_keys == []
    return model


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"head_dim": 32},
        {"num_key_value_heads": 4, "rms_norm_eps": 1e-2},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
        {"rope_parameters": LLAMA3},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_llama_cpp_answers_as_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**changes))
    written = write_gguf(tmp_path / "m.gguf", open_weights(save_tiny(tmp_path / "m", model)), None, "f32")
    np.testing.assert_allclose(of_llama_cpp(written.path), of_transformers(model), atol=FLOAT16_CACHE)


def test_rows_in_the_wrong_order_would_show(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "permute_rows", lambda values, num_heads: values)
    write_gguf(tmp_path / "m.gguf", weights, None, "f32")
    assert np.abs(of_llama_cpp(tmp_path / "m.gguf") - of_transformers(tiny_model())).max() > 0.1


# About twice the largest change of a log-probability that was measured; small random models feel every bit.
MOST_MOVED = [("f16", 0.05), ("bf16", 0.2), ("q8_0", 1.4), ("q4_0", 5.0), ("q4_k_m", 5.0)]


@pytest.mark.parametrize(("kind", "most"), MOST_MOVED)
def test_merged_and_quantised_answers_stay_near(weights: Weights, tmp_path: Path, kind: str, most: float) -> None:
    adapter = random_adapter(weights)
    written = write_gguf(tmp_path / "m.gguf", weights, adapter, kind)
    tuned = of_transformers(loaded_with(weights, adapter))
    assert np.abs(of_llama_cpp(written.path) - tuned).max() < most
    assert np.abs(of_transformers(tiny_model()) - tuned).max() > 1, "the adapter must matter"


def test_a_gguf_base_is_a_donor(weights: Weights, tmp_path: Path) -> None:
    base = write_gguf(tmp_path / "base.gguf", weights, None, "f32", overrides={"general.name": "Base"}).path
    donor, adapter = open_weights(base), random_adapter(weights)
    tuned = write_gguf(tmp_path / "tuned.gguf", donor, adapter, "f32", overrides={"general.name": "Tuned"}).path
    direct = write_gguf(tmp_path / "direct.gguf", weights, adapter, "f32").path
    before, after = gguf.GGUFReader(base), gguf.GGUFReader(tuned)
    for key, field in before.fields.items():
        if key != "general.name":
            assert after.fields[key].contents() == field.contents() and after.fields[key].types == field.types, key
    assert after.fields["general.name"].contents() == "Tuned"
    for ours, theirs in zip(after.tensors, gguf.GGUFReader(direct).tensors, strict=True):
        assert ours.name == theirs.name and np.array_equal(ours.data, theirs.data)


def test_the_starter_as_donor(starter_gguf: Path, tmp_path: Path) -> None:
    weights = open_weights(starter_gguf)
    adapter = random_adapter(weights)
    one = "base_model.model.model.layers.3.self_attn.k_proj"
    adapter = type(adapter)(4, 8.0, False, ("k_proj",), "", {n: t for n, t in adapter.tensors.items() if one in n})
    seen: list[tuple[int, int]] = []
    written = write_gguf(tmp_path / "m.gguf", weights, adapter, "q8_0", progress=lambda *p: seen.append(p))
    before, after = read_header(starter_gguf), read_header(tmp_path / "m.gguf")
    changed = {key for key in before.kv if before.kv[key] != after.kv.get(key)}
    assert changed == {"general.file_type"} and after.kv["general.file_type"] == 7
    assert after.kv_types == before.kv_types
    assert {t.type for t in after.tensors.values()} == {"Q8_0", "F32"}
    assert seen == [(i, 272) for i in range(1, 273)]
    assert written.bytes == (tmp_path / "m.gguf").stat().st_size and 8.5 <= written.bits_per_weight < 8.6
    again = open_weights(tmp_path / "m.gguf")
    assert isinstance(again, type(weights))
    embedding = "token_embd.weight"
    assert np.array_equal(again.raw(embedding), weights.raw(embedding)), "what stays of its type is copied"
    name = "model.layers.3.self_attn.k_proj.weight"
    merged_key = dict(merged(weights, adapter))[name]
    assert np.abs(again.read(name) - merged_key).max() <= 0.6 * np.abs(merged_key).max() / 127
    assert np.abs(merged_key - weights.read(name)).max() > 0.1


def test_llama_cpp_has_the_same_tokenizer(folder: Path, weights: Weights, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", weights, None, "f16").path
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [
        *CORPUS,
        "x = 3.14159  # <note> it's 2026!\n\n\t",
        "<|im_start|>user\nGrüße<|im_end|>\n",
        "١٢ ½ 東 \u00a0 end ",
    ]
    with Llama(path) as llama:
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert llama.tokenize(text, parse_special=True) == ids, text
    kv = read_header(path).kv
    assert kv["tokenizer.ggml.pre"] == "smollm" and kv["tokenizer.chat_template"] == CHAT_TEMPLATE
    ids = {name: kv[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown", "padding")}
    assert ids == {"bos": 1, "eos": 2, "unknown": 0, "padding": 2}
    assert kv["tokenizer.ggml.add_bos_token"] is False
    types = kv["tokenizer.ggml.token_type"]
    note = kv["tokenizer.ggml.tokens"].index("<note>")
    assert (types[1], types[100], types[note], types[383]) == (3, 1, 4, 5) and len(types) == 384


@pytest.mark.parametrize("style", ["list", "text"])
def test_merges_in_both_styles_are_the_same(folder: Path, tmp_path: Path, style: str) -> None:
    copied = shutil.copytree(folder, tmp_path / "m")
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    merges = [m if isinstance(m, list) else m.split(" ") for m in tokenizer["model"]["merges"]]
    tokenizer["model"]["merges"] = merges if style == "list" else [" ".join(m) for m in merges]
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
    path = write_gguf(tmp_path / "m.gguf", open_weights(copied), None, "f16").path
    assert read_header(path).kv["tokenizer.ggml.merges"] == [" ".join(m) for m in merges]


WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def splitting(digits: str) -> Any:
    split = pre_tokenizers.Split(Regex(WORDS % digits), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@pytest.mark.parametrize(
    ("name", "pre_tokenizer"),
    [
        ("gpt-2", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        ("llama-bpe", splitting(r"\p{N}{1,3}")),
        ("qwen2", splitting(r"\p{N}")),
    ],
)
def test_pre_tokenisers_are_recognised_and_split_alike(tmp_path: Path, name: str, pre_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer(pre_tokenizer=pre_tokenizer)
    folder = save_tiny(tmp_path / "m", tiny_model(), tokenizer=tokenizer)
    path = write_gguf(tmp_path / "m.gguf", open_weights(folder), None, "f16").path
    assert read_header(path).kv["tokenizer.ggml.pre"] == name
    with Llama(path) as llama:
        for text in (*CORPUS, "It's 12345, isn't IT'S?  \n\n x\r\n"):
            assert llama.tokenize(text, parse_special=True) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=True), None),
        (pre_tokenizers.Whitespace(), None),
        (splitting(r"\p{N}{1,2}"), None),
        (pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Lowercase()),
        (splitting(r"\p{N}{1,3}"), normalizers.NFC()),
    ],
)
def test_a_pre_tokeniser_that_llama_cpp_has_not_is_refused(pre_tokenizer: Any, normalizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.normalizer = normalizer
    with pytest.raises(ModelError, match="pre-tokeniser") as caught:
        pre_tokenizer_name(json.loads(tokenizer.to_str()), Path("m"))
    assert caught.value.code == "model.unsupported"


def test_more_tokens_than_embeddings_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", tiny_model(tiny_config(vocab_size=300)))
    with pytest.raises(ModelError, match="embeddings for 300 tokens"):
        write_gguf(tmp_path / "m.gguf", open_weights(folder), None, "f16")


@contextmanager
def disk_of(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond `num_bytes`: the kernel answers as it does on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [1000, 50_000, 300_000])
def test_a_full_disk_leaves_what_was_there(weights: Weights, tmp_path: Path, room: int) -> None:
    out = tmp_path / "m.gguf"
    out.write_bytes(b"the last export")
    with pytest.raises(DiskError) as caught, disk_of(room):
        write_gguf(out, weights, None, "f32")
    assert caught.value.where == str(out)
    assert out.read_bytes() == b"the last export" and [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_stopping_half_way_leaves_nothing(weights: Weights, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(tmp_path / "m.gguf", weights, None, "f32", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_type_or_a_misfit_adapter_writes_nothing(weights: Weights, tmp_path: Path) -> None:
    adapter = random_adapter(open_weights(save_tiny(tmp_path / "m", tiny_model(tiny_config(num_hidden_layers=4)))))
    for change, error in (((None, "q3_x"), ExportError), ((adapter, "f16"), ModelError)):
        with pytest.raises(error):
            write_gguf(tmp_path / "m.gguf", weights, *change)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_equal_weights_give_equal_files(weights: Weights, tmp_path: Path) -> None:
    adapter = random_adapter(weights)
    hashes = {write_gguf(tmp_path / f"{i}.gguf", weights, adapter, "q4_k_m").sha256 for i in range(2)}
    assert len(hashes) == 1
