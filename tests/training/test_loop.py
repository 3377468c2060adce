"""The loop: exact resuming, Ctrl-C between steps, and nothing kept of a step that went wrong."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from fledge.data.course import plain
from fledge.errors import TrainError
from fledge.model.load import CausalModel
from fledge.objective.sft import sft
from fledge.training import checkpoint, log
from fledge.training.batch import Batch, batches, to_batch
from fledge.training.loop import Plan, Step, Summary, fit
from fledge.training.optim import Schedule, adamw
from tiny import load_tiny, loss_and_gradients, random_examples, save_tiny_model

STEPS = 12
EXAMPLES = random_examples(30)
COURSE = plain(len(EXAMPLES), seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("loop") / "model", hidden_size=32, num_hidden_layers=2)


@dataclass
class Run:
    """A training in process, begun anew or from the newest checkpoint in `checkpoints`."""

    model: CausalModel
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    checkpoints: Path
    first_step: int

    @classmethod
    def begin(cls, folder: Path, checkpoints: Path, *, dropout: float = 0.2) -> Run:
        torch.manual_seed(0)
        model = load_tiny(folder, dropout=dropout)
        parameters = model.parameters()
        optimizer = adamw(parameters, weight_decay=0.01)
        found = checkpoint.latest(checkpoints)
        first = (
            checkpoint.load(found, identity="x", parameters=parameters, optimizer=optimizer) if found is not None else 0
        )
        return cls(model, parameters, optimizer, checkpoints, first)

    def go(
        self, *, until: int = STEPS, on_step: Sequence[Callable[[Step], None]] = (), checkpoint_s: float = 0.0
    ) -> list[Step]:
        stream = batches(
            EXAMPLES, rows_per_step=5, tokens_per_piece=80, course=COURSE, first_step=self.first_step, steps=STEPS
        )
        plan = Plan(
            steps=STEPS,
            first_step=self.first_step,
            schedule=Schedule(1e-2, STEPS, 0.1),
            clip_norm=1.0,
            checkpoint_s=checkpoint_s,
            checkpoint=lambda step: checkpoint.save(
                self.checkpoints, step=step, identity="x", parameters=self.parameters, optimizer=self.optimizer
            ),
        )
        taken: Iterator[Batch] = islice(stream, until - self.first_step)
        return fit(self.model, taken, sft, self.optimizer, plan, on_step)

    def state(self) -> dict[str, torch.Tensor]:
        moments = {
            f"{name}.{key}": value.clone()
            for name, p in self.parameters.items()
            for key, value in self.optimizer.state[p].items()
        }
        return {name: p.detach().clone() for name, p in self.parameters.items()} | moments


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def same_steps(ours: Sequence[Step], theirs: Sequence[Step]) -> bool:
    return [(s.step, s.loss, s.grad_norm, s.lr) for s in ours] == [(s.step, s.loss, s.grad_norm, s.lr) for s in theirs]


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Step], dict[str, torch.Tensor]]:
    run = Run.begin(folder, tmp_path_factory.mktemp("whole"))
    return run.go(), run.state()


def test_resuming_at_any_step_gives_the_same_bits(
    folder: Path, tmp_path: Path, uninterrupted: tuple[list[Step], dict[str, torch.Tensor]]
) -> None:
    """With dropout, so that the random state counts; the model that goes on is a new one."""
    steps, state = uninterrupted
    for cut in range(1, STEPS):
        checkpoints = tmp_path / str(cut)
        before = Run.begin(folder, checkpoints).go(until=cut)
        resumed = Run.begin(folder, checkpoints)
        assert resumed.first_step == cut
        after = resumed.go()
        assert same_steps(before + after, steps), cut
        assert_same(resumed.state(), state)


def test_negative_control_without_the_random_state_the_bits_differ(
    folder: Path, tmp_path: Path, uninterrupted: tuple[list[Step], dict[str, torch.Tensor]]
) -> None:
    Run.begin(folder, tmp_path).go(until=5)
    resumed = Run.begin(folder, tmp_path)
    torch.manual_seed(123)
    resumed.go()
    with pytest.raises(AssertionError):
        assert_same(resumed.state(), uninterrupted[1])


@pytest.mark.parametrize("at", [1, 5, STEPS])
def test_ctrl_c_waits_for_the_step_and_writes_its_state(
    folder: Path, tmp_path: Path, at: int, uninterrupted: tuple[list[Step], dict[str, torch.Tensor]]
) -> None:
    def press(step: Step) -> None:
        if step.step == at:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    run = Run.begin(folder, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.go(on_step=[press], checkpoint_s=1e9)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not run.model.training
    resumed = Run.begin(folder, tmp_path)
    assert resumed.first_step == at
    resumed.go(checkpoint_s=1e9)
    assert_same(resumed.state(), uninterrupted[1])


def test_a_second_ctrl_c_does_not_wait(folder: Path, tmp_path: Path) -> None:
    reached = []

    def press(step: Step) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached.append(step)

    with pytest.raises(KeyboardInterrupt):
        Run.begin(folder, tmp_path).go(on_step=[press], checkpoint_s=1e9)
    assert reached == []


def test_checkpoints_come_when_they_are_due(folder: Path, tmp_path: Path) -> None:
    Run.begin(folder, tmp_path / "seldom").go(checkpoint_s=1e9)
    assert checkpoint.latest(tmp_path / "seldom") is None
    Run.begin(folder, tmp_path / "often").go()
    assert sorted(p.name for p in (tmp_path / "often").iterdir()) == ["step-000010", "step-000011"]


@pytest.mark.parametrize("poison", [math.inf, math.nan])
def test_a_non_finite_step_stops_the_run_and_changes_nothing(folder: Path, tmp_path: Path, poison: float) -> None:
    run = Run.begin(folder, tmp_path, dropout=0.0)
    seen: list[Step] = []

    def spoil(step: Step) -> None:
        seen.append(step)
        if step.step == 3:
            with torch.no_grad():
                run.model.decoder.blocks[1].weights["down"][3, 5] = poison

    before: dict[str, torch.Tensor] = {}
    with pytest.raises(TrainError, match=r"loss is (nan|inf).*step 4") as caught:
        run.go(on_step=[spoil, lambda step: before.update(run.state())])
    assert caught.value.code == "train.non_finite"
    assert "train.lr" in caught.value.remedy
    assert [step.step for step in seen] == [1, 2, 3]
    assert_same(run.state(), before)
    assert Run.begin(folder, tmp_path).first_step == 3, "the last good step can be gone on from"


def test_a_parameter_that_gets_no_gradient_stops_the_run(folder: Path, tmp_path: Path) -> None:
    run = Run.begin(folder, tmp_path)
    run.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    with pytest.raises(TrainError, match="no gradient in step 1") as caught:
        run.go()
    assert caught.value.code == "train.no_gradient"


def test_a_step_is_told_as_it_was(folder: Path, tmp_path: Path) -> None:
    run = Run.begin(folder, tmp_path, dropout=0.0)
    first_batch = next(
        batches(EXAMPLES, rows_per_step=5, tokens_per_piece=80, course=COURSE, first_step=0, steps=STEPS)
    )
    loss, gradients = loss_and_gradients(run.model, first_batch)
    norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients.values()))
    first, *others = run.go()
    assert (first.step, first.steps, first.rows) == (1, STEPS, 5)
    assert first.loss == pytest.approx(loss, rel=1e-6)
    assert first.grad_norm == pytest.approx(norm, rel=1e-5), "told as it was before clipping"
    assert first.tokens_effective == first_batch.num_tokens_unshared > first.tokens_computed
    assert first.lr == Schedule(1e-2, STEPS, 0.1).lr(0)
    summary = Summary.of([first, *others])
    assert (summary.steps, summary.loss_first, summary.loss_last) == (STEPS, first.loss, others[-1].loss)
    assert summary.tokens_effective == sum(s.tokens_effective for s in (first, *others))


def test_gradients_are_clipped_to_the_norm(folder: Path) -> None:
    """A step of AdamW after clipping equals one by hand with scaled gradients."""
    batch = to_batch(EXAMPLES[:5], tokens_per_piece=80)
    found = []
    for by_hand in (False, True):
        model = load_tiny(folder)
        parameters = model.parameters()
        optimizer = torch.optim.SGD(parameters.values(), lr=0.0)
        plan = Plan(1, 0, Schedule(0.5, 1, 0.0), 0.01, 1e9, lambda step: None)
        if by_hand:
            loss_and_gradients(model, batch)
            gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
            norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter -= 0.5 * 0.01 / norm * gradients[name]
        else:
            fit(model, iter([batch]), sft, optimizer, plan)
        found.append(torch.cat([p.detach().flatten() for p in parameters.values()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_metrics_are_whole_lines_of_each_step_once(
    tmp_path: Path, uninterrupted: tuple[list[Step], dict[str, torch.Tensor]]
) -> None:
    path, steps = tmp_path / "metrics.jsonl", uninterrupted[0]
    first = log.MetricsLog(path, first_step=0)
    for step in steps[:7]:
        first(step)
    first.close()
    with path.open("a") as file:
        file.write('{"step": 8, "los')  # torn by a crash
    second = log.MetricsLog(path, first_step=4)
    for step in steps[4:]:
        second(step)
    second.close()
    lines = list(log.read(path))
    assert [Step(**line) for line in lines] == steps
    assert path.read_text().endswith("}\n")
