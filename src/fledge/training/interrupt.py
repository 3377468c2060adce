"""Ctrl-C between optimizer steps, never inside one: half an update must not reach a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed. A second Ctrl-C interrupts at once, as usual."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only; whoever owns it decides there.
        yield pressed.is_set
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
