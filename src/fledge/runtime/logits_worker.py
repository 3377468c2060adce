"""The process that computes logits for `fledge.runtime.logits`: `python -m fledge.runtime.logits_worker`.

Protocol. In: one JSON line of settings (`path, adapter, context_tokens, threads`), then one JSON line
`{"ids": [...], "positions": [...]}` per sequence. Out: one JSON line `{"vocab_size": V}` when ready, then per sequence
len(positions) * V little-endian float32, row after row; where a line names `targets`, one for each position, only the
log-probability of each, float32. A line `{"timed": n}` gives the seconds of n tokens, computed one after the other,
float32 each. It runs until stdin ends; whatever goes wrong ends the process with the words on stderr.

Why ctypes: no endpoint of the server gives whole distributions over a given text, and the wheel's Python classes reach
the server only, but its library exports the C interface. The wheel is pinned to one build. The two parameter structs,
which upstream changes often, are opaque here: made by llama.cpp's own `*_default_params` and handed back by value. Of
their fields we set only the context's first three (`n_ctx, n_batch, n_ubatch`), then ask llama.cpp what it read.
`llama_batch` has been the same for years.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from fledge.runtime.invocation import begins_at
from fledge.runtime.worker import claim_stdout

CONTEXT_MULTIPLE = 256  # llama.cpp rounds n_ctx up to this
# llama.cpp keeps this many rows of logits: 131 MB for a vocabulary of 256 000. Larger batches are no faster on a CPU.
BATCH_TOKENS = 128
LOG_LEVEL_ERROR = 4  # GGML_LOG_LEVEL_ERROR


class Params(ctypes.Structure):
    """Room for a parameter struct of any layout (both have less than 300 bytes today)."""

    _fields_ = [("words", c_uint32 * 512)]


class Batch(ctypes.Structure):
    """`llama_batch` of llama.h."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


def log_error(level: int, text: bytes, _: int) -> None:
    """Write llama.cpp's errors to stderr in the form in which its server does."""
    if level == LOG_LEVEL_ERROR:
        sys.stderr.write(f"0 E {text.decode(errors='replace')}")
        sys.stderr.flush()


# Kept by name: llama.cpp calls it for as long as the process lives.
LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)(log_error)

# name: (result, arguments), from llama.h
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "llama_log_set": (None, [c_void_p, c_void_p]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (Params, []),
    "llama_context_default_params": (Params, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, Params]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, Params]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
    "llama_n_batch": (c_uint32, [c_void_p]),
    "llama_n_ubatch": (c_uint32, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_set_adapters_lora": (c_int32, [c_void_p, POINTER(c_void_p), ctypes.c_size_t, POINTER(c_float)]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, ctypes.c_bool]),
    "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits_ith": (POINTER(c_float), [c_void_p, c_int32]),
}


def load_library() -> ctypes.CDLL:
    """Return the library inside the wheel, its functions declared, without importing the wheel's Python side."""
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None, "xllamacpp is a dependency of fledge"
    [path] = Path(spec.origin).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Scorer:
    """A model in this process. Raises RuntimeError where llama.cpp gives up; its own words are on stderr by then."""

    def __init__(
        self, path: str, *, adapter: str | None, invocation: list[int], context_tokens: int, threads: int
    ) -> None:
        self.llama = load_library()
        self.llama.llama_log_set(LOG_CALLBACK, None)
        self.llama.llama_backend_init()
        self.model = self.llama.llama_model_load_from_file(path.encode(), self.llama.llama_model_default_params())
        if not self.model:
            raise RuntimeError("the model could not be loaded")
        self.vocab_size = int(self.llama.llama_vocab_n_tokens(self.llama.llama_model_get_vocab(self.model)))
        self.context = self._new_context(-(-context_tokens // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE)
        self.llama.llama_set_n_threads(self.context, threads, threads)
        self.invocation, self.adapter = invocation, None if adapter is None else self._load(adapter)
        self._switch(on=True)
        self.batch = self.llama.llama_batch_init(BATCH_TOKENS, 0, 1)

    def rows(self, ids: list[int], positions: list[int]) -> Iterator[bytes]:
        """Yield the logits after each of the ascending `positions`, V float32 each."""
        wanted = set(positions)
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        begin = begins_at(ids, self.invocation)
        begin = len(ids) if begin is None else begin
        cuts = sorted({*range(0, len(ids), BATCH_TOKENS), begin} - {len(ids)})
        for start, end in itertools.pairwise([*cuts, len(ids)]):
            if self.invocation and start in (0, begin):
                self._switch(on=start >= begin)
            part = ids[start:end]
            self._decode(part, start, wanted)
            for i in range(len(part)):
                if self.batch.logits[i]:
                    yield ctypes.string_at(self.llama.llama_get_logits_ith(self.context, i), self.vocab_size * 4)

    def timed(self, tokens: int) -> bytes:
        """Return the seconds that each of so many tokens took, one after the other, float32."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        taken = np.zeros(tokens, dtype="<f4")
        for place in range(tokens):
            started = time.perf_counter()
            self._decode([0], place, {place})
            # It computes in the background until somebody asks for what came out.
            self.llama.llama_get_logits_ith(self.context, 0)
            taken[place] = time.perf_counter() - started
        return taken.tobytes()

    def _decode(self, part: list[int], start: int, wanted: set[int]) -> None:
        """Compute tokens that stand at `start`; logits are kept at the `wanted` places."""
        self.batch.n_tokens = len(part)
        for i, token in enumerate(part):
            self.batch.token[i] = token
            self.batch.pos[i] = start + i
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = 0
            self.batch.logits[i] = start + i in wanted
        if status := self.llama.llama_decode(self.context, self.batch):
            raise RuntimeError(f"llama_decode failed with status {status} at token {start}")

    def _new_context(self, context_tokens: int) -> int:
        params = self.llama.llama_context_default_params()
        asked = (context_tokens, BATCH_TOKENS, BATCH_TOKENS)
        params.words[0], params.words[1], params.words[2] = asked
        context = self.llama.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError("no context could be made; most often there is too little memory")
        got = tuple(f(context) for f in (self.llama.llama_n_ctx, self.llama.llama_n_batch, self.llama.llama_n_ubatch))
        if got != asked:
            raise RuntimeError(f"llama_context_params has another layout: asked for {asked}, got {got}")
        return int(context)

    def _load(self, path: str) -> int:
        adapter = self.llama.llama_adapter_lora_init(self.model, path.encode())
        if not adapter:
            raise RuntimeError("the adapter could not be loaded")
        return int(adapter)

    def _switch(self, *, on: bool) -> None:
        """Let the adapter act, or not, on what is decoded from now on."""
        if self.adapter is None:
            return
        adapters, count = (c_void_p * 1)(self.adapter), 1 if on else 0
        if self.llama.llama_set_adapters_lora(self.context, adapters, count, (c_float * 1)(1.0)):
            raise RuntimeError("the adapter could not be applied")


def log_probability(row: bytes, target: int) -> bytes:
    """Return the log-probability of `target` under a row of logits, in nats, as one float32; the sum is in float64."""
    logits = np.frombuffer(row, dtype="<f4").astype(np.float64)
    best = logits.max()
    return np.float32(logits[target] - best - np.log(np.exp(logits - best).sum())).tobytes()


def main() -> None:
    stdout = os.fdopen(claim_stdout(), "wb")
    scorer = Scorer(**json.loads(sys.stdin.readline()))
    stdout.write(json.dumps({"vocab_size": scorer.vocab_size}).encode() + b"\n")
    stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        if "timed" in asked:
            stdout.write(scorer.timed(asked["timed"]))
            stdout.flush()
            continue
        targets = asked.pop("targets", None)
        for number, row in enumerate(scorer.rows(**asked)):
            stdout.write(row if targets is None else log_probability(row, targets[number]))
        stdout.flush()
    os._exit(0)  # as in `worker`: there is nothing to save, and native destructors only cost time


if __name__ == "__main__":
    main()
