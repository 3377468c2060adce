"""Stop strings: whatever pieces a text arrives in, the same part of it is shown, and all that can be shown is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fledge.runtime.stops import StopScanner

letters = st.text(alphabet="ab", max_size=12)
stops = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


def shown(pieces: list[str], stop: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stop)
    text = ""
    for piece in pieces:
        text += scanner.feed(piece)
        if scanner.stopped:
            return text, True
    return text + scanner.rest(), False


@given(pieces=st.lists(letters, max_size=6), stop=stops)
def test_the_pieces_do_not_matter_and_no_stop_string_shows(pieces: list[str], stop: list[str]) -> None:
    whole = "".join(pieces)
    ends = [n for n in range(len(whole) + 1) if any(whole[:n].endswith(s) for s in stop)]
    longest = max((len(s) for s in stop if ends and whole[: ends[0]].endswith(s)), default=0)
    expected = (whole[: ends[0] - longest], True) if ends else (whole, False)
    assert shown(pieces, stop) == shown(list(whole), stop) == expected


@given(text=letters, stop=stops)
def test_only_the_possible_beginning_of_a_stop_string_is_held_back(text: str, stop: list[str]) -> None:
    scanner = StopScanner(stop)
    safe = scanner.feed(text)
    if not scanner.stopped:
        held = text[len(safe) :]
        assert held == "" or any(s.startswith(held) for s in stop)
