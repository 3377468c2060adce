"""Stop strings, held against text that arrives in pieces.

llama.cpp's own server can do this, but when an answer is cut by its length while the end of it might begin a stop
string, a streamed answer loses that end. So the client does it, for streamed and whole answers alike.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Lets text through up to the first stop string that is completed. The result does not depend on the pieces."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return the text that is now safe to show; what may be the beginning of a stop string is held back."""
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            # The one completed first; of those completed by the same character, the one that began first.
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        num_safe = len(text) - self._num_open(text)
        self._held = text[num_safe:]
        return text[:num_safe]

    def rest(self) -> str:
        """Return what was held back, to be shown when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _num_open(self, text: str) -> int:
        """Return the length of the longest end of `text` with which a stop string begins."""
        longest = min(len(text), max(map(len, self._stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self._stop)), 0)
