"""Fixtures that hand every test the real parts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The real SmolLM2-135M-Instruct Q4_1 file, pulled once into the user's model cache."""
    from fledge.model.pull import pull

    return pull("smollm2-135m").path


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's FLEDGE_* settings, except where the model cache is."""
    for name in [n for n in os.environ if n.startswith("FLEDGE_") and n != "FLEDGE_HOME"]:
        monkeypatch.delenv(name)
