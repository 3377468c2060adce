"""Each preference objective is its paper's formula, and the same whatever the pieces of a step."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from fledge.config import Config, PreferenceConfig, RlConfig
from fledge.data.course import plain
from fledge.data.mismatched import mismatched
from fledge.data.wanted import LEARNS_FROM, UNITS
from fledge.objective import OBJECTIVES
from fledge.objective.preference import KL_REWARD, kl_reward
from fledge.objective.scored import Scored
from fledge.records import Example
from fledge.training.batch import Batch, batches, to_batch
from fledge.training.ranks import Ranks
from fledge.training.score import of_sequences, scored_pieces, step_facts
from tiny import load_tiny, save_tiny_model

KNOBS = PreferenceConfig(
    beta=0.3, gamma=0.4, label_smoothing=0.1, sft_weight=0.2, good_weight=1.0, bad_weight=1.5
).model_dump()
BARE = PreferenceConfig(beta=0.1, good_weight=1.0, bad_weight=1.0).model_dump()
PAIRED = [name for name, aim in OBJECTIVES.items() if LEARNS_FROM[name] == "pairs" and not aim.judges]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# The papers' formulas, one pair at a time: sums of log p of chosen and rejected, of the reference, and lengths.
def dpo_by_hand(pc: float, pr: float, rc: float, rr: float, nc: int, nr: int) -> float:
    h = 0.3 * (math.log(math.exp(pc - rc)) - math.log(math.exp(pr - rr)))
    return -0.9 * math.log(sigmoid(h)) - 0.1 * math.log(sigmoid(-h)) - 0.2 * pc / nc


def ipo_by_hand(pc: float, pr: float, rc: float, rr: float, nc: int, nr: int) -> float:
    h = (pc - rc) / nc - (pr - rr) / nr
    return (h - 1 / (2 * 0.3)) ** 2 - 0.2 * pc / nc


def simpo_by_hand(pc: float, pr: float, rc: float, rr: float, nc: int, nr: int) -> float:
    h = 0.3 / nc * pc - 0.3 / nr * pr - 0.4
    return -0.9 * math.log(sigmoid(h)) - 0.1 * math.log(sigmoid(-h)) - 0.2 * pc / nc


def orpo_by_hand(pc: float, pr: float, rc: float, rr: float, nc: int, nr: int) -> float:
    likely, unlikely = math.exp(pc / nc), math.exp(pr / nr)
    odds_ratio = (likely / (1 - likely)) / (unlikely / (1 - unlikely))
    return -pc / nc - 0.3 * math.log(sigmoid(math.log(odds_ratio)))


BY_HAND: dict[str, Callable[..., float]] = {
    "dpo": dpo_by_hand,
    "ipo": ipo_by_hand,
    "simpo": simpo_by_hand,
    "orpo": orpo_by_hand,
}


def scored_of(lengths: Sequence[int], references: Sequence[float], *, labels: Sequence[float] = ()) -> Scored:
    """Return log-probabilities of sequences of these lengths, drawn at random, in float64 with gradient."""
    generator = torch.Generator().manual_seed(3)
    logps = -2 * torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    columns = {"reference": torch.tensor(references, dtype=torch.float64)}
    if labels:
        columns["label"] = torch.tensor(labels)
    rows = len(lengths) if labels else len(lengths) // 2
    weights = torch.ones(len(logps))
    return Scored(logps.requires_grad_(), sequence, weights, columns, float(sum(lengths)), len(lengths), rows)


@pytest.mark.parametrize("name", PAIRED)
def test_the_loss_is_the_papers(name: str) -> None:
    lengths, references = [3, 5, 2, 2, 7, 1], [-2.0, -4.0, -1.5, -3.0, -6.0, -0.5]
    scored = scored_of(lengths, references)
    sums = scored.sums_S().tolist()
    expected = [
        BY_HAND[name](*sums[i : i + 2], *references[i : i + 2], *lengths[i : i + 2]) for i in range(0, len(sums), 2)
    ]
    loss = OBJECTIVES[name].make(KNOBS)(scored)
    assert float(loss.value.detach()) == pytest.approx(math.fsum(expected) / 3, rel=1e-12)
    assert float(OBJECTIVES[name].make(BARE)(scored).value.detach()) != pytest.approx(math.fsum(expected) / 3, rel=1e-3)


@pytest.mark.parametrize("name", PAIRED)
def test_the_gradient_is_that_of_differences(name: str) -> None:
    """Central differences of the loss by a few log-probabilities."""
    scored = scored_of([3, 5, 2, 2], [-2.0, -4.0, -1.5, -3.0])
    objective = OBJECTIVES[name].make(KNOBS)
    objective(scored).value.backward()
    assert scored.logps_M.grad is not None
    for place in (0, 4, 9):

        def moved(by: float, place: int = place) -> float:
            logps = scored.logps_M.detach().clone()
            logps[place] += by
            held = Scored(logps, scored.sequence_M, scored.weight_M, scored.columns_S, 1.0, 4, 2)
            return float(objective(held).value)

        slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
        assert float(scored.logps_M.grad[place]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_a_policy_that_is_its_reference_has_lost_log_2() -> None:
    scored = scored_of([3, 5, 2, 2], [0.0] * 4)
    columns = {"reference": scored.sums_S().detach()}
    same = Scored(scored.logps_M, scored.sequence_M, scored.weight_M, columns, 1.0, 4, 2)
    loss = OBJECTIVES["dpo"].make(BARE)(same)
    assert float(loss.value.detach()) == math.log(2)
    assert (loss.metrics["margin"].total, loss.metrics["accuracy"].total) == (0, 1.0), "two guesses"


def test_kto_is_the_papers() -> None:
    labels, references = [1.0, 0.0, 0.0, 1.0], [-2.0, -4.0, -1.5, -3.0]
    scored = scored_of([3, 5, 2, 2], references, labels=labels)
    sums = scored.sums_S().tolist()
    for z, told in ((0.25, 0.25), (0.0, -0.25)):
        expected = 0.0
        for logp, reference, label in zip(sums, references, labels, strict=True):
            reward = 0.3 * (logp - reference)
            value = sigmoid(reward - z) if label else 1.5 * sigmoid(z - reward)
            expected += (1.0 if label else 1.5) - value
        held = Scored(**{**vars(scored), "facts": {KL_REWARD: told}})
        found = OBJECTIVES["kto"].make(KNOBS)(held)
        assert float(found.value.detach()) == pytest.approx(expected / 4, rel=1e-12), "a negative divergence is none"
        assert found.metrics["kl"].total == pytest.approx(z / 0.3)


def pairs(count: int) -> list[Example]:
    """Chosen and rejected answers of one to six tokens to questions that begin alike."""
    numbers = random.Random(5)
    examples = []
    for pair in range(count):
        prompt = [7, 8, 9, *(numbers.randrange(300) for _ in range(numbers.randint(2, 9)))]
        for _ in range(2):
            answer = [numbers.randrange(300) for _ in range(numbers.randint(1, 6))]
            examples.append(Example(prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer), f"pair {pair}"))
    return examples


def with_columns(examples: Sequence[Example], references: Sequence[float], *, judged: bool = False) -> list[Example]:
    return [
        Example(e.ids, e.weights, e.origin, {"reference": r, **({"label": float(i % 2 == 0)} if judged else {})})
        for i, (e, r) in enumerate(zip(examples, references, strict=True))
    ]


def alone(model: object, example: Example) -> Tensor:
    """Return log p of an answer from a batch that holds nothing else, with gradient."""
    (scored,) = scored_pieces(model, to_batch([example], tokens_per_piece=10_000))  # type: ignore[arg-type]
    return scored.sums_S()[0]


def gradients(model: object, names: Sequence[str]) -> Tensor:
    parts = model.gradients()  # type: ignore[attr-defined]
    return torch.cat([parts[name].reshape(-1).clone() for name in sorted(parts)])


def taken(model: object, batch: Batch, name: str) -> tuple[float, Tensor]:
    """Return loss and gradient of one step as the loop computes them."""
    for parameter in model.parameters().values():  # type: ignore[attr-defined]
        parameter.grad = None
    aim, total = OBJECTIVES[name], 0.0
    facts = step_facts(model, batch, aim.before(KNOBS), Ranks())  # type: ignore[arg-type]
    for scored in scored_pieces(model, batch, facts):  # type: ignore[arg-type]
        loss = aim.make(KNOBS)(scored)
        loss.value.backward()
        total += float(loss.value.detach())
    return total, gradients(model, ())


@pytest.mark.parametrize("tokens", [1, 20, 45, 10_000])
@pytest.mark.parametrize("name", [*PAIRED, "kto"])
def test_a_step_is_that_of_the_answers_one_by_one(name: str, tokens: int, tmp_path: Path) -> None:
    """In float64, against a plain loop over single answers without any tree; whatever the pieces of the step."""
    model = load_tiny(save_tiny_model(tmp_path / "model"), dtype=torch.float64)
    examples = pairs(6)
    references = [-1.0 * len(e.ids) / 3 for e in examples]
    examples = with_columns(examples, references, judged=name == "kto")
    aside = with_columns(mismatched(examples, limit=100), references) if name == "kto" else []
    unit = UNITS[LEARNS_FROM[name]]
    (batch,) = batches(
        examples,
        rows_per_step=len(examples) // unit,
        tokens_per_piece=tokens,
        course=plain(len(examples) // unit, seed=0),
        first_step=0,
        steps=1,
        unit=unit,
        aside=aside,
    )
    found = taken(model, batch, name)
    for parameter in model.parameters().values():
        parameter.grad = None
    facts = {}
    if name == "kto":
        ratios = [float(alone(model, e).detach()) - e.columns["reference"] for e in aside]
        facts = {KL_REWARD: 0.3 * math.fsum(ratios) / len(ratios)}
    total = 0.0
    # One row at a time, its answers one at a time: gradients of the loss by each sum, then of each sum.
    for first in range(0, len(examples), unit):
        own = examples[first : first + unit]
        sums = [alone(model, e).detach().requires_grad_() for e in own]
        lengths = [e.num_taught for e in own]
        flat = torch.cat([s.expand(1) for s in sums])
        # a sequence as one token of weight 1 would have another length, so the mean is put on its tokens
        tokens_M = torch.cat([flat[i].expand(n) / n for i, n in enumerate(lengths)])
        sequence = torch.repeat_interleave(torch.arange(unit), torch.tensor(lengths))
        columns = {key: torch.tensor([e.columns[key] for e in own], dtype=torch.float64) for key in own[0].columns}
        held = Scored(tokens_M, sequence, torch.ones(len(sequence)), columns, 1.0, unit, len(examples) // unit, facts)
        loss = OBJECTIVES[name].make(KNOBS)(held).value
        loss.backward()
        total += float(loss.detach())
        for example, value in zip(own, sums, strict=True):
            assert value.grad is not None
            (value.grad * alone(model, example)).backward()
    expected = gradients(model, ())
    assert found[0] == pytest.approx(total, rel=1e-10)
    assert float((found[1] - expected).norm() / expected.norm()) < 1e-8


def test_pairs_stay_together_in_every_piece() -> None:
    examples = with_columns(pairs(9), [float(i) for i in range(18)])
    for tokens in (1, 25, 60):
        batch = to_batch(examples, tokens_per_piece=tokens, unit=2)
        held = [piece.columns_S["reference"].tolist() for piece in batch.pieces]
        assert sorted(x for piece in held for x in piece) == [float(i) for i in range(18)]
        assert all(a + 1 == b and a % 2 == 0 for piece in held for a, b in zip(piece[::2], piece[1::2], strict=True))
    assert len(to_batch(examples, tokens_per_piece=1, unit=2).pieces) == 9


def test_references_are_those_of_the_answers_one_by_one(tmp_path: Path) -> None:
    model = load_tiny(save_tiny_model(tmp_path / "model"), dtype=torch.float64)
    examples = [*pairs(40), *pairs(3)]
    found = of_sequences(model, examples, Scored.sums_S, tokens_per_piece=64)
    assert found == pytest.approx([float(alone(model, e).detach()) for e in examples], rel=1e-9)
    with model.disabled():
        base = of_sequences(model, examples, Scored.sums_S, tokens_per_piece=64)
    assert max(abs(a - b) for a, b in zip(found, base, strict=True)) > 1e-3, "the adapter is switched off"


def test_answers_to_other_questions() -> None:
    examples = pairs(4)
    for own, other in zip(examples, mismatched(examples, limit=100), strict=True):
        start = own.weights.index(1.0)
        assert other.ids[:start] == own.ids[:start] and other.weights[:start] == [0.0] * start
        given = [e for e in examples if e.ids[e.weights.index(1.0) :] == other.ids[start:]]
        assert given and all(e.ids[: e.weights.index(1.0)] != own.ids[:start] for e in given)
    short = mismatched(examples, limit=8)
    assert all(len(e.ids) <= max(8, e.weights.index(1.0) + 1) and e.num_taught for e in short)
    same = [Example([1, 2, n], [0.0, 0.0, 1.0], "") for n in (5, 6)]
    assert [e.ids for e in mismatched(same, limit=9)] == [[1, 2, 6], [1, 2, 5]]
    assert [e.ids for e in mismatched(same[:1], limit=9)] == [[1, 2, 5]]


def test_what_is_set_aside_gets_no_gradient(tmp_path: Path) -> None:
    model = load_tiny(save_tiny_model(tmp_path / "model"))
    examples = with_columns(pairs(2), [-1.0] * 4)
    batch = Batch(None, (), 0.0, 4, aside=to_batch(examples, tokens_per_piece=100))
    facts = step_facts(model, batch, lambda scored: kl_reward(scored, beta=0.5), Ranks())
    logps = [float(alone(model, e).detach()) for e in examples]
    assert facts[KL_REWARD] == pytest.approx(0.5 * (sum(logps) + 4) / 4, rel=1e-4)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters().values())


def test_rows_are_read_as_the_objectives_take_them() -> None:
    """Reading rows needs no torch, so what an objective learns from is said there as well."""
    assert LEARNS_FROM.keys() == OBJECTIVES.keys()
    assert all((aim.facts is not None) == (LEARNS_FROM[name] == "judged") for name, aim in OBJECTIVES.items())
    for name, aim in OBJECTIVES.items():
        section = RlConfig if LEARNS_FROM[name] == "prompts" else PreferenceConfig
        assert set(aim.terms) <= set(section.model_fields)
    assert set(get_args(Config.model_fields["objective"].annotation)) == set(OBJECTIVES)
