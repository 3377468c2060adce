"""The kinds of vocabulary that models come with, each rebuilt for the tokenizer library from what a file holds of it.

Byte-level BPE with the splits of each family, SentencePiece (BPE and unigram), WordPiece, and tiktoken's ranks.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Punctuation, Split
from tokenizers.pre_tokenizers import Sequence as PreSequence

# The splits of the families, from their tokenizer.json; equality with llama.cpp's and with gold ids is tested.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# SmolLM2, for one, has no token for some bytes that text hardly ever holds. llama.cpp leaves such a byte out, but
# merges nothing across it: a mark that no text can spell stands there until `encode` drops it.
GAP = "\0"
SPACE = "\u2581"


def _by_regex(*patterns: str) -> PreTokenizer:
    splits = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return PreSequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level_splits() -> dict[str, PreTokenizer]:
    """Return the splits of byte-level BPE by llama.cpp's name for them (`tokenizer.ggml.pre`)."""
    gpt2 = ByteLevel(add_prefix_space=False)
    digits = PreSequence([Digits(individual_digits=True), gpt2])
    deepseek = _by_regex(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")
    falcon = PreSequence(
        [Punctuation("contiguous"), gpt2, Digits(individual_digits=False), Split(Regex("[0-9][0-9][0-9]"), "isolated")]
    )
    return {
        **dict.fromkeys(("gpt-2", "mpt", "olmo", "jina-v2-code"), gpt2),
        **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), digits),
        **dict.fromkeys(("deepseek-llm", "deepseek-coder"), deepseek),
        **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _by_regex(_QWEN2)),
        "llama-bpe": _by_regex(_LLAMA3),
        "falcon": falcon,
    }


def byte_level(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], pre: str, *, gap: int) -> Backend:
    """Return byte-level BPE. `gap` is the id of what has no token; it must be beyond the vocabulary."""
    backend = Backend(BPE({**vocab, GAP: gap}, list(merges), unk_token=GAP, ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = byte_level_splits()[pre]
    backend.decoder = decoders.ByteLevel()
    return backend


def sentencepiece_bpe(vocab: Mapping[str, int], scores: Sequence[float]) -> Backend:
    """Return SentencePiece's BPE: the pair with the best score merges first. `scores` by id.

    A merge is every way to cut a piece into two pieces of the vocabulary (Kudo and Richardson, 2018, arXiv:1808.06226).
    """
    merges = [
        (-scores[token], vocab[piece[:cut]], vocab[piece[cut:]], piece[:cut], piece[cut:])
        for piece, token in vocab.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    merges.sort(key=lambda merge: merge[:3])
    pairs = [(left, right) for *_, left, right in merges]
    backend = Backend(BPE(dict(vocab), pairs, fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def sentencepiece_unigram(pieces: Sequence[tuple[str, float]]) -> Backend:
    """Return SentencePiece's unigram model: the likeliest cut of a text."""
    backend = Backend(Unigram(list(pieces), None, byte_fallback=any(piece == "<0x0A>" for piece, _ in pieces)))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "never")
    backend.decoder = decoders.Metaspace(SPACE, "never")
    return backend


def word_piece(vocab: Mapping[str, int], *, unknown: tuple[str, int], lowercase: bool = True) -> Backend:
    """Return BERT's WordPiece. Pieces that go on with a word begin with ##; `unknown` is the text and id of none."""
    text, token = unknown
    backend = Backend(WordPiece({**vocab, text: token}, unk_token=text, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def normalise(backend: Backend, form: str) -> None:
    """Let text be brought into a Unicode normal form first."""
    backend.normalizer = {"NFC": normalizers.NFC, "NFKC": normalizers.NFKC}[form]()


def add_plain(backend: Backend, texts: Sequence[str]) -> None:
    """Add tokens that text may spell, found before anything is cut."""
    backend.add_tokens([AddedToken(text, normalized=False) for text in texts])


def read_tiktoken(data: bytes) -> dict[bytes, int]:
    """Return the ranks of a tiktoken file: a token in base64 and its rank on every line. Raises ValueError."""
    ranks = {}
    for line in data.splitlines():
        if line.strip():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    return ranks


def merges_of_ranks(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and merges of byte-level BPE for tiktoken's ranks: a token's rank is its merge's."""
    letters = _byte_letters()
    vocab = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    merges = [
        (rank, ranks[token[:cut]], ranks[token[cut:]], token[:cut], token[cut:])
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    merges.sort(key=lambda merge: merge[:3])
    spelled = [
        ("".join(letters[byte] for byte in left), "".join(letters[byte] for byte in right))
        for *_, left, right in merges
    ]
    return vocab, spelled


def _byte_letters() -> list[str]:
    """Return GPT-2's letter for each byte: itself where it is seen in print, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printed else chr(next(others)) for byte in range(256)]


@dataclass(frozen=True)
class PieceModel:
    """A SentencePiece model file. `kinds` by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    unigram: bool = True
    prefix: bool = True


def read_sentencepiece(data: bytes) -> PieceModel:
    """Return what a SentencePiece model holds. Raises ValueError for what is none.

    The file is a protocol buffer (sentencepiece_model.proto): 1 pieces, 2 how it was trained, 3 how text is normalised.
    """
    pieces, scores, kinds = [], [], []
    unigram, prefix = True, True
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            held = dict(_fields(value))
            text, score, kind = held.get(1, b""), held.get(2, 0), held.get(3, 1)
            if not isinstance(text, bytes) or not isinstance(score, int) or not isinstance(kind, int):
                raise ValueError("a piece without a text")
            pieces.append(text.decode("utf-8"))
            scores.append(struct.unpack("<f", score.to_bytes(4, "little"))[0])
            kinds.append(kind)
        elif number == 2 and isinstance(value, bytes):
            unigram = dict(_fields(value)).get(3, 1) == 1
        elif number == 3 and isinstance(value, bytes):
            prefix = dict(_fields(value)).get(3, 1) == 1
    if not pieces:
        raise ValueError("no pieces")
    return PieceModel(pieces, scores, kinds, unigram, prefix)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield (field number, value) of a protocol buffer: whole numbers and fixed ones as int, the rest as bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _varint(data, place)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or place + size > len(data):
            raise ValueError("not a protocol buffer")
        held = data[place : place + size]
        yield key >> 3, held if kind == 2 else int.from_bytes(held, "little")
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("not a protocol buffer")
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
