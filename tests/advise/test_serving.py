"""What answering takes, against what llama.cpp takes for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fledge.advise.serving import cache_bytes, serving
from fledge.model.catalog import get
from fledge.model.catalog_shape import shape_of
from fledge.model.weights import open_weights
from fledge.records import Message
from fledge.runtime.llama import Llama, Sampling


def taken(path: Path, context_tokens: int) -> dict[str, int]:
    """Return the bytes that the process of llama.cpp holds after it has answered, by kind."""
    with Llama(path, context_tokens=context_tokens) as llama:
        llama.chat([Message("user", "word " * 600)], sampling=Sampling(max_tokens=8))
        lines = Path(f"/proc/{llama.worker_pid}/status").read_text(encoding="ascii").splitlines()
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Rss")}


def test_serving_takes_what_was_told(starter_gguf: Path) -> None:
    shape = open_weights(starter_gguf).shape
    held = {context: taken(starter_gguf, context) for context in (1024, 8192)}
    for context, found in held.items():
        told = serving(shape, starter_gguf.stat().st_size, context_tokens=context)
        assert told.bytes == pytest.approx(found["RssAnon"] + found["RssFile"], rel=0.15)
    grown = held[8192]["RssAnon"] - held[1024]["RssAnon"]
    assert cache_bytes(shape, 8192) - cache_bytes(shape, 1024) == pytest.approx(grown, rel=0.03)


def test_queries_that_share_keys_and_windows_make_the_cache_smaller() -> None:
    llama, gemma = (shape_of(get(name)) for name in ("llama-3.1-8b", "gemma-3-1b"))
    assert cache_bytes(llama, 4096) == 4096 * 32 * 2 * 8 * 128 * 2
    whole = replace(llama, num_kv_heads=llama.num_heads)
    assert cache_bytes(whole, 4096) == 4 * cache_bytes(llama, 4096)
    assert cache_bytes(llama, 4096, cache_type="q8_0") / cache_bytes(llama, 4096) == pytest.approx(34 / 64)
    # Of 26 layers every sixth sees everything; the others hold their window and what is read at once.
    a_token = 2 * 256 * 2
    assert cache_bytes(gemma, 32_768) == a_token * (4 * 32_768 + 22 * 1024)
