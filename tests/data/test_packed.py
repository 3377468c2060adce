"""Examples in arrays are the examples, and take little."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.data.packed import PackedExamples
from fledge.records import Example

WEIGHTS = st.sampled_from([0.0, 0.0, 1.0, 0.1, 1 / 3])
EXAMPLES = st.lists(
    st.builds(
        lambda tokens, *told: Example([t for t, _ in tokens], [w for _, w in tokens], *told),
        st.lists(st.tuples(st.integers(0, 2**31 - 1), WEIGHTS), max_size=5),
        st.sampled_from(["a:1", "b:2"]),
        st.sampled_from([{}, {"label": 1.0}, {"label": 0.5}]),
        st.integers(0, 9),
        st.sampled_from(["", "chats"]),
    ),
    max_size=4,
)


@given(examples=EXAMPLES, more=EXAMPLES)
def test_what_comes_out_is_what_went_in(examples: list[Example], more: list[Example]) -> None:
    packed = PackedExamples(examples)
    assert list(packed) == examples
    packed += more
    assert list(packed) == examples + more
    assert packed[1:4] == (examples + more)[1:4]
    if packed:
        assert packed[-1] == (examples + more)[-1]
    with pytest.raises(IndexError):
        packed[len(packed)]


def test_a_row_of_a_hundred_tokens_takes_less_than_a_kilobyte() -> None:
    tracemalloc.start()
    packed = PackedExamples(
        Example([1000 + n * 113 + i for i in range(113)], [0.0] * 80 + [1.0] * 33, f"data/train.jsonl:{n}")
        for n in range(2000)
    )
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(packed) == 2000
    assert taken < 2000 * 1000
