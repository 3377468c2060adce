"""tokenizer.json as other programs read it: of a tokenizer that came in another form, or with tokens added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fledge.data import vocabularies
from fledge.data.tokenizer import Tokenizer


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """Return the text of a tokenizer.json that other programs load, control tokens back in their places."""
    spec = json.loads(tokenizer.backend.to_str())
    vocab = spec["model"]["vocab"]
    if vocabularies.GAP in vocab:
        vocab[vocabularies.GAP] = tokenizer.size
    # Ids of added tokens must be known to the vocabulary, or a reader hands out new ones.
    spec["model"]["vocab"] = _with_ids(vocab, tokenizer.added) | dict(tokenizer.control)
    added = [_entry(text, token, special=True) for text, token in tokenizer.control.items()]
    added += [_entry(text, token) for text, token in tokenizer.added.items()]
    spec["added_tokens"] = sorted([*spec["added_tokens"], *added], key=lambda entry: int(entry["id"]))
    return json.dumps(spec, ensure_ascii=False)


def extended_json(text: str, added: Mapping[str, int]) -> str:
    """Return a tokenizer.json with tokens added to it that text may spell, all else as it was."""
    spec = json.loads(text)
    vocab = (spec.get("model") or {}).get("vocab")
    if isinstance(vocab, dict):
        spec["model"]["vocab"] = _with_ids(vocab, added)
    spec["added_tokens"] = [*(spec.get("added_tokens") or []), *(_entry(t, token) for t, token in added.items())]
    return json.dumps(spec, ensure_ascii=False)


def _with_ids(vocab: Mapping[str, int], added: Mapping[str, int]) -> dict[str, int]:
    """Return the vocabulary with added tokens in the places of what held their ids."""
    taken = set(added.values())
    return {text: token for text, token in vocab.items() if token not in taken} | dict(added)


def _entry(text: str, token: int, *, special: bool = False) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token, "content": text, **plain, "special": special}
