"""The one door to the tokenizer library: text to token ids and back, with control tokens kept apart from text.

Control tokens (begin, end of turn, ...) are never found in text: `encode` has no way to produce one. Only the template
puts them in, by id. That is what keeps a row or a question from closing its own turn. Added tokens are found in text,
wherever they stand, before anything else is cut: the longest first, as llama.cpp does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from fledge.data import vocabularies
from fledge.errors import ModelError


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type` of the GGUF format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Place(Enum):
    """Where a piece of text stands. SentencePiece puts a blank before text that begins, not before what goes on."""

    START = "start"
    AFTER_CONTROL = "after a control token"
    INSIDE = "inside"


# Where each kind of vocabulary puts a blank before text.
NEVER: frozenset[Place] = frozenset()
# Byte-level vocabularies whose texts begin with a token of their own.
ADD_BOS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken", "llama4")
FIRST = frozenset((Place.START,))
ALWAYS = frozenset((Place.START, Place.AFTER_CONTROL))


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary of `size` tokens. `control` maps the text of each control token to its id.

    adds_bos: whether plain text is begun with `bos`, as it was in pre-training. added: the ids of tokens that text may
    spell and the backend does not know. known: the size of the backend's own vocabulary, where it is not `size`.
    """

    backend: Backend
    control: Mapping[str, int]
    size: int
    bos: str | None
    eos: str | None
    chat_template: str | None
    blank_at: frozenset[Place] = NEVER
    adds_bos: bool = False
    added: Mapping[str, int] = field(default_factory=dict)
    known: int | None = None

    def encode(self, text: str, place: Place = Place.START) -> list[int]:
        """Return the ids of plain text; text that looks like a control token stays text."""
        ids: list[int] = []
        for piece in self._pieces(text):
            if isinstance(piece, int):
                ids.append(piece)
                place = Place.AFTER_CONTROL
            else:
                ids += self._encode(piece, place)
        return ids

    def _pieces(self, text: str) -> Sequence[str | int]:
        """Return the text cut at its added tokens, those as their ids."""
        pieces: list[str | int] = [text]
        for token in self._longest_first:
            if token in text:
                pieces = [part for piece in pieces for part in _cut(piece, token, self.added[token])]
        return pieces

    @cached_property
    def _longest_first(self) -> list[str]:
        return sorted(self.added, key=len, reverse=True)

    def _encode(self, text: str, place: Place) -> list[int]:
        if text and place in self.blank_at:
            text = f" {text}"
        size = self.size if self.known is None else self.known
        return [i for i in self.backend.encode(text, add_special_tokens=False).ids if i < size]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; control tokens are written out as their text."""
        by_id = {token: text for text, token in (*self.control.items(), *self.added.items())}
        pieces: list[str] = []
        run: list[int] = []
        place = Place.START
        for token in [*ids, None]:
            if token is not None and token not in by_id:
                run.append(token)
                continue
            text = self.backend.decode(run, skip_special_tokens=False)
            pieces.append(text.removeprefix(" ") if run and place in self.blank_at else text)
            if token is not None:
                pieces.append(by_id[token])
            run, place = [], Place.AFTER_CONTROL
        return "".join(pieces)

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides about ids."""
        held: tuple[object, ...] = (
            self.backend.to_str(),
            sorted(self.control.items()),
            self.size,
            sorted(p.name for p in self.blank_at),
        )
        held += (sorted(self.added.items()),) if self.added else ()
        return hashlib.sha256(repr(held).encode("utf-8", errors="surrogatepass")).hexdigest()

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """A pattern that finds control tokens in template text, the longest first."""
        names = sorted(self.control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def _cut(piece: str | int, token: str, number: int) -> Iterator[str | int]:
    """Yield what stands between the places of `token` in a piece, and its number for each of them."""
    if isinstance(piece, int):
        yield piece
        return
    for count, part in enumerate(piece.split(token)):
        if count:
            yield number
        if part:
            yield part


def with_added(tokenizer: Tokenizer, added: Mapping[str, int]) -> Tokenizer:
    """Return the tokenizer with tokens of one's own, by their texts, which it then finds in text."""
    return replace(
        tokenizer,
        added={**tokenizer.added, **added},
        known=tokenizer.size if tokenizer.known is None else tokenizer.known,
        size=max(tokenizer.size, *(number + 1 for number in added.values())),
    )


def from_gguf(kv: Mapping[str, Any], *, where: str) -> Tokenizer:
    """Return the tokenizer in a GGUF header. Raises ModelError for a kind that fledge cannot rebuild exactly."""
    kind, pre = kv.get("tokenizer.ggml.model"), kv.get("tokenizer.ggml.pre", "")
    if kind not in ("gpt2", "llama", "bert") or (kind == "gpt2" and pre not in vocabularies.byte_level_splits()):
        raise ModelError(
            "model.unsupported",
            f"tokenizer '{kind}' with pre-tokenizer '{pre}' cannot be rebuilt yet.",
            where=where,
            remedy=f"Byte-level BPE works with: {', '.join(vocabularies.byte_level_splits())}. "
            "Or give the model's Hugging Face folder.",
        )
    tokens: list[str] = kv["tokenizer.ggml.tokens"]
    types: list[int] = kv["tokenizer.ggml.token_type"]
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    control = {text: i for i, (text, type_) in enumerate(zip(tokens, types, strict=True)) if type_ in special}
    # A control token must not be reachable as a word of the vocabulary either.
    vocab = {text: i for i, text in enumerate(tokens) if text not in control}
    blank_at = NEVER
    if kind == "gpt2":
        merges = [(left, right) for left, right in (m.split(" ", 1) for m in kv["tokenizer.ggml.merges"])]
        backend = vocabularies.byte_level(vocab, merges, pre, gap=len(tokens))
    elif kind == "llama":
        backend = vocabularies.sentencepiece_bpe(vocab, kv["tokenizer.ggml.scores"])
        blank_at = ALWAYS if kv.get("tokenizer.ggml.add_space_prefix", True) else NEVER
    else:
        unknown = int(kv.get("tokenizer.ggml.unknown_token_id", 100))
        backend = vocabularies.word_piece(_hashed(vocab), unknown=(tokens[unknown], unknown))
    plain = {t: i for i, (t, type_) in enumerate(zip(tokens, types, strict=True)) if type_ == TokenType.USER_DEFINED}
    # Where blanks are put before text, llama.cpp puts one behind such a token too, which the library would not.
    added = plain if blank_at else _spelled_apart(plain)
    vocabularies.add_plain(backend, [text for text in plain if text not in added])

    def text_of(key: str) -> str | None:
        token = kv.get(f"tokenizer.ggml.{key}_token_id")
        return None if token is None else tokens[token]

    template = kv.get("tokenizer.chat_template")
    # What llama.cpp does where the file says nothing.
    adds_bos = bool(kv.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre in ADD_BOS))
    ends = (text_of("bos"), text_of("eos"), template)
    return Tokenizer(backend, control, len(tokens), *ends, blank_at, adds_bos, added)


def _hashed(vocab: Mapping[str, int]) -> dict[str, int]:
    """Return BERT's vocabulary as its own files write it: GGUF marks where words begin, they mark where words go on."""
    return {text[1:] if text.startswith(vocabularies.SPACE) else f"##{text}": token for text, token in vocab.items()}


def from_folder(folder: Path) -> Tokenizer:
    """Return the tokenizer of a Hugging Face folder: tokenizer.json, vocab.json with merges.txt, or tokenizer.model.

    The chat template and the names of begin and end come from tokenizer_config.json and chat_template.jinja.
    """
    config_path = folder / "tokenizer_config.json"
    config = _json(config_path) if config_path.is_file() else {}
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else _default_template(config.get("chat_template"))
    ends = (_token_text(config.get("bos_token")), _token_text(config.get("eos_token")), template)
    if (folder / "tokenizer.json").is_file():
        found = _from_spec(_json(folder / "tokenizer.json"), folder / "tokenizer.json", ends)
        told = config.get("add_bos_token")
        return found if told is None else replace(found, adds_bos=bool(told))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _from_vocab(folder, config, ends)
    if (folder / "tokenizer.model").is_file():
        return _from_model_file(folder / "tokenizer.model", config, ends)
    raise ModelError(
        "model.unsupported",
        "no tokenizer.json, vocab.json or tokenizer.model in it.",
        where=str(folder),
        remedy="Save the tokenizer beside the weights.",
    )


Ends = tuple[str | None, str | None, str | None]


def _from_spec(spec: dict[str, Any], path: Path, ends: Ends) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, its control tokens taken out of the reach of text."""
    model = spec.get("model") or {}
    vocab = model.get("vocab")
    added = spec.get("added_tokens") or []
    control = {t["content"]: t["id"] for t in added if t.get("special")}
    plain = [t for t in added if not t.get("special")]
    spec["added_tokens"] = plain
    if isinstance(vocab, dict):
        size = max([*vocab.values(), *control.values(), *(t["id"] for t in plain)]) + 1
        # An added token that the vocabulary lacks would get the next free id, not its own, without control tokens.
        words = vocab | {t["content"]: t["id"] for t in plain}
        model["vocab"] = {text: i for text, i in words.items() if text not in control}
        model["unk_token"] = model.get("unk_token") if model.get("unk_token") in model["vocab"] else None
    elif isinstance(vocab, list):
        # The place in the list is the id, so that a control token's place is held by what no text can spell.
        size = max([len(vocab) - 1, *control.values(), *(t["id"] for t in plain)]) + 1
        model["vocab"] = [
            [f"{vocabularies.GAP}{i}" if text in control else text, score] for i, (text, score) in enumerate(vocab)
        ]
    else:
        raise ModelError(
            "model.unsupported", "holds no vocabulary.", where=str(path), remedy="Save the tokenizer as a fast one."
        )
    blank_at = _take_blank(spec)
    return Tokenizer(Backend.from_str(json.dumps(spec)), control, size, *ends, blank_at, _begins(spec, ends[0]))


def _begins(spec: Mapping[str, Any], bos: str | None) -> bool:
    """Whether a tokenizer.json begins text with `bos`: what it adds around one text says so."""
    after = spec.get("post_processor") or {}
    steps = after.get("processors", [after])
    around = [part for step in steps for part in step.get("single") or []]
    return bool(around) and bos is not None and (around[0].get("SpecialToken") or {}).get("id") == bos


def _take_blank(spec: dict[str, Any]) -> frozenset[Place]:
    """Take out of a tokenizer.json what puts a blank before text; return where it did so.

    The library would put one before every piece that it is given, and pieces are cut where taught text begins.
    """
    normalizer = spec.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    kept = [step for step in steps if step.get("type") != "Prepend"]
    pre = spec.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", [pre]) if pre else []
    found = ALWAYS if len(kept) < len(steps) else NEVER
    for part in parts:
        if part.get("type") == "Metaspace":
            scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
            found = found or {"always": ALWAYS, "first": FIRST}.get(scheme, NEVER)
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)
        elif part.get("type") == "ByteLevel" and part.get("add_prefix_space"):
            part["add_prefix_space"], found = False, ALWAYS
    if len(kept) < len(steps):
        spec["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    decoder = spec.get("decoder") or {}
    if found and decoder.get("type") == "Sequence":
        decoder["decoders"] = [step for step in decoder["decoders"] if step.get("type") != "Strip"]
    elif found and decoder.get("type") == "Metaspace":
        decoder["prepend_scheme"] = "never"
    return found


def _from_vocab(folder: Path, config: Mapping[str, Any], ends: Ends) -> Tokenizer:
    """Return byte-level BPE from vocab.json and merges.txt, with the splits of the family that the config names."""
    vocab = {str(text): int(token) for text, token in _json(folder / "vocab.json").items()}
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines if not line.startswith("#version")) if b]
    control, plain = _added(config)
    family = str(config.get("tokenizer_class", "")).lower()
    pre = "qwen2" if family.startswith("qwen2") else "gpt-2"
    size = max([*vocab.values(), *control.values(), *plain.values()]) + 1
    words = {text: i for text, i in (vocab | plain).items() if text not in control}
    backend = vocabularies.byte_level(words, merges, pre, gap=size)
    added = _spelled_apart(plain)
    vocabularies.add_plain(backend, [text for text in plain if text not in added])
    if pre == "qwen2":
        vocabularies.normalise(backend, "NFC")
    return Tokenizer(backend, control, size, *ends, added=added)


def _spelled_apart(plain: Mapping[str, int]) -> dict[str, int]:
    """Return the tokens that byte-level decoding would spoil: it takes their letters for bytes."""
    return {text: token for text, token in plain.items() if not text.isascii()}


def _from_model_file(path: Path, config: Mapping[str, Any], ends: Ends) -> Tokenizer:
    """Return the tokenizer of a tokenizer.model: SentencePiece's protocol buffer, or tiktoken's ranks."""
    data = path.read_bytes()
    control, plain = _added(config)
    try:
        if re.match(rb"[A-Za-z0-9+/=]+ \d+\s", data):
            ranks = vocabularies.read_tiktoken(data)
            vocab, merges = vocabularies.merges_of_ranks(ranks)
            size = max([*vocab.values(), *control.values(), *plain.values()]) + 1
            backend = vocabularies.byte_level(vocab | plain, merges, "llama-bpe", gap=size)
            vocabularies.add_plain(backend, list(plain))
            return Tokenizer(backend, control, size, *ends)
        model = vocabularies.read_sentencepiece(data)
    except (ValueError, IndexError) as error:
        raise ModelError(
            "model.broken_file", f"no vocabulary that can be read: {error}.", where=str(path), remedy="Fetch it again."
        ) from error
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    own = {text: i for i, (text, kind) in enumerate(zip(model.pieces, model.kinds, strict=True)) if kind in special}
    control = own | control
    size = max([len(model.pieces) - 1, *control.values(), *plain.values()]) + 1
    if model.unigram:
        backend = vocabularies.sentencepiece_unigram(
            [
                (f"{vocabularies.GAP}{i}" if t in control else t, s)
                for i, (t, s) in enumerate(zip(model.pieces, model.scores, strict=True))
            ]
        )
    else:
        vocab = {text: i for i, text in enumerate(model.pieces) if text not in control}
        backend = vocabularies.sentencepiece_bpe(vocab, model.scores)
    user = [t for t, kind in zip(model.pieces, model.kinds, strict=True) if kind == TokenType.USER_DEFINED]
    vocabularies.add_plain(backend, user)
    bos, eos, template = ends
    blank_at = FIRST if model.prefix else NEVER
    bos, eos = bos or _held("<s>", own), eos or _held("</s>", own)
    adds_bos, known = bool(config.get("add_bos_token", True)), len(model.pieces)
    # The library would give what stands behind the pieces ids of its own.
    added = {text: token for text, token in plain.items() if token >= known}
    return Tokenizer(backend, control, size, bos, eos, template, blank_at, adds_bos, added, known)


def _held(text: str, control: Mapping[str, int]) -> str | None:
    return text if text in control else None


def _added(config: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Return (control, plain) tokens that a tokenizer_config.json adds."""
    held = config.get("added_tokens_decoder") or {}
    entries = [(int(token), value) for token, value in held.items() if isinstance(value, Mapping)]
    control = {str(v["content"]): token for token, v in entries if v.get("special")}
    return control, {str(v["content"]): token for token, v in entries if not v.get("special")}


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
