"""What this machine and this installation can do, for `fledge doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict
from typing import Any

import fledge
from fledge.model.memory import memory_bytes
from fledge.runtime.threads import usable_cores

# What each extra is for; the modules that show whether it is there.
EXTRAS = {
    "train": (("torch", "transformers"), "training, and comparing an export with the trained weights"),
    "sweep": (("optuna",), "trying knobs in turn"),
}


def missing_extras() -> list[dict[str, Any]]:
    """Return the extras of which a module is not installed, each with why it is there and how to get it."""
    return [
        {"extra": extra, "why": why, "install": f"pip install 'fledge[{extra}]'", "modules": modules}
        for extra, (modules, why) in EXTRAS.items()
        if not all(importlib.util.find_spec(module) for module in modules)
    ]


def inspect_machine() -> dict[str, Any]:
    """Return what the contract says of `fledge doctor`. Without torch its part is None."""
    missing = missing_extras()
    found: dict[str, Any] = {
        "version": fledge.__version__,
        "python": platform.python_version(),
        "torch": None,
        "device": "cpu",
        "dtype": None,
        "dtype_reason": None,
        "gemm_gflops": None,
        "runtime": f"llama.cpp (xllamacpp {importlib.metadata.version('xllamacpp')})",
        "missing": missing,
    }
    if any(extra["extra"] == "train" for extra in missing):
        total, free = memory_bytes()
        return found | {"threads": usable_cores(), "ram_bytes": total, "ram_free_bytes": free}
    import torch

    from fledge.model.hardware import survey

    return found | {"torch": torch.__version__} | asdict(survey())
