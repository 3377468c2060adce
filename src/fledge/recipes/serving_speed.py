"""How fast a model would answer here, before there is one: llama.cpp runs a file of its shape without numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fledge.errors import writing
from fledge.model.shape import Shape
from fledge.release.hollow import write_hollow
from fledge.runtime.speed import seconds_a_token

# A larger file is not written whole: what some of its layers take tells of the others. Larger than any cache, so that
# reading comes from memory as it does for the whole.
MOST_BYTES = 1 << 30


def tokens_per_s(
    shape: Shape, tensors: Mapping[str, Sequence[int]], types: Mapping[str, str], file_bytes: int
) -> float:
    """Return the tokens a second of one conversation that has just begun.

    tensors, types: each tensor's shape and ggml type, by GGUF name. Raises EngineError where llama.cpp can't run here.
    """
    deep = shape.num_layers
    if file_bytes > MOST_BYTES:
        deep = max(2, deep * MOST_BYTES // file_bytes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hollow.gguf"

        def seconds(num_layers: int) -> float:
            with writing(path):
                write_hollow(path, shape, tensors, types, num_layers)
            return seconds_a_token(path)

        whole = seconds(deep)
        if deep < shape.num_layers:
            shallow = deep // 2
            whole += max(0.0, whole - seconds(shallow)) / (deep - shallow) * (shape.num_layers - deep)
    return 1 / whole
