"""Replies as a source of steps: numbers of tokens arrive where they belong, each batch is made when it is due."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

from fledge.data.course import plain
from fledge.data.tree import pack, split
from fledge.model.causal import CausalModel
from fledge.model.decode import Drawing, Drawn, sample
from fledge.model.tokens import single
from fledge.objective.policy import group_advantages, grpo, leave_one_out
from fledge.objective.ppo import ppo
from fledge.records import Example
from fledge.training.batch import Batch, to_batch
from fledge.training.critic import Critic
from fledge.training.rollout import (
    Rollout,
    RolloutPlan,
    Verdict,
    as_rollouts,
    prompt_of,
    roll,
    rollout_batches,
    seed_of,
    to_prompts,
)
from fledge.training.score import scored_pieces, token_logps
from tiny import load_tiny, random_examples, save_tiny_model, tries

ENDS = frozenset(range(0, 384, 9))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    return load_tiny(save_tiny_model(tmp_path_factory.mktemp("rollout") / "model"), dtype=torch.float64)


@pytest.fixture
def critical(tmp_path: Path) -> CausalModel:
    """A model with a critic that expects something."""
    model = load_tiny(save_tiny_model(tmp_path / "model"), dtype=torch.float64)
    torch.nn.init.normal_(model.add_scalar_head(), generator=torch.Generator().manual_seed(5))
    return model


def with_tokens(examples: Sequence[Example]) -> list[Example]:
    """Number every taught token of every example."""
    return [
        replace(e, columns={}, tokens={"number": [1000.0 * i + n for n in range(e.num_taught)]})
        for i, e in enumerate(examples)
    ]


@given(tries())
@settings(deadline=None, max_examples=60)
def test_numbers_of_tokens_stay_with_their_tokens(rows: list[Example]) -> None:
    examples = with_tokens(rows)
    tree = pack(examples)
    assert tree.tokens_M["number"].tolist() == [x for e in examples for x in e.tokens["number"]]
    for size in (4, 12, 1000):
        for indices, part in split(examples, max_tokens=size).pieces:
            assert part.tokens_M["number"].tolist() == [x for i in indices for x in examples[i].tokens["number"]]
        batch = to_batch(examples, tokens_per_piece=size)
        held = sorted(x for piece in batch.pieces for x in piece.tokens_M["number"].tolist())
        assert held == sorted(x for e in examples for x in e.tokens["number"])


def by_hand(model: CausalModel, example: Example, temperature: float = 1.0) -> list[float]:
    """Return log p of each taught token by one pass over the whole row."""
    with torch.no_grad():
        logits = model.logits(model.hidden(single(torch.tensor(example.ids))))
    logps = (logits / temperature).log_softmax(1)
    return [float(logps[i - 1, example.ids[i]]) for i, w in enumerate(example.weights) if w > 0]


@pytest.mark.parametrize("size", [16, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_of_single_tokens(model: CausalModel, size: int, temperature: float) -> None:
    examples = random_examples(7)
    found = token_logps(model, examples, tokens_per_piece=size, temperature=temperature)
    for example, own in zip(examples, found, strict=True):
        assert own == pytest.approx(by_hand(model, example, temperature), abs=1e-10)


def plan_of(**changes: object) -> RolloutPlan:
    numbers = random.Random(2)
    head = [numbers.randrange(384) for _ in range(5)]
    plan = RolloutPlan(
        prompts=[head + [numbers.randrange(384) for _ in range(numbers.randint(2, 6))] for _ in range(10)],
        course=plain(10, seed=0),
        rows_per_batch=4,
        group=3,
        updates=1,
        seed=0,
        tokens_per_piece=40,
        temperature=1.0,
        advantages=leave_one_out,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


class Held:
    """Keeps rollouts in memory, and what was done with them."""

    def __init__(self) -> None:
        self.kept: dict[int, list[Rollout]] = {}
        self.read_from: list[int] = []

    def read(self, number: int, rows: Sequence[int]) -> list[Rollout] | None:
        if number in self.kept:
            self.read_from.append(number)
        return self.kept.get(number)

    def write(self, number: int, rollouts: Sequence[Rollout]) -> None:
        self.kept[number] = list(rollouts)


def judge(rows: Sequence[int], replies: Sequence[Sequence[int]]) -> list[Verdict]:
    worths = [sum(ids) % 7 / 7 for ids in replies]
    return [Verdict(" ".join(map(str, ids)), {"sum": w}, w) for ids, w in zip(replies, worths, strict=True)]


def maker(model: CausalModel, temperature: float = 1.0) -> object:
    def make(prompts: Sequence[Sequence[int]], asked: Sequence[tuple[int, int]]) -> list[Drawn]:
        return sample(model, to_prompts(prompts, max_tokens=40), asked, Drawing(temperature, 6, ENDS))

    return make


def stream(model: CausalModel, plan: RolloutPlan, held: Held, first_step: int = 0, steps: int = 5) -> list[Batch]:
    make = maker(model, plan.temperature)
    return list(rollout_batches(model, plan, make, judge, held, first_step=first_step, steps=steps))  # type: ignore[arg-type]


def test_a_batch_is_the_group_of_every_prompt(model: CausalModel) -> None:
    plan, held = plan_of(), Held()
    batches = stream(model, plan, held)
    assert [batch.num_rows for batch in batches] == [12, 12, 6, 12, 12], "an epoch's last batch is short"
    assert sorted(row for number in range(3) for row in plan.rows(number)) == list(range(10))
    for number, rollouts in held.kept.items():
        assert [r.row for r in rollouts] == [row for row in plan.rows(number - 1) for _ in range(3)]
        for start in range(0, len(rollouts), 3):
            group = rollouts[start : start + 3]
            assert [r.advantage for r in group] == leave_one_out([r.reward for r in group])
        for rollout in rollouts:
            assert rollout.reward == judge([rollout.row], [rollout.ids])[0].reward
            example = Example(
                [*plan.prompts[rollout.row], *rollout.ids],
                [0.0] * len(plan.prompts[rollout.row]) + [1.0] * len(rollout.ids),
                "",
            )
            assert rollout.sampled == pytest.approx(by_hand(model, example), abs=1e-10)
            with model.disabled():
                if rollout.reference:
                    assert rollout.reference == pytest.approx(by_hand(model, example), abs=1e-10)
        assert [bool(r.reference) for r in rollouts] == [i % 3 == 0 for i in range(len(rollouts))]
        assert not any(r.old for r in rollouts), "in a first update the policy is the one that drew"
    for batch in batches:
        for scored in scored_pieces(model, batch):
            assert torch.allclose(scored.tokens_M["sampled"], scored.logps_M.detach(), atol=1e-10)


def test_later_updates_see_the_policy_that_drew(model: CausalModel) -> None:
    plan, held = plan_of(updates=2, kl_weight=0.1, temperature=0.8), Held()
    batches = stream(model, plan, held, steps=4)
    assert sorted(held.kept) == [1, 2] and batches[0] is batches[1] and batches[2] is not batches[1]
    for rollouts in held.kept.values():
        for rollout in rollouts:
            assert rollout.old == pytest.approx(rollout.sampled, abs=1e-10)
            assert len(rollout.reference) == len(rollout.ids)
    # A run that goes on in the middle of a batch has not the policy that drew it, but what it thought of the tokens.
    generator = torch.Generator().manual_seed(0)
    before = {name: tensor.clone() for name, tensor in model.adapter_tensors().items()}
    with torch.no_grad():
        for tensor in model.adapter_tensors().values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    (again,) = stream(model, plan, held, first_step=1, steps=2)
    assert held.read_from == [1]
    for one, other in zip(again.pieces, batches[1].pieces, strict=True):
        assert torch.equal(one.tokens_M["old"], other.tokens_M["old"])
        assert torch.equal(one.tokens.ids_N, other.tokens.ids_N)
    knobs = {"clip_low": 0.2, "clip_high": 0.28, "kl_weight": 0.1, "max_ratio": 2.0, "max_tokens": 6}
    told = [grpo(scored, loss="dapo", **knobs).metrics["ratio"] for scored in scored_pieces(model, again)]  # type: ignore[arg-type]
    assert sum(mean.total for mean in told) != pytest.approx(sum(mean.count for mean in told), abs=1e-3)
    with torch.no_grad():
        for name, tensor in model.adapter_tensors().items():
            tensor.copy_(before[name])


def test_distance_can_be_part_of_the_reward(model: CausalModel) -> None:
    plan = plan_of(kl_weight=0.3, kl_in_reward=True)
    rollouts = roll(model, plan, maker(model), judge, number=0)  # type: ignore[arg-type]
    for start in range(0, len(rollouts), 3):
        group = rollouts[start : start + 3]
        worth = [r.reward - 0.3 * (math.fsum(r.old) - math.fsum(r.reference)) for r in group]
        assert [r.advantage for r in group] == pytest.approx(leave_one_out(worth), abs=1e-12)
    plain_ones = roll(model, plan_of(), maker(model), judge, number=0)  # type: ignore[arg-type]
    assert [r.advantage for r in plain_ones] != [r.advantage for r in rollouts]


def test_a_critic_judges_every_token(critical: CausalModel) -> None:
    """One pass gives log p and what was expected; what tokens earned goes with them into the step."""
    critic = Critic(discount=0.98, gae_lambda=0.9, kl_weight=0.2)
    plan, held = plan_of(kl_weight=0.2, critic=critic, temperature=0.7), Held()
    [batch] = stream(critical, plan, held, steps=1)
    rollouts = held.kept[1]
    for rollout in rollouts:
        prompt = list(plan.prompts[rollout.row])
        ids = prompt + rollout.ids
        example = Example(ids, [0.0] * len(prompt) + [1.0] * len(rollout.ids), "alone")
        [alone] = scored_pieces(critical, to_batch([example], tokens_per_piece=1000))
        assert rollout.old == pytest.approx(by_hand(critical, example, 0.7), abs=1e-10)
        assert alone.values_M is not None
        assert rollout.values == pytest.approx(alone.values_M.tolist(), abs=1e-10), "temperature is of sampling alone"
    columns = ([getattr(r, name) for r in rollouts] for name in ("reward", "old", "reference", "values"))
    assert critic.judge(*columns) == ([r.gains for r in rollouts], [r.returns for r in rollouts])
    pieces = list(scored_pieces(critical, batch))
    told = {name: sorted(x for p in pieces for x in p.tokens_M[name].tolist()) for name in pieces[0].tokens_M}
    assert told["advantage"] == sorted(x for r in rollouts for x in r.gains)
    assert told["return"] == sorted(x for r in rollouts for x in r.returns)
    knobs = {"clip_low": 0.2, "clip_high": 0.3, "value_clip": 0.2, "value_weight": 0.5, "max_ratio": 2.0}
    losses = [ppo(scored, **knobs) for scored in pieces]
    assert sum(loss.metrics["clipped"].total for loss in losses) == 0, "the policy is still what was sampled from"
    assert sum(loss.metrics["value_loss"].total for loss in losses) > 0


def test_equal_rewards_leave_the_model_as_it_is(model: CausalModel) -> None:
    plan = plan_of(advantages=lambda rewards: group_advantages(rewards, scale=True))
    held = Held()
    make = maker(model)
    same = rollout_batches(
        model, plan, make, lambda rows, replies: [Verdict("", {"x": 0.1}, 0.1)] * len(rows), held, first_step=0, steps=1
    )  # type: ignore[arg-type]
    (batch,) = same
    for parameter in model.parameters().values():
        parameter.grad = None
    knobs = {"clip_low": 0.2, "clip_high": 0.28, "kl_weight": 0.0, "max_ratio": 2.0, "max_tokens": 6}
    for scored in scored_pieces(model, batch):
        loss = grpo(scored, loss="dapo", **knobs)  # type: ignore[arg-type]
        loss.value.backward()  # type: ignore[no-untyped-call]
        assert loss.metrics["no_signal"].total == loss.metrics["no_signal"].count
    assert not any(gradient.any() for gradient in model.gradients().values())


def test_seeds_are_different_and_stay_the_same() -> None:
    seeds = [seed_of(0, step, place, turn) for step in range(9) for place in range(9) for turn in range(9)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)


def test_stand_ins_for_replies_share_their_prompt_alone() -> None:
    prompts = [
        Example([1, 2, 3] + [9] * 5, [0.0] * 3 + [1.0] * 5, "a"),
        Example([1, 4] + [9] * 5, [0.0] * 2 + [1.0] * 5, "b"),
    ]
    found, course = as_rollouts(prompts, 3, seed=0)
    assert [prompt_of(e) for e in found] == [[1, 2, 3]] * 3 + [[1, 4]] * 3
    assert len(pack(found).ids_N) == 3 + 1 + 6 * 4, "a reply's last token is not read"
    assert course.epoch(0) == course.epoch(1) == list(range(6))
