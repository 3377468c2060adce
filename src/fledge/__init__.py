"""fledge: raise a small language model on your own PC until it can fly on its own."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

# What Python programs use. `api` is opened when one of these is asked for: `import fledge` stays light.
_OFFERED = ("Chat", "Release", "Run", "chat", "evaluate", "export", "train")

__all__ = ["__version__", *_OFFERED]


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module 'fledge' has no attribute {name!r}")
    from fledge import api

    return getattr(api, name)
