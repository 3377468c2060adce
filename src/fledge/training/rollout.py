"""Prompts -> sampled replies -> rewards -> advantages -> batches: where steps come from when it learns by trying.

The loop does not know of it. Who samples and who judges are functions that are handed in, since they live in other
rooms. A step's replies are kept before they are learnt from, with all that was computed of them; a run that goes on
takes them from there, so that it takes the same steps to the last bit whatever made them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from typing import Protocol

from fledge.data.course import Course, plain
from fledge.data.packed import PackedExamples
from fledge.data.tree import number_prefixes
from fledge.model.causal import CausalModel
from fledge.model.decode import AT_ONCE, Drawn
from fledge.model.shape import Shape
from fledge.model.tokens import Prompts
from fledge.objective.policy import ADVANTAGE, is_flat
from fledge.records import Example
from fledge.training.batch import Batch, to_batch, to_tokens
from fledge.training.critic import Critic
from fledge.training.score import token_logps, token_scores


@dataclass(frozen=True)
class Verdict:
    """What a reply says, and what it is worth: each reward by name, and their weighted sum."""

    text: str
    rewards: Mapping[str, float]
    reward: float


@dataclass(frozen=True)
class Rollout:
    """A reply to the prompt of `row`: its tokens, log p of each as it was drawn, and what was made of it since.

    old, reference: log p of each token as the trainer computes it, under the policy that drew it and under the model as
    it was; empty where nobody has asked. values, gains, returns: what the critic expected before each token, what the
    token earned beyond it, and what came after it; empty without a critic.
    """

    row: int
    ids: list[int]
    sampled: list[float]
    ended: bool
    text: str
    rewards: Mapping[str, float]
    reward: float
    advantage: float = 0.0
    old: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)


# The memory of a step is judged by so many prompts, the longest among them.
TRIAL_PROMPTS = 256

# (prompts, (number of a prompt, seed) of each reply) -> replies.
Make = Callable[[Sequence[Sequence[int]], Sequence[tuple[int, int]]], Sequence[Drawn]]
# (rows, ids of a reply to each) -> what each is worth.
Judge = Callable[[Sequence[int], Sequence[Sequence[int]]], list[Verdict]]


class Keep(Protocol):
    """Where rollouts are kept, by the number of their batch, from 1."""

    def read(self, number: int, rows: Sequence[int]) -> list[Rollout] | None:
        """Return the rollouts of a batch where they were kept whole and are of these rows, else None."""

    def write(self, number: int, rollouts: Sequence[Rollout]) -> None: ...


@dataclass(frozen=True)
class RolloutPlan:
    """How replies become steps. prompts: ids by row. group: replies to each; updates: steps on each batch of them.

    advantages: of the rewards of one group. kl_weight: how much staying by the model as it was counts; kl_in_reward: as
    part of the reward (eq. 3 of Ahmadian et al. 2024), or else the objective sees to it. has_reference: whether the
    model can still answer as it was. critic: what makes rewards of replies those of tokens, in place of `advantages`.
    """

    prompts: Sequence[Sequence[int]]
    course: Course
    rows_per_batch: int
    group: int
    updates: int
    seed: int
    tokens_per_piece: int
    temperature: float
    advantages: Callable[[Sequence[float]], list[float]]
    kl_weight: float = 0.0
    kl_in_reward: bool = False
    has_reference: bool = True
    critic: Critic | None = None

    def rows(self, number: int) -> list[int]:
        """Return the rows of batch `number`, from 0; each stands once for its whole group."""
        epoch, index = divmod(number, math.ceil(self.course.rows_per_epoch / self.rows_per_batch))
        return self.course.epoch(epoch)[index * self.rows_per_batch : (index + 1) * self.rows_per_batch]


def rollout_batches(
    model: CausalModel, plan: RolloutPlan, make: Make, judge: Judge, keep: Keep, *, first_step: int, steps: int
) -> Iterator[Batch]:
    """Yield the batches of steps first_step..steps-1. A batch is made when it is asked for, by the model as it is
    then."""
    batch: Batch | None = None
    for step in range(first_step, steps):
        number, update = divmod(step, plan.updates)
        if batch is None or update == 0:
            rows = plan.rows(number)
            rollouts = keep.read(number + 1, rows)
            if rollouts is None:
                rollouts = roll(model, plan, make, judge, number=number)
                keep.write(number + 1, rollouts)
            batch = _batch(model, plan, rollouts)
        yield batch


def roll(model: CausalModel, plan: RolloutPlan, make: Make, judge: Judge, *, number: int) -> list[Rollout]:
    """Return the rollouts of batch `number`, those of a prompt beside each other."""
    rows = plan.rows(number)
    asked = [
        (place, seed_of(plan.seed, number, place, turn)) for place in range(len(rows)) for turn in range(plan.group)
    ]
    model.train(False)
    drawn = make([plan.prompts[row] for row in rows], asked)
    found = []
    verdicts = judge([rows[place] for place, _ in asked], [reply.ids for reply in drawn])
    for (place, _), reply, verdict in zip(asked, drawn, verdicts, strict=True):
        said = (verdict.text, verdict.rewards, verdict.reward)
        found.append(Rollout(rows[place], reply.ids, reply.logps, reply.ended, *said))
    found = _scored(model, plan, found)
    model.train()
    if plan.critic is not None:
        return _earned(found, plan.critic)
    for start in range(0, len(found), plan.group):
        part = slice(start, start + plan.group)
        worth = [each.reward - (_kl(each) * plan.kl_weight if plan.kl_in_reward else 0.0) for each in found[part]]
        found[part] = [replace(e, advantage=a) for e, a in zip(found[part], plan.advantages(worth), strict=True)]
    return found


def _earned(rollouts: Sequence[Rollout], critic: Critic) -> list[Rollout]:
    """Return the rollouts with what each of their tokens earned."""
    gains, returns = critic.judge(
        [each.reward for each in rollouts],
        [each.old for each in rollouts],
        [each.reference for each in rollouts],
        [each.values for each in rollouts],
    )
    earned = zip(rollouts, gains, returns, strict=True)
    return [replace(each, advantage=fmean(gain), gains=gain, returns=goal) for each, gain, goal in earned]


def _kl(rollout: Rollout) -> float:
    """Return log p(reply) less that under the model as it was."""
    return math.fsum(rollout.old) - math.fsum(rollout.reference) if rollout.reference else 0.0


def _scored(model: CausalModel, plan: RolloutPlan, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Return the rollouts with what the trainer makes of their tokens, as far as it is needed.

    The policy itself is scored where the step would see another one: in later updates, or in the reward. The model as
    it was is scored on one reply of each group where nothing but the distance is to be told.
    """
    examples = [_example(plan, rollout) for rollout in rollouts]
    size, temperature = plan.tokens_per_piece, plan.temperature
    found = list(rollouts)
    if plan.updates > 1 or plan.critic is not None or (plan.kl_in_reward and plan.kl_weight):
        olds, values = token_scores(model, examples, tokens_per_piece=size, temperature=temperature)
        found = [replace(each, old=o, values=v) for each, o, v in zip(found, olds, values, strict=True)]
    if not plan.has_reference:
        return found
    which = range(0, len(found), 1 if plan.kl_weight else plan.group)
    with model.disabled():
        asked = [examples[i] for i in which]
        references = token_logps(model, asked, tokens_per_piece=size, temperature=temperature)
    for i, reference in zip(which, references, strict=True):
        found[i] = replace(found[i], reference=reference)
    return found


def _example(plan: RolloutPlan, rollout: Rollout) -> Example:
    prompt = list(plan.prompts[rollout.row])
    weights = [0.0] * len(prompt) + [1.0] * len(rollout.ids)
    return Example(prompt + rollout.ids, weights, f"a reply to row {rollout.row}")


def _batch(model: CausalModel, plan: RolloutPlan, rollouts: Sequence[Rollout]) -> Batch:
    """Return the optimizer step over rollouts, with what an objective and a person are told of each."""
    examples = []
    olds = any(rollout.old for rollout in rollouts) and (plan.updates > 1 or plan.critic is not None)
    for start in range(0, len(rollouts), plan.group):
        group = rollouts[start : start + plan.group]
        rewards = [rollout.reward for rollout in group]
        spread, flat = pstdev(rewards), float(is_flat([rollout.advantage for rollout in group]))
        for rollout in group:
            each = {f"reward_{name}": value for name, value in rollout.rewards.items()}
            columns = {
                ADVANTAGE: rollout.advantage,
                "reward": rollout.reward,
                "reward_spread": spread,
                "no_signal": flat,
                "ended": float(rollout.ended),
                **(each if len(each) > 1 else {}),
            }
            tokens = {
                "sampled": rollout.sampled,
                "reference": rollout.reference or [math.nan] * len(rollout.ids),
                **({"old": rollout.old} if olds else {}),
                **_told_of_critic(rollout),
            }
            examples.append(replace(_example(plan, rollout), columns=columns, tokens=tokens))
    batch = to_batch(examples, tokens_per_piece=plan.tokens_per_piece, trunk=model.has_trunks)
    return replace(batch, temperature=plan.temperature)


def _told_of_critic(rollout: Rollout) -> dict[str, list[float]]:
    told = {"advantage": rollout.gains, "return": rollout.returns, "value": rollout.values}
    return told if rollout.gains else {}


def seed_of(*parts: int) -> int:
    """Return a seed that depends on all of `parts`, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def to_prompts(prompts: Sequence[Sequence[int]], *, max_tokens: int) -> Prompts:
    """Return prompts as the trees in which they are read, what they share once, at most `max_tokens` at a time."""
    held = [list(ids) for ids in prompts]
    places = number_prefixes(held, max_tokens=max_tokens)
    trees = [*([] if places.trunk is None else [places.trunk]), *(tree for tree in places.parts if len(tree.ids_N))]
    runs = [_runs(place.tolist()) for place in places.place_S]
    return Prompts(held, [to_tokens(tree) for tree in trees], places.trunk is not None, runs)


def _runs(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return consecutive places as (first, length, position)."""
    found: list[tuple[int, int, int]] = []
    for position, place in enumerate(places):
        if found and found[-1][0] + found[-1][1] == place:
            first, length, at = found.pop()
            found.append((first, length + 1, at))
        else:
            found.append((place, 1, position))
    return found


def prompt_of(example: Example) -> list[int]:
    """Return the ids of an example's prompt."""
    return example.ids[: len(example.ids) - example.num_taught]


def as_rollouts(examples: Sequence[Example], group: int, *, seed: int) -> tuple[Sequence[Example], Course]:
    """Return replies as steps will hold them, told apart from their first token on, and the course through them.

    Of many prompts, the first and the longest stand for all.
    """
    longest = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))[: TRIAL_PROMPTS // 2]
    chosen = sorted({*range(min(len(examples), TRIAL_PROMPTS // 2)), *longest})
    found = PackedExamples()
    for number in chosen:
        example = examples[number]
        prompt = prompt_of(example)
        own = example.ids[len(prompt) :]
        found += (replace(example, ids=[*prompt, turn, *own[1:]]) for turn in range(group))
    return found, plain(len(found), seed=seed, order="given")


def rollout_bytes(examples: Sequence[Example], shape: Shape, *, prompts: int, group: int, itemsize: int) -> int:
    """Return what sampling takes beside the weights: keys and values of prompts and replies, and logits."""
    longest = max((len(example.ids) for example in examples), default=0)
    reply = max((example.num_taught for example in examples), default=0)
    slots = min(AT_ONCE, prompts * group)
    keys = (prompts * (longest - reply) + slots * reply) * shape.num_layers * 2 * shape.key_width
    return keys * itemsize + slots * shape.vocab_size * 4
