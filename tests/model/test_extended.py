"""Tokens of one's own: found in text as llama.cpp finds them, their rows learnt exactly, opened by PEFT as they are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFValueType
from peft import LoraConfig, PeftModel, get_peft_model
from test_engine import BOUNDS, EXACT, KINDS, check, deep_examples
from transformers import AutoModelForCausalLM

from families import EXACT_ATTENTION, FAMILIES, VOCABULARY, Plain, _compute, _in_float64, save_family
from fledge.data.tokenizer import Place, from_folder, with_added
from fledge.errors import ConfigError, ModelError
from fledge.model import lora
from fledge.model.adapter import TENSORS_NAME, Adapter, load_adapter, save_adapter, token_rows_key
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.decoder import read_decoder
from fledge.model.engine.passes import Engine
from fledge.model.engine.plain import PlainKernels
from fledge.model.extended import Extended, extend
from fledge.model.load import load_model
from fledge.model.lora import LoraSettings
from fledge.model.names import weights_of
from fledge.model.safetensors_file import map_safetensors, write_safetensors
from fledge.model.tokenizer import load_tokenizer
from fledge.model.tokens import single
from fledge.model.weights import open_weights
from fledge.records import Example
from fledge.release.folder import add_tokens
from fledge.release.gguf import Tensor, write_file, write_gguf
from fledge.release.metadata import Value
from fledge.release.quantize import quantize
from fledge.runtime.gguf_check import read_header
from fledge.runtime.llama import Llama
from fledge.training.batch import to_batch
from tiny import loss_and_gradients, wake
from tiny_llama import save_tiny, tiny_config, tiny_model

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "ggml-vocab"
# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
# Two rows that the families have, and one by which their tables grow.
IDS = range(VOCABULARY - 2, VOCABULARY + 1)
ADDED = {f"<{number}>": number for number in IDS}


def grown(folder: Path) -> Extended:
    base = open_weights(folder)
    numbers = np.random.default_rng(0)
    names = ["model.embed_tokens.weight", *([] if base.shape.tied else ["lm_head.weight"])]
    rows = {name: numbers.normal(0, 0.2, (len(IDS), base.shape.width)).astype(np.float32) for name in names}
    return Extended(base, ADDED, rows)


def engine(folder: Path, *, dtype: torch.dtype, kind: str = "compiled") -> Engine:
    weights = grown(folder)
    kernels = kernels_for(dtype) if kind == "compiled" else PlainKernels("test", dtype)
    model = Engine(read_decoder(weights, PlainKernels("", dtype), dtype=dtype), kernels)
    model.add_adapter(LoraSettings(rank=4, alpha=8.0), seed=7)
    model.train_rows(weights)
    wake(model)
    return model


def holding(examples: list[Example]) -> list[Example]:
    """The examples with added tokens in their shared beginning, in questions and among what is taught."""
    swap = {7: IDS[0], 8: IDS[1], 9: IDS[2], examples[0].ids[1]: IDS[2], examples[2].ids[-2]: IDS[0]}
    return [replace(example, ids=[swap.get(i, i) for i in example.ids]) for example in examples]


def plain_rows(folder: Path, ours: Engine) -> Plain:
    """Loss and gradients by transformers and PEFT's trainable tokens, the table grown by transformers itself."""
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=ours.dtype, attn_implementation=EXACT_ATTENTION)
    base.resize_token_embeddings(IDS.stop, mean_resizing=False)
    if ours.dtype == torch.float64:
        _in_float64(base)
    base.get_input_embeddings().padding_idx = None
    named: Any = list(IDS) if ours.shape.tied else {"embed_tokens": list(IDS), "lm_head": list(IDS)}
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=list(lora.ALL_LINEAR), task_type="CAUSAL_LM", trainable_token_indices=named
    )
    network: Any = get_peft_model(base, config, autocast_adapter_dtype=False).eval()
    parameters = {name.replace(".default", ""): p for name, p in network.named_parameters()}
    wanted = {**ours.adapter_tensors(), **{token_rows_key(n): rows for n, rows in ours.token_rows().items()}}
    with torch.no_grad():
        for name, tensor in wanted.items():
            parameters[name].copy_(tensor)
    return _compute(network, {name: parameters[name] for name in wanted}, ours.dtype)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: save_family(root / name, name) for name in FAMILIES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("family", "dtype"), [*((family, torch.float64) for family in FAMILIES), ("qwen3", torch.float32)], ids=str
)
def test_rows_of_every_family_get_the_gradient_of_the_plain_computation(
    folders: dict[str, Path], family: str, kind: str, dtype: torch.dtype
) -> None:
    model = engine(folders[family], dtype=dtype, kind=kind)
    examples = holding(deep_examples())
    expected = plain_rows(folders[family], model)(examples)
    rows = [name for name in expected[1] if "token_adapter" in name]
    assert len(rows) == (1 if model.shape.tied else 2)
    assert all(expected[1][name].norm(dim=1).min() > 0 for name in rows)
    for tokens in (10_000, 60, 30):
        check(loss_and_gradients(model, to_batch(examples, tokens_per_piece=tokens)), expected, **BOUNDS[dtype])


@pytest.mark.parametrize("fault", ["embedding", "head"])
@pytest.mark.parametrize("family", ["smollm2", "llama"])
def test_a_gradient_that_is_forgotten_is_seen(
    folders: dict[str, Path], family: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine(folders[family], dtype=torch.float64)
    examples = holding(deep_examples())
    expected = plain_rows(folders[family], model)(examples)
    monkeypatch.setattr(f"fledge.model.engine.token_rows.TokenRows.add_{fault}_gradient", lambda *_: None)
    with pytest.raises(AssertionError):
        check(loss_and_gradients(model, to_batch(examples, tokens_per_piece=60)), expected, **EXACT)


@pytest.mark.parametrize("family", ["smollm2", "qwen3"])
def test_the_reference_is_the_model_as_it_was(folders: dict[str, Path], family: str) -> None:
    model = engine(folders[family], dtype=torch.float32)
    tokens = single(torch.tensor([5, IDS[0], 9, IDS[2], 11]))

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model.logits(model.hidden(tokens)).clone()

    with model.disabled():
        before = logits()
    with torch.no_grad():
        for name, parameter in model.parameters().items():
            if name.startswith("token_rows"):
                parameter.add_(0.5)
    learnt = logits()
    with model.disabled():
        assert torch.equal(logits(), before)
    assert not torch.allclose(learnt, before) and torch.equal(logits(), learnt)


@pytest.mark.parametrize("family", ["smollm2", "llama", "qwen3"])
def test_peft_and_transformers_give_the_same_logits(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    model = engine(folders[family], dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.parameters().items():
            if name.startswith("token_rows"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        ids = torch.tensor([5, IDS[0], 9, IDS[2], 11, IDS[1]])
        ours = model.logits(model.hidden(single(ids)))
    adapter = model.adapter(LoraSettings(rank=4, alpha=8.0), base_name="base")
    save_adapter(adapter, tmp_path / "adapter")
    network: Any = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32)
    network.resize_token_embeddings(IDS.stop, mean_resizing=False)
    theirs = PeftModel.from_pretrained(network, tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs(input_ids=ids[None]).logits[0].detach(), ours, atol=2e-5, rtol=1e-4)
    # What is read back, merged, is the model that was trained.
    again = load_adapter(tmp_path / "adapter")
    assert again.token_ids == tuple(IDS) and set(again.token_rows) == set(adapter.token_rows)
    weights = grown(folders[family]).with_rows(again, where="run")
    loaded = load_model(weights, dtype=torch.float32)
    loaded.add_adapter(lora.settings_of(again), seed=0)
    loaded.load_adapter(again)
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(loaded.hidden(single(ids))), ours, atol=2e-5, rtol=1e-4)


def test_we_open_pefts_own_file(folders: dict[str, Path], tmp_path: Path) -> None:
    network: Any = AutoModelForCausalLM.from_pretrained(folders["llama"])
    named = {"embed_tokens": [3, 4], "lm_head": [3, 4]}
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", trainable_token_indices=named)
    get_peft_model(network, config).save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path)
    assert adapter.token_ids == (3, 4)
    for name, rows in adapter.token_rows.items():
        np.testing.assert_allclose(rows, open_weights(folders["llama"]).read(name)[3:5], atol=1e-6)


def test_any_part_of_a_grown_table_is_that_of_the_whole(folders: dict[str, Path]) -> None:
    for weights in (grown(folders["llama"]), Extended(grown(folders["llama"]), {"<far>": 120}, {})):
        base = open_weights(folders["llama"])
        for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
            whole = weights.read(name)
            assert whole.shape == weights.tensor_shape(name) or weights.shape.vocab_size > IDS.stop
            for start, stop in ((0, 5), (90, 97), (94, 96), (96, 98), (97, 98), (0, 98)):
                assert np.array_equal(weights.read_rows(name, start, stop), whole[start:stop])
        assert np.array_equal(
            weights.read("model.embed_tokens.weight")[:95], base.read("model.embed_tokens.weight")[:95]
        )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose table has more rows than its tokenizer has tokens."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", tiny_model())


@pytest.mark.parametrize("size", [384, 0], ids=["rows to spare", "grows"])
def test_ids_go_behind_the_tokenizers_own_and_rows_begin_as_the_mean_of_the_pieces(tmp_path: Path, size: int) -> None:
    spare = save_tiny(tmp_path / "spare", tiny_model())
    free = load_tokenizer(open_weights(spare)).size
    folder = save_tiny(tmp_path / "model", tiny_model(tiny_config(vocab_size=size or free)))
    base = open_weights(folder)
    weights = extend(base, ["<cv>", "Grüße!"])
    assert isinstance(weights, Extended)
    assert weights.added == {"<cv>": free, "Grüße!": free + 1}
    assert weights.shape.vocab_size == (size or free + 2)
    pieces = load_tokenizer(base).encode("<cv>")
    table = base.read("model.embed_tokens.weight")
    assert len(pieces) > 1
    np.testing.assert_allclose(weights.read("model.embed_tokens.weight")[free], table[pieces].mean(0), atol=1e-6)
    assert not weights.is_stored("model.embed_tokens.weight") and weights.is_stored("model.norm.weight")


def test_added_tokens_are_found_the_longest_first_and_control_tokens_never(tiny: Path) -> None:
    own = load_tokenizer(open_weights(tiny))
    tokenizer = load_tokenizer(extend(open_weights(tiny), ["<cv>", "<cv>2", "dog!"]))
    cv, two, dog = own.size, own.size + 1, own.size + 2
    assert tokenizer.encode("<cv>") == [cv]
    assert tokenizer.encode("<cv>2<cv>dog!dog") == [two, cv, dog, *own.encode("dog")]
    text = "a fox<cv> jumps <cv>2 over the\n<cv>"
    ids = tokenizer.encode(text)
    assert [i for i in ids if i >= own.size] == [cv, two, cv]
    assert ids == [*own.encode("a fox"), cv, *own.encode(" jumps "), two, *own.encode(" over the\n"), cv]
    assert tokenizer.decode(ids) == text
    for name in own.control:
        assert not set(own.control.values()).intersection(tokenizer.encode(f"<cv>{name}<cv>"))
    assert tokenizer.digest != own.digest
    assert tokenizer.encode("the lazy dogs") == own.encode("the lazy dogs")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["<|im_end|>"], "'<|im_end|>' is a token of the model already; leave it out"),
        (["<note>"], "'<note>' is a token of the model already"),
        (["d"], "'d' is a token of the model already"),
        (["ote"], "'ote' is part of the model's token '<note>'"),
        (["ab+cd", "cd+ef"], "'ab+cd' and 'cd+ef' overlap"),
        (["<not", "te><x>"], "overlap"),
    ],
)
def test_what_can_be_no_token_is_said_in_a_line(tiny: Path, texts: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        extend(open_weights(tiny), texts)
    assert words in str(caught.value) and "\n" not in str(caught.value) and "data.add_tokens" in str(caught.value)


def learnt(tiny: Path) -> tuple[Extended, Adapter]:
    weights = extend(open_weights(tiny), ["<cv>", "<skill>"])
    assert isinstance(weights, Extended)
    model = load_model(weights, dtype=torch.float32)
    model.add_adapter(LoraSettings(rank=2, alpha=4.0), seed=0)
    model.train_rows(weights)
    return weights, model.adapter(LoraSettings(rank=2, alpha=4.0), base_name="b")


def test_tokens_that_were_added_but_not_saved_are_named(tiny: Path, tmp_path: Path) -> None:
    weights, adapter = learnt(tiny)
    weights.with_rows(adapter, where="run")
    other = tuple(i + 1 for i in adapter.token_ids)
    narrow = {name: rows[:, :8] for name, rows in adapter.token_rows.items()}
    for changes, words in (
        ({"token_rows": {}, "token_ids": ()}, "'<cv>', '<skill>': they were added, but not saved"),
        ({"token_ids": other}, "its rows are of tokens"),
        ({"token_rows": narrow}, "width of 64"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            weights.with_rows(replace(adapter, **changes), where="run")
        assert "Train the run again" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["missing", "short", "nan"])
def test_rows_that_were_lost_or_spoilt_are_refused(tiny: Path, tmp_path: Path, fault: str) -> None:
    save_adapter(learnt(tiny)[1], tmp_path)
    path = tmp_path / TENSORS_NAME
    tensors = {name: stored.read() for name, stored in map_safetensors(path).items()}
    key = token_rows_key("model.embed_tokens.weight")
    held = tensors.pop(key)
    if fault != "missing":
        tensors[key] = held[:1] if fault == "short" else np.full_like(held, np.nan)
    write_safetensors(path, tensors, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not all were saved" if fault == "missing" else "rows of finite numbers"):
        load_adapter(tmp_path)


def sentencepiece_file(path: Path) -> Path:
    """A tiny random model over Llama's own SentencePiece vocabulary."""
    header = read_header(SHARED / "ggml-vocab-llama-spm.gguf")
    small = {"block_count": 1, "embedding_length": 32, "feed_forward_length": 32, "attention.head_count": 2}
    small |= {"attention.head_count_kv": 2, "rope.dimension_count": 16, "context_length": 256}
    metadata = {}
    for key, value in header.kv.items():
        kind, element = header.kv_types[key]
        held = small.get(key.removeprefix("llama."), value)
        metadata[key] = Value(held, GGUFValueType(kind), None if element is None else GGUFValueType(element))
    numbers = np.random.default_rng(0)
    sizes = {"vocab_size": 32000, "query_width": 32, "key_width": 32, "ffn_width": 32, "width": 32}
    tensors = []
    for weight in weights_of("llama", 1, tied=True).values():
        values = numbers.normal(0, 0.2, [sizes[dim] for dim in weight.dims]).astype(np.float32)
        tensors.append(Tensor(weight.gguf, values.shape, "F32", partial(quantize, values, "F32")))
    write_file(path, metadata, tensors)
    return path


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no vocabularies in {SHARED}")
def test_behind_an_added_token_sentencepiece_has_llama_cpps_blank(tmp_path: Path) -> None:
    weights = extend(open_weights(sentencepiece_file(tmp_path / "base.gguf")), ["<cv>", "Grüße!"])
    assert weights.added == {"<cv>": 32000, "Grüße!": 32001}
    ours = load_tokenizer(weights)
    write_gguf(tmp_path / "out.gguf", weights, None, "f16")
    again = load_tokenizer(open_weights(tmp_path / "out.gguf"))
    texts = ["<cv>", "a<cv>b", "<cv> b", " <cv>\n<cv>x", "foxGrüße! dog", "Grüße<cv>!", "the lazy dog", "<cv><cv>"]
    with Llama(tmp_path / "out.gguf") as llama:
        for text in texts:
            ids = llama.tokenize(text, parse_special=False)
            assert ours.encode(text) == ids and again.encode(text) == ids, repr(text)
            assert ours.decode(ids) == text


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no vocabularies in {SHARED}")
@pytest.mark.parametrize("kind", ["mistral/tokenizer.model.v1", "qwen2.5"])
def test_tokens_written_beside_any_kind_of_vocabulary_are_read_back(tmp_path: Path, kind: str) -> None:
    source = SHARED.parent / kind
    if source.is_file():
        shutil.copy(source, tmp_path / "tokenizer.model")
    else:
        shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    base = from_folder(tmp_path)
    added = {"<cv>": base.size, "Grüße!": base.size + 1}
    ours = with_added(base, added)
    add_tokens(tmp_path, added)
    again = from_folder(tmp_path)
    assert again.size == ours.size == base.size + 2
    for text in ("a<cv>b", "<cv> x", "the fox Grüße!<cv>", "plain text", " x<cv>\n<cv>"):
        for place in Place:
            assert ours.encode(text, place) == again.encode(text, place), repr(text)
        assert again.decode(again.encode(text)) == text
    assert ours.encode("x<cv>", Place.INSIDE) == [*base.encode("x", Place.INSIDE), base.size]
