"""How a step is cut changes memory, not the result; which rows a step has depends on nothing but its number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.course import plain
from fledge.objective.sft import sft
from fledge.records import Example
from fledge.training.batch import Batch, batches, num_steps, to_batch
from fledge.training.score import measured
from tiny import flat, load_tiny, loss_and_gradients, random_examples, save_tiny_model, tries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("batch") / "model")


def weights_varied(examples: list[Example]) -> list[Example]:
    return [Example(e.ids, [w * (1 + i % 3) for i, w in enumerate(e.weights)], e.origin, e.columns) for e in examples]


def test_sixteen_rows_give_one_gradient_however_they_are_cut(folder: Path) -> None:
    model = load_tiny(folder)
    examples = weights_varied(random_examples(16))
    whole = to_batch(examples, tokens_per_piece=100_000)
    assert len(whole.pieces) == 1
    loss, gradients = loss_and_gradients(model, whole)
    expected = flat(list(gradients.values()))
    counts = set()
    for tokens in (1, 40, 60, 80, 120, 200, 300):
        batch = to_batch(examples, tokens_per_piece=tokens)
        counts.add(len(batch.pieces))
        assert (batch.weight, batch.num_rows, batch.num_tokens_unshared) == (
            whole.weight,
            16,
            whole.num_tokens_unshared,
        )
        cut_loss, cut = loss_and_gradients(model, batch)
        assert cut_loss == pytest.approx(loss, abs=1e-6)
        assert float((flat(list(cut.values())) - expected).norm() / expected.norm()) <= 1e-5
    assert len(counts) > 4
    assert max(counts) == 16


def test_negative_control_a_mean_of_the_pieces_means_is_another_gradient(folder: Path) -> None:
    """The classical fault of gradient accumulation: each piece divided by its own weight."""
    model = load_tiny(folder)
    examples = random_examples(16)
    _, gradients = loss_and_gradients(model, to_batch(examples, tokens_per_piece=100_000))
    expected = flat(list(gradients.values()))
    batch = to_batch(examples, tokens_per_piece=60, trunk=False)
    total = torch.zeros_like(expected)
    for piece in batch.pieces:
        own = Batch(None, (piece,), float(piece.weight_M.sum()), batch.num_rows)
        total += flat(list(loss_and_gradients(model, own)[1].values())) / len(batch.pieces)
    assert float((total - expected).norm() / expected.norm()) > 1e-3


def test_the_mean_loss_does_not_depend_on_the_pieces_either(folder: Path) -> None:
    model = load_tiny(folder)
    examples = weights_varied(random_examples(16))
    expected = loss_and_gradients(model, to_batch(examples, tokens_per_piece=100_000))[0]
    for tokens in (1, 64, 100_000):
        found, metrics = measured(model, to_batch(examples, tokens_per_piece=tokens), sft)
        assert (found, metrics) == (pytest.approx(expected, abs=1e-6), {})


def test_what_was_measured_before_does_not_change_a_step(folder: Path) -> None:
    """A trunk's memory of a pass without gradients once came back in a pass with them, which needs more of it."""
    examples = random_examples(12)
    batch = to_batch(examples, tokens_per_piece=20)
    assert batch.trunk is not None and len(batch.pieces) > 1
    loss, gradients = loss_and_gradients(load_tiny(folder), batch)
    model = load_tiny(folder)
    assert measured(model, batch, sft)[0] == pytest.approx(loss, abs=1e-6)
    again, after = loss_and_gradients(model, batch)
    assert again == loss
    assert torch.equal(flat(list(after.values())), flat(list(gradients.values())))


@settings(max_examples=100, deadline=None)
@given(examples=tries())
def test_a_batch_holds_the_rows_targets(examples: list[Example]) -> None:
    batch = to_batch(examples, tokens_per_piece=20)
    found = sorted(
        (int(target), float(weight))
        for piece in batch.pieces
        for target, weight in zip(piece.target_U[piece.pair_M], piece.weight_M, strict=True)
    )
    assert found == sorted((t, w) for e in examples for t, w in zip(e.ids, e.weights, strict=True) if w > 0)
    assert batch.weight == pytest.approx(sum(w for _, w in found))
    for piece in batch.pieces:
        pairs = list(zip(piece.predictor_U.tolist(), piece.target_U.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs), "the head runs once for each distinct pair"


@given(
    num_rows=st.integers(1, 40),
    rows_per_step=st.integers(1, 12),
    seed=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_step_k_is_the_same_whichever_step_one_begins_with(
    num_rows: int, rows_per_step: int, seed: int, data: st.DataObject
) -> None:
    examples = [Example([0, row], [0.0, 1.0], f"{row}") for row in range(num_rows)]
    steps = num_steps(num_rows, epochs=2.5, rows_per_step=rows_per_step)
    course = plain(num_rows, seed=seed)

    def targets(first_step: int) -> list[list[int]]:
        stream = batches(
            examples, rows_per_step=rows_per_step, tokens_per_piece=9, course=course, first_step=first_step, steps=steps
        )
        return [sorted(int(t) for p in batch.pieces for t in p.target_U[p.pair_M]) for batch in stream]

    whole = targets(0)
    assert len(whole) == steps
    first = data.draw(st.integers(0, steps))
    assert targets(first) == whole[first:]
    per_epoch = -(-num_rows // rows_per_step)
    for epoch in range(2):
        seen = [t for step in whole[epoch * per_epoch : (epoch + 1) * per_epoch] for t in step]
        assert sorted(seen) == list(range(num_rows)), "an epoch sees every row once"


@pytest.mark.parametrize(
    ("num_rows", "epochs", "rows_per_step", "expected"),
    [(24, 4, 8, 12), (25, 4, 8, 16), (1, 1, 8, 1), (100, 1.1, 10, 11), (100, 0.3, 10, 3), (100, 0.001, 10, 1),
     (100, 2.35, 10, 24), (7, 0.5, 2, 2)],
)  # fmt: skip
def test_how_many_steps(num_rows: int, epochs: float, rows_per_step: int, expected: int) -> None:
    assert num_steps(num_rows, epochs=epochs, rows_per_step=rows_per_step) == expected
