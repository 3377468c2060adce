"""What answering takes, from a model's shape alone: the cache of keys and values, the buffers of a pass, the speed.

The sizes are those that llama.cpp allocates; tests/advise holds them against what it says itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from fledge.model.shape import Shape

# Numbers of a block and its bytes, by type.
CACHE_TYPES = {"f16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}
# So many tokens are read at once; a layer with a window keeps so many more than it sees. Caches grow in steps.
READ_AT_ONCE, CACHE_STEP = 512, 256
# The program itself: code, tokenizer, threads.
PROGRAM_BYTES = 58 << 20


def cache_bytes(shape: Shape, context_tokens: int, *, cache_type: str = "f16") -> int:
    """Return the bytes of keys and values of one conversation of so many tokens.

    A layer holds 2 * key_width numbers a token: of grouped queries one key serves several. A layer with a sliding
    window holds no more tokens than its window and what is read at once.
    """
    block, block_bytes = CACHE_TYPES[cache_type]
    kept = 0
    for layer in range(shape.num_layers):
        window = shape.style.window(layer)
        tokens = context_tokens if not window else min(context_tokens, window + READ_AT_ONCE)
        kept += -(-tokens // CACHE_STEP) * CACHE_STEP
    return kept * 2 * shape.key_width // block * block_bytes


def buffer_bytes(shape: Shape, context_tokens: int) -> int:
    """Return the bytes of what a pass computes at once, in float32: states and the gated part of what is read."""
    rows = min(READ_AT_ONCE, context_tokens)
    return 4 * (rows * (2 * shape.ffn_width + 4 * shape.width) + shape.vocab_size)


@dataclass(frozen=True)
class Serving:
    """The memory that a file takes while it answers, in its parts."""

    file_bytes: int
    cache_bytes: int
    buffer_bytes: int
    program_bytes: int = PROGRAM_BYTES

    @property
    def bytes(self) -> int:
        return self.file_bytes + self.cache_bytes + self.buffer_bytes + self.program_bytes


def serving(shape: Shape, file_bytes: int, *, context_tokens: int, cache_type: str = "f16") -> Serving:
    """Return what it takes to answer from a file of this size with so much room."""
    return Serving(
        file_bytes,
        cache_bytes(shape, context_tokens, cache_type=cache_type),
        buffer_bytes(shape, context_tokens),
    )
