"""The full next-token distributions that llama.cpp computes over given text: what the parity gate compares.

The server endpoints give log-probabilities of the tokens they generate, never of a text that is put to them, and never
the whole vocabulary. So a worker of its own calls llama.cpp's C functions; `logits_worker` says how.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fledge.runtime.llama import require_gguf
from fledge.runtime.process import WorkerProcess
from fledge.runtime.threads import usable_cores


@dataclass(frozen=True)
class Scoring:
    """Token ids as they are put to the model (BOS included where it is wanted), and where to look.

    `positions` are strictly ascending; position p asks for what the model expects after ids[0..p].
    """

    ids: list[int]
    positions: list[int]

    def __post_init__(self) -> None:
        assert self.ids and self.positions, "nothing to score"
        assert self.positions == sorted(set(self.positions)), "positions must be strictly ascending"
        assert self.positions[0] >= 0 and self.positions[-1] < len(self.ids), "a position outside the sequence"


def token_logps(
    path: Path,
    sequences: Sequence[list[int]],
    *,
    adapter: Path | None = None,
    invocation: Sequence[int] = (),
    threads: int | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield, for each sequence of n ids, the n - 1 log-probabilities of ids[1:], each given those before it, in nats.

    The options and errors are those of `logits`.
    """
    settings = _settings(path, adapter, invocation, max(map(len, sequences), default=1), threads)
    where = str(path) if adapter is None else f"{path} with {adapter}"
    with closing(WorkerProcess("fledge.runtime.logits_worker", settings, where=where, start_timeout_s=60.0)) as worker:
        for ids in sequences:
            assert len(ids) > 1, "nothing to foretell"
            worker.send({"ids": ids[:-1], "positions": list(range(len(ids) - 1)), "targets": ids[1:]})
            yield np.frombuffer(worker.receive((len(ids) - 1) * 4), dtype="<f4")


def _settings(
    path: Path, adapter: Path | None, invocation: Sequence[int], context_tokens: int, threads: int | None
) -> dict[str, Any]:
    require_gguf(path)
    if adapter is not None:
        require_gguf(adapter, code="model.bad_adapter")
    return {
        "path": str(path.resolve()),
        "adapter": None if adapter is None else str(adapter.resolve()),
        "invocation": list(invocation),
        "context_tokens": context_tokens,
        "threads": threads or usable_cores(),
    }


def logits(
    path: Path,
    sequences: Sequence[Scoring],
    *,
    adapter: Path | None = None,
    invocation: Sequence[int] = (),
    threads: int | None = None,
    start_timeout_s: float = 60.0,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield one array [len(positions), V] of raw logits per sequence, in order; each is computed when it is asked for.

    `adapter` is a LoRA GGUF file, applied at full strength; with `invocation`, only from where these ids stand for the
    last time in a sequence, and nowhere where they do not stand. Raises ModelError for a file that is no GGUF file,
    EngineError("engine.start") when llama.cpp refuses it and EngineError("engine.died") when the worker is lost.
    """
    settings = _settings(path, adapter, invocation, max((len(s.ids) for s in sequences), default=1), threads)
    where = str(path) if adapter is None else f"{path} with {adapter}"
    process = WorkerProcess("fledge.runtime.logits_worker", settings, where=where, start_timeout_s=start_timeout_s)
    with closing(process) as worker:
        vocab_size = worker.hello["vocab_size"]
        for sequence in sequences:
            worker.send({"ids": sequence.ids, "positions": sequence.positions})
            num_rows = len(sequence.positions)
            rows = worker.receive(num_rows * vocab_size * 4)
            yield np.frombuffer(rows, dtype="<f4").reshape(num_rows, vocab_size)
