"""Our ids are llama.cpp's and transformers' ids, and no text can spell a control token."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AddedToken, PreTrainedTokenizerFast, Qwen2Tokenizer

from fledge.data.tokenizer import Place, Tokenizer, TokenType, from_folder, from_gguf
from fledge.errors import ModelError
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.runtime.gguf_check import read_header
from fledge.runtime.llama import Llama
from tiny_llama import tiny_tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no vocabularies in {SHARED}")

PIECES = [
    *(
        "the ",
        "Hello",
        " world",
        "don't",
        "I'LL",
        "we've",
        "naïve café",
        "Straße",
        "ſ",
        "ǅ",
        "Ⅷ",
        "𝔘",
        "东京",
        "は",
        "한국어",
    ),
    *(
        "Привет",
        "مرحبا",
        "नमस्ते",
        "🦙",
        "👩\u200d👩\u200d👧",
        "🇩🇪",
        "e\u0301",
        "\u00e9",
        "\u00a0",
        "\u2028",
        "\ufeff",
        "…",
        "—",
    ),
    *(
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "  ",
        "   ",
        "0",
        "7",
        "42",
        "1234567",
        "3.14",
        "1,000",
        "²",
        "½",
        "٣",
        "\x7f",
        "\x1b[0m",
    ),
    *(
        "def f(x):\n    return x",
        "!=",
        "//",
        "<<",
        "->",
        "#!/bin/sh",
        "{",
        "}",
        "[[",
        "'",
        '"',
        "'s",
        "’s",
        "__init__",
        "$$",
    ),
    *("\x01", "\x04", "\x14", "\U0010ffff", "\U00082000"),
]


def texts(count: int, *, seed: int) -> Iterator[str]:
    """Half of them from telling pieces, half of any characters that exist."""
    numbers = random.Random(seed)
    for number in range(count):
        if number % 2:
            yield "".join(numbers.choices(PIECES, k=numbers.randint(1, 12)))
        else:
            ranges = numbers.choices(
                [(1, 127), (1, 0x24F), (0x250, 0xD7FF), (0xE000, 0x10FFFF)], k=numbers.randint(1, 24)
            )
            yield "".join(chr(numbers.randint(*limits)) for limits in ranges)


def hostile(control: list[str], count: int, *, seed: int) -> Iterator[str]:
    """Control strings whole, doubled, nested, cut and glued to words."""
    numbers = random.Random(seed)
    for _ in range(count):
        name = numbers.choice(control)
        cut = numbers.randrange(len(name))
        forms = [name, name + name, name[:cut] + name + name[cut:], name[:cut], name.upper(), f"<{name}>", f" {name} "]
        yield "".join(numbers.choices([*forms, *PIECES], k=numbers.randint(1, 6))) + numbers.choice(forms)


@pytest.fixture(scope="module")
def starter(starter_gguf: Path) -> Tokenizer:
    return load_tokenizer(open_weights(starter_gguf))


@pytest.fixture(scope="module")
def llama(starter_gguf: Path) -> Iterator[Llama]:
    with Llama(starter_gguf, context_tokens=64, threads=1) as opened:
        yield opened


def folder_of(folder: Path, tokenizer: Any, **tokens: str) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    fast.save_pretrained(folder)
    return fast


def test_the_starters_ids_are_llama_cpps(starter: Tokenizer, llama: Llama) -> None:
    for text in texts(2400, seed=1):
        assert starter.encode(text) == llama.tokenize(text, parse_special=False), repr(text)


def test_hostile_text_has_llama_cpps_ids_too(starter: Tokenizer, llama: Llama) -> None:
    for text in hostile(list(starter.control), 300, seed=2):
        assert starter.encode(text) == llama.tokenize(text, parse_special=False), repr(text)


def test_decoding_gives_every_text_back(starter: Tokenizer) -> None:
    vocabulary = starter.backend.get_vocab()
    kept = [text for text in texts(4000, seed=3) if all(symbol in vocabulary for symbol in symbols_of(text))]
    assert len(kept) > 2000
    for text in kept:
        assert starter.decode(starter.encode(text)) == text, repr(text)
    mixed = [1, *starter.encode("user\n東"), 2, 2, *starter.encode("京"), 0]
    assert starter.decode(mixed) == "<|im_start|>user\n東<|im_end|><|im_end|>京<|endoftext|>"
    assert starter.decode([]) == ""


def test_a_byte_without_a_token_is_left_out_and_nothing_merges_across_it(starter: Tokenizer, llama: Llama) -> None:
    assert symbols_of("\x04") not in starter.backend.get_vocab()
    for text in ("\x04", " \x04⯳", "a\x04b", "\x99\U000827d4", "\x04\x04the\x04"):
        assert starter.encode(text) == llama.tokenize(text, parse_special=False), repr(text)
    assert starter.decode(starter.encode("a\x04b")) == "ab"


def symbols_of(text: str) -> str:
    """The characters that byte-level BPE writes for the bytes of `text`."""
    return "".join(piece for piece, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text))


def test_no_text_spells_a_control_token(starter: Tokenizer) -> None:
    ids = set(starter.control.values())
    assert len(ids) == 17
    started = time.monotonic()
    for text in hostile(list(starter.control), 6000, seed=4):
        assert not ids.intersection(starter.encode(text)), repr(text)
    assert time.monotonic() - started < 20


def test_control_tokens_are_found_the_longest_first(starter: Tokenizer) -> None:
    found = starter.control_pattern.findall("a<|im_start|>b<|im_end|><|im_start|><|im_end><repo_name><reponame>")
    assert found == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<repo_name>", "<reponame>"]
    nested = Tokenizer(starter.backend, {"<a>": 0, "<a><b>": 1}, 2, None, None, None)
    assert nested.control_pattern.findall("<a><b><a>") == ["<a><b>", "<a>"]
    assert not Tokenizer(starter.backend, {}, 2, None, None, None).control_pattern.findall("anything <|im_end|>")


MARKS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}


def test_a_control_token_that_is_a_word_is_not_found_in_text() -> None:
    """Llama 3 looks whole words up before it merges: a control token called 'end' would be one of them."""
    tokens = ["e", "n", "d", "en", "end", "!"]
    kv = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [TokenType.CONTROL if token == "end" else TokenType.NORMAL for token in tokens],
        "tokenizer.ggml.merges": ["e n"],
    }
    assert from_gguf(kv, where="m.gguf").encode("end!") == [3, 2, 5]
    kv["tokenizer.ggml.token_type"] = [TokenType.NORMAL] * len(tokens)
    assert from_gguf(kv, where="m.gguf").encode("end!") == [4, 5]


def test_a_folders_ids_are_transformers(tmp_path: Path) -> None:
    built = tiny_tokenizer()
    built.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("  ", normalized=False)])
    theirs = folder_of(tmp_path, built, **MARKS)
    ours = from_folder(tmp_path)
    assert (ours.bos, ours.eos, ours.size) == ("<|im_start|>", "<|im_end|>", len(theirs))
    assert ours.control == {name: theirs.convert_tokens_to_ids(name) for name in theirs.all_special_tokens}
    for text in (*texts(1500, seed=5), "a<tool>b <note>", "<tool><tool>  "):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False), repr(text)
        assert ours.decode(ids) == text
    for text in hostile(list(ours.control), 1000, seed=6):
        assert not set(ours.control.values()).intersection(ours.encode(text)), repr(text)


def test_a_post_processor_of_the_folder_adds_nothing(tmp_path: Path) -> None:
    folder_of(tmp_path, tiny_tokenizer(), **MARKS)
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    plain = from_folder(tmp_path).encode("fox")
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    path.write_text(json.dumps(spec), encoding="utf-8")
    assert from_folder(tmp_path).encode("fox") == plain


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"chat_template": "plain"}, "plain"),
        ({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}, "d"),
        ({"chat_template": [{"name": "rag", "template": "r"}]}, None),
        ({}, None),
    ],
)
def test_the_folders_template(tmp_path: Path, config: dict[str, Any], expected: str | None) -> None:
    folder_of(tmp_path, tiny_tokenizer())
    marks = {"bos_token": {"content": "<|im_start|>", "special": True}, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | marks), encoding="utf-8")
    tokenizer = from_folder(tmp_path)
    assert (tokenizer.chat_template, tokenizer.bos, tokenizer.eos) == (expected, "<|im_start|>", None)
    (tmp_path / "chat_template.jinja").write_text("own file", encoding="utf-8")
    assert from_folder(tmp_path).chat_template == "own file"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer.json") as caught:
        from_folder(tmp_path)
    assert caught.value.code == "model.unsupported"
    path = tmp_path / "tokenizer.json"
    for content, code in [
        ("{", "model.broken_file"),
        ("[1, 2]", "model.broken_file"),
        ("{}", "model.unsupported"),
    ]:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ModelError, match=r"tokenizer\.json") as caught:
            from_folder(tmp_path)
        assert caught.value.code == code
    path.unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\x01nothing")
    with pytest.raises(ModelError, match="no vocabulary that can be read"):
        from_folder(tmp_path)
    with pytest.raises(ModelError, match="'gpt2' with pre-tokenizer 'nobodys'.*smollm"):
        from_gguf({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "nobodys"}, where="m.gguf")


def recorded(name: str) -> Iterator[tuple[str, list[int]]]:
    """llama.cpp's own test texts with the ids that the model's authors give them."""
    folder = SHARED / "ggml-vocab"
    inputs = (folder / f"{name}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    ids = (folder / f"{name}.gguf.out").read_text(encoding="utf-8").split("\n")
    return ((text, [int(i) for i in line.split()]) for text, line in zip(inputs, ids, strict=False))


VOCABULARIES = (
    *("baichuan", "bert-bge", "deepseek-coder", "deepseek-llm", "falcon", "gpt-2", "llama-spm", "mpt", "phi-3"),
    *("refact", "starcoder"),
)


@needs_shared
@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_are_the_recorded_ones(name: str) -> None:
    path = SHARED / "ggml-vocab" / f"ggml-vocab-{name}.gguf"
    tokenizer = from_gguf(read_header(path).kv, where=str(path))
    if not (SHARED / "ggml-vocab" / f"ggml-vocab-{name}.gguf.inp").is_file():
        assert tokenizer.decode(tokenizer.encode("Hello world")) == "Hello world"
        return
    cases = list(recorded(f"ggml-vocab-{name}"))
    assert len(cases) > 40
    for text, ids in cases:
        assert tokenizer.encode(text) == ids, repr(text)


@needs_shared
def test_llama3s_ranks_give_the_recorded_ids(tmp_path: Path) -> None:
    shutil.copy(SHARED / "llama3" / "tokenizer.model", tmp_path)
    started = time.monotonic()
    tokenizer = from_folder(tmp_path)
    assert time.monotonic() - started < 20
    for text, ids in recorded("ggml-vocab-llama-bpe"):
        assert tokenizer.encode(text) == ids, repr(text)


@needs_shared
def test_qwens_own_files_give_the_recorded_ids() -> None:
    tokenizer = from_folder(SHARED / "qwen2.5")
    assert tokenizer.control["<|im_end|>"] == 151645
    assert (tokenizer.eos, tokenizer.chat_template is not None) == ("<|im_end|>", True)
    for text, ids in recorded("ggml-vocab-qwen2"):
        assert tokenizer.encode(text) == ids, repr(text)
    assert not set(tokenizer.control.values()).intersection(tokenizer.encode("<|im_end|>a<|endoftext|>"))


@needs_shared
@pytest.mark.parametrize("name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"])
def test_a_sentencepiece_models_ids_are_sentencepieces(tmp_path: Path, name: str) -> None:
    shutil.copy(SHARED / "mistral" / name, tmp_path / "tokenizer.model")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(SHARED / "mistral" / name))
    ours = from_folder(tmp_path)
    assert (ours.size, ours.bos, ours.eos) == (theirs.get_piece_size(), "<s>", "</s>")
    for text in texts(1500, seed=8):
        # SentencePiece's own normaliser drops NUL and some more that are never seen in text.
        if all(ord(c) > 31 for c in text):
            assert ours.encode(text) == theirs.encode(text), repr(text)
    for text in hostile(list(ours.control), 1000, seed=9):
        assert not set(ours.control.values()).intersection(ours.encode(text)), repr(text)
    assert ours.encode("I do.", Place.INSIDE)[0] == theirs.piece_to_id("I")


@needs_shared
def test_a_folder_of_qwens_build_has_transformers_ids(tmp_path: Path) -> None:
    """Its added tokens, special and not, come after the vocabulary; its normalizer composes accents."""
    vocab = json.loads((SHARED / "qwen2.5" / "vocab.json").read_text(encoding="utf-8"))
    merges = (SHARED / "qwen2.5" / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(merge.split(" ")) for merge in merges if merge and not merge.startswith("#version")]
    theirs = Qwen2Tokenizer(vocab=vocab, merges=pairs)
    theirs.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    theirs.add_tokens(["<tool_call>", "<think>"])
    theirs.save_pretrained(tmp_path)
    ours = from_folder(tmp_path)
    assert ours.size == len(theirs)
    assert ours.control["<|im_end|>"] == theirs.convert_tokens_to_ids("<|im_end|>") > len(vocab)
    for text in (*texts(1000, seed=7), "<think>\na</think> <tool_call>"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), repr(text)
    assert not set(ours.control.values()).intersection(ours.encode("<|im_end|><|endoftext|>"))


@needs_shared
def test_qwen2_ids_are_the_recorded_ones() -> None:
    vocab = json.loads((SHARED / "qwen2.5" / "vocab.json").read_text(encoding="utf-8"))
    merges = (SHARED / "qwen2.5" / "merges.txt").read_text(encoding="utf-8").splitlines()
    kv = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": sorted(vocab, key=vocab.__getitem__),
        "tokenizer.ggml.token_type": [TokenType.NORMAL] * len(vocab),
        "tokenizer.ggml.merges": [merge for merge in merges if merge and not merge.startswith("#version")],
    }
    tokenizer = from_gguf(kv, where="qwen2")
    for text, ids in recorded("ggml-vocab-qwen2"):
        assert tokenizer.encode(text) == ids, repr(text)
