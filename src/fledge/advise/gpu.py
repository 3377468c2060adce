"""Which graphics card training would need. Nothing here was measured on one; each part is told."""

from __future__ import annotations

from collections.abc import Mapping

# The driver's context, the libraries' workspaces and what the allocator leaves between blocks.
CUDA_BYTES = 700 << 20
# Cards as they are sold, in GiB.
CARDS_GIB = (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 80, 96, 141, 192)
# A desktop takes some of a card's memory.
FREE = 0.94


def gpu_bytes(parts: Mapping[str, int], weight_bytes: int) -> int:
    """Return the memory that training takes on a card: the weights as they are held there, and what steps need.

    parts: those of a plan of memory on this machine, whose process and weights stay in the machine's own memory.
    """
    return CUDA_BYTES + weight_bytes + sum(size for what, size in parts.items() if what not in ("process", "weights"))


def smallest_card(needed_bytes: int) -> int | None:
    """Return the GiB of the smallest card that holds so much, None where no single one does."""
    return next((card for card in CARDS_GIB if FREE * card * 2**30 >= needed_bytes), None)
