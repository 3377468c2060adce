"""What texts mean, as vectors: llama.cpp's own, of any GGUF file, one that was made for it or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from fledge.runtime.llama import Llama

# Longer texts are cut: what a chunk holds fits.
TEXT_TOKENS = 512


class Embedder:
    """A GGUF file that turns texts into vectors. A context manager.

    Raises what Llama raises: ModelError for a file that is no GGUF file, EngineError where llama.cpp refuses it.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._llama = Llama(path, context_tokens=TEXT_TOKENS, embeds=True, threads=threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._llama.close()

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector of length 1 for each text [n, width]; of a long text what its first tokens mean."""
        cut = [self._cut(text) for text in texts]
        answer = self._llama.post("/v1/embeddings", {"input": cut, "encoding_format": "float"})
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        return np.array([row["embedding"] for row in rows], dtype=np.float32)

    def _cut(self, text: str) -> list[int]:
        ids = self._llama.tokenize(text, parse_special=False, add_special=True)
        return ids[:TEXT_TOKENS] or self._llama.tokenize(" ", parse_special=False)
