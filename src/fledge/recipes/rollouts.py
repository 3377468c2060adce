"""Where a run that learns from rewards gets its steps: who judges replies, and the folder in which they are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from fledge.config import Config
from fledge.errors import ConfigError, RewardError
from fledge.model.causal import CausalModel
from fledge.model.decode import Drawn
from fledge.objective.policy import group_advantages, is_flat, leave_one_out
from fledge.project import RunFolder, write_text_atomic
from fledge.recipes.held_out import Measured
from fledge.recipes.prompts import answer_of
from fledge.recipes.reward import open_rewards
from fledge.recipes.samplers import MAKERS, check_sampler, choose_sampler, drawing_of, torch_maker
from fledge.recipes.setup import Setup
from fledge.recipes.tries import FOLDER
from fledge.records import Conversation
from fledge.rewards.record import Known, Reward, Sample, score_all
from fledge.rewards.trial import MORE_DIFFERENCE, NO_DIFFERENCE
from fledge.training.aims import aim_of
from fledge.training.batch import Batch
from fledge.training.critic import Critic
from fledge.training.ranks import Ranks
from fledge.training.rollout import Keep, Make, Rollout, RolloutPlan, Verdict, prompt_of, rollout_batches

Say = Callable[[str], None]
# So many held-out prompts are answered together.
ASKED_AT_ONCE = 64


@dataclass(frozen=True)
class Court:
    """The rewards of a run with their weights, and the words of tokens."""

    rewards: Sequence[Reward]
    weights: Sequence[float]
    decode: Callable[[Sequence[int]], str]
    ends: frozenset[int]

    def judge(
        self, rows: Sequence[Conversation], numbers: Sequence[int], replies: Sequence[Sequence[int]]
    ) -> list[Verdict]:
        """Return what each reply to the row of its number is worth. Raises RewardError."""
        texts = [self.decode(ids[:-1] if ids[-1] in self.ends else ids) for ids in replies]
        samples = [_sample(rows[number], text) for number, text in zip(numbers, texts, strict=True)]
        given: list[dict[str, float]] = [{} for _ in samples]
        for reward in self.rewards:
            for own, value in zip(given, score_all(reward, samples), strict=True):
                if isinstance(value, RewardError):
                    raise value
                own[reward.name] = value
        totals = [sum(w * value for w, value in zip(self.weights, own.values(), strict=True)) for own in given]
        return [Verdict(*each) for each in zip(texts, given, totals, strict=True)]


def check_rollouts(setup: Setup, project: Path) -> None:
    """Raise what is wrong with rewards and sampler, before anything is written."""
    if setup.rolls_out:
        if Ranks.here().size > 1:
            raise ConfigError(
                "config.bad_value",
                f"{setup.config.objective} samples in one process; each of several would sample everything.",
                where="objective",
                remedy="Start it once, without torchrun.",
            )
        check_sampler(setup)
        with open_court(setup, project=project, say=lambda _: None):
            pass


@contextmanager
def open_court(setup: Setup, *, project: Path, say: Say) -> Iterator[Court]:
    """Yield the rewards that rl.rewards names. Raises RewardError where one needs an answer that a row has not."""
    named = weighed(setup.config)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_rewards([spec], setup.config, project=project, say=say)) for spec in named]
        # A file may hold several rewards, which all have its weight.
        weights = [weight for own, weight in zip(opened, named.values(), strict=True) for _ in own]
        rewards = [reward for own in opened for reward in own]
        for row in (*setup.lesson.asked, *setup.held_out.asked):
            for reward in rewards:
                if isinstance(reward, Known) and not answer_of(row).strip():
                    reward.score(_sample(row, ""))
        yield Court(rewards, weights, setup.template.tokenizer.decode, setup.lesson.ends)


def weighed(config: Config) -> dict[str, float]:
    """Return each reward that the knobs name with its weight."""
    given = config.rl.rewards
    return dict(given) if isinstance(given, dict) else dict.fromkeys([given] if isinstance(given, str) else given, 1.0)


def _sample(row: Conversation, reply: str) -> Sample:
    asked = next((message.content for message in reversed(row.prompt) if message.role == "user"), "")
    return Sample(asked, reply, answer_of(row), row.origin, "a sample", row.prompt)


class Rollouts:
    """The rollouts of a run in its folder: a file for each batch of them, whole or not there."""

    def __init__(self, folder: Path, rows: Sequence[Conversation]) -> None:
        self._folder, self._rows = folder, rows

    def read(self, number: int, rows: Sequence[int]) -> list[Rollout] | None:
        """Return a batch as it was kept; None where it was not, is damaged, or is of other rows."""
        try:
            lines = [json.loads(line) for line in self._path(number).read_text(encoding="utf-8").splitlines()]
            names = Rollout.__dataclass_fields__
            found = [Rollout(**{name: value for name, value in line.items() if name in names}) for line in lines]
        except (OSError, ValueError, TypeError):
            return None
        if list(dict.fromkeys(each.row for each in found)) != list(dict.fromkeys(rows)):
            return None
        _refuse_flat(found, self._path(number)) if number == 1 else None
        return found

    def write(self, number: int, rollouts: Sequence[Rollout]) -> None:
        """Keep a batch. Raises RewardError where the first one shows that there is nothing to learn from."""
        self._folder.mkdir(exist_ok=True)
        lines = [self._told(rollout) for rollout in rollouts]
        write_text_atomic(self._path(number), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        _refuse_flat(rollouts, self._path(number)) if number == 1 else None

    def _told(self, rollout: Rollout) -> dict[str, object]:
        row = self._rows[rollout.row]
        # By its name alone: where a project lies is nothing that replies depend on.
        origin = Path(row.origin).name
        return {"prompt": _sample(row, "").prompt, "answer": answer_of(row), "origin": origin, **asdict(rollout)}

    def _path(self, number: int) -> Path:
        return self._folder / f"step-{number:06d}.jsonl"


class Forgotten:
    """Where nothing is kept: the rollouts of a forecast."""

    def read(self, number: int, rows: Sequence[int]) -> None: ...
    def write(self, number: int, rollouts: Sequence[Rollout]) -> None: ...


def _refuse_flat(rollouts: Sequence[Rollout], path: Path) -> None:
    groups: dict[int, list[float]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.row, []).append(rollout.reward)
    if all(is_flat(rewards) for rewards in groups.values()):
        mean = fmean(rollout.reward for rollout in rollouts)
        raise RewardError(
            "reward.never_varies",
            f"all samples of a prompt get the same, for each of the first {len(groups)} prompts (mean {mean:.3g}); "
            f"{NO_DIFFERENCE}.",
            where=str(path),
            remedy=MORE_DIFFERENCE,
        )


@dataclass(frozen=True)
class Source:
    """Steps for the loop, and what greedy replies to held-out prompts are worth."""

    setup: Setup
    model: CausalModel
    court: Court
    plan: RolloutPlan
    make: Make
    keep: Keep

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield the run's batches from `first_step` on. Raises RewardError with how to go on."""
        judge = partial(self.court.judge, self.setup.lesson.asked)
        steps = self.setup.steps
        try:
            yield from rollout_batches(
                self.model, self.plan, self.make, judge, self.keep, first_step=first_step, steps=steps
            )
        except RewardError as error:
            if error.code != "reward.failed":
                raise
            onwards = f"{error.remedy} Then go on with `fledge train --resume latest`."
            raise RewardError(error.code, error.message, where=error.where, remedy=onwards) from error

    def measure(self) -> Measured:
        """Return the mean rewards of greedy replies to the held-out prompts, by the model as it is now.

        Their loss, by which the best state is told, is minus the reward.
        """
        rows, examples = self.setup.held_out.asked, self.setup.held_out.examples
        drawing = drawing_of(self.setup, temperature=0.0)
        verdicts: list[Verdict] = []
        drawn: list[Drawn] = []
        for start in range(0, len(rows), ASKED_AT_ONCE):
            part = range(start, min(len(rows), start + ASKED_AT_ONCE))
            prompts = [prompt_of(examples[i]) for i in part]
            replies = torch_maker(self.model, self.setup, drawing)(prompts, [(i, 0) for i in range(len(prompts))])
            verdicts += self.court.judge(rows, part, [reply.ids for reply in replies])
            drawn += replies
        if not verdicts:
            return Measured(None, {}, {})
        names = [reward.name for reward in self.court.rewards]
        each = {f"reward_{name}": fmean(v.rewards[name] for v in verdicts) for name in names if len(names) > 1}
        told = {"reward": fmean(v.reward for v in verdicts), **each}
        told |= {"ended": fmean(d.ended for d in drawn), "length": fmean(len(d.ids) for d in drawn)}
        return Measured(-told["reward"], {}, told)


def rollout_plan(setup: Setup) -> RolloutPlan:
    """Return how the knobs turn replies into steps."""
    train, rl = setup.config.train, setup.config.rl
    assert train.rows_per_step != "auto" and train.tokens_per_piece != "auto"
    scale = rl.scale_rewards is True
    return RolloutPlan(
        prompts=[prompt_of(example) for example in setup.lesson.examples],
        course=setup.course,
        rows_per_batch=train.rows_per_step,
        group=rl.group,
        updates=rl.updates,
        seed=train.seed,
        tokens_per_piece=train.tokens_per_piece,
        temperature=rl.temperature,
        advantages=leave_one_out if setup.config.objective == "rloo" else partial(group_advantages, scale=scale),
        kl_weight=rl.kl_weight,
        kl_in_reward=setup.config.objective == "rloo",
        critic=Critic(rl.discount, rl.gae_lambda, rl.kl_weight) if aim_of(setup.config).critic else None,
        has_reference=setup.config.method != "full",
    )


@contextmanager
def open_source(
    setup: Setup, model: CausalModel, *, project: Path, run: RunFolder | None, say: Say
) -> Iterator[Source]:
    """Yield the source of a run's steps; rewards run until the block ends. Without a run nothing is kept.

    Raises what `open_court` raises.
    """
    with open_court(setup, project=project, say=say) as court:
        plan = rollout_plan(setup)
        maker = MAKERS[choose_sampler(setup, model, plan, run, say=say)]
        make = maker(model, setup, drawing_of(setup, temperature=plan.temperature))
        keep = Rollouts(run.path / FOLDER, setup.lesson.asked) if run is not None else Forgotten()
        yield Source(setup, model, court, plan, make, keep)
