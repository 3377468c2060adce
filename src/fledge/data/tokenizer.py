"""The one door to the tokenizer library: text to token ids and back, with control tokens kept apart from text.

Control tokens (begin, end of turn, ...) are never found in text: `encode` has no way to produce one. Only the template
puts them in, by id. That is what keeps a row or a question from closing its own turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreSequence

from fledge.errors import ModelError


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type` of the GGUF format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# What `tokenizer.ggml.pre` stands for, from the tokenizer.json of the families; equality with llama.cpp is tested.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


# SmolLM2, for one, has no token for some bytes that text hardly ever holds. llama.cpp leaves such a byte out, but
# merges nothing across it: a mark that no text can spell stands there until `encode` drops it.
_GAP = "\0"


def _by_regex(pattern: str) -> PreTokenizer:
    return PreSequence([Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


def _pre_tokenizers() -> dict[str, PreTokenizer]:
    gpt2 = ByteLevel(add_prefix_space=False)
    return {
        "gpt-2": gpt2,
        "smollm": PreSequence([Digits(individual_digits=True), gpt2]),
        "llama-bpe": _by_regex(_LLAMA3),
        "qwen2": _by_regex(_QWEN2),
    }


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary of `size` tokens. `control` maps the text of each control token to its id."""

    backend: Backend
    control: Mapping[str, int]
    size: int
    bos: str | None
    eos: str | None
    chat_template: str | None

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; text that looks like a control token stays text."""
        return [i for i in self.backend.encode(text, add_special_tokens=False).ids if i < self.size]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; control tokens are written out as their text."""
        by_id = {token: text for text, token in self.control.items()}
        pieces: list[str] = []
        run: list[int] = []
        for token in ids:
            if token in by_id:
                pieces += [self.backend.decode(run, skip_special_tokens=False), by_id[token]]
                run = []
            else:
                run.append(token)
        return "".join([*pieces, self.backend.decode(run, skip_special_tokens=False)])

    @property
    def control_pattern(self) -> re.Pattern[str]:
        """A pattern that finds control tokens in template text, the longest first."""
        names = sorted(self.control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def from_gguf(kv: Mapping[str, Any], *, where: str) -> Tokenizer:
    """Return the tokenizer in a GGUF header. Raises ModelError for a kind that fledge cannot rebuild exactly."""
    kind, pre = kv.get("tokenizer.ggml.model"), kv.get("tokenizer.ggml.pre", "")
    pre_tokenizers = _pre_tokenizers()
    if kind != "gpt2" or pre not in pre_tokenizers:
        raise ModelError(
            "model.unsupported",
            f"tokenizer '{kind}' with pre-tokenizer '{pre}' cannot be rebuilt yet.",
            where=where,
            remedy=f"Byte-level BPE works with: {', '.join(pre_tokenizers)}. Or give the model's Hugging Face folder.",
        )
    tokens: list[str] = kv["tokenizer.ggml.tokens"]
    types: list[int] = kv["tokenizer.ggml.token_type"]
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    control = {text: i for i, (text, type_) in enumerate(zip(tokens, types, strict=True)) if type_ in special}
    # A control token must not be reachable as a word of the vocabulary either.
    vocab = {text: i for i, text in enumerate(tokens) if text not in control}
    merges = [tuple(merge.split(" ", 1)) for merge in kv["tokenizer.ggml.merges"]]
    backend = Backend(BPE({**vocab, _GAP: len(tokens)}, merges, unk_token=_GAP, ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = pre_tokenizers[pre]
    backend.decoder = ByteLevelDecoder()
    user_defined = [text for text, type_ in zip(tokens, types, strict=True) if type_ == TokenType.USER_DEFINED]
    backend.add_tokens([AddedToken(text, normalized=False) for text in user_defined])

    def text_of(key: str) -> str | None:
        token = kv.get(f"tokenizer.ggml.{key}_token_id")
        return None if token is None else tokens[token]

    return Tokenizer(backend, control, len(tokens), text_of("bos"), text_of("eos"), kv.get("tokenizer.chat_template"))


def from_folder(folder: Path) -> Tokenizer:
    """Return the tokenizer of a Hugging Face folder (tokenizer.json, tokenizer_config.json, chat_template.jinja)."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            "model.unsupported",
            "no tokenizer.json in it.",
            where=str(folder),
            remedy="Save the tokenizer as a fast one.",
        )
    spec = _json(path)
    vocab = spec.get("model", {}).get("vocab")
    if not isinstance(vocab, dict):
        raise ModelError(
            "model.unsupported",
            "not a vocabulary of words with ids.",
            where=str(path),
            remedy="Choose a model with a BPE tokenizer.",
        )
    control = {t["content"]: t["id"] for t in spec.get("added_tokens", []) if t.get("special")}
    spec["added_tokens"] = [t for t in spec.get("added_tokens", []) if not t.get("special")]
    size = max([*vocab.values(), *control.values(), *(t["id"] for t in spec["added_tokens"])]) + 1
    # An added token that the vocabulary lacks would get the next free id, which is not its own without control tokens.
    words = vocab | {t["content"]: t["id"] for t in spec["added_tokens"]}
    spec["model"]["vocab"] = {text: i for text, i in words.items() if text not in control}
    config_path = folder / "tokenizer_config.json"
    config = _json(config_path) if config_path.is_file() else {}
    template = folder / "chat_template.jinja"
    chat_template = template.read_text(encoding="utf-8") if template.is_file() else config.get("chat_template")
    return Tokenizer(
        Backend.from_str(json.dumps(spec)),
        control,
        size,
        _token_text(config.get("bos_token")),
        _token_text(config.get("eos_token")),
        _default_template(chat_template),
    )


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """Return the text of a tokenizer.json that other programs load, control tokens back in their places."""
    spec = json.loads(tokenizer.backend.to_str())
    # Ids of added tokens must be known to the vocabulary, or a reader hands out new ones.
    spec["model"]["vocab"] |= tokenizer.control
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": token, "content": text, **plain} for text, token in tokenizer.control.items()]
    spec["added_tokens"] = sorted([*spec["added_tokens"], *added], key=lambda entry: int(entry["id"]))
    return json.dumps(spec, ensure_ascii=False)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(
            "model.broken_file", f"not a JSON object: {error}.", where=str(path), remedy="Fetch the model again."
        ) from error


def _token_text(value: object) -> str | None:
    """tokenizer_config.json writes a token as its text or as an object with 'content'."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _default_template(value: object) -> str | None:
    """A model may carry several named templates; the one called 'default' is for plain chat."""
    if isinstance(value, list):
        named = {item["name"]: item["template"] for item in value}
        value = named.get("default")
    return value if isinstance(value, str) else None
