"""Between two steps: the held-out rows are looked at, the best state is kept, and a run that gains nothing ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fledge.model.causal import CausalModel
from fledge.model.process import return_memory
from fledge.project import RunFolder
from fledge.recipes.held_out import Measured
from fledge.recipes.setup import Setup
from fledge.training import checkpoint
from fledge.training.evaluations import Evaluation, EvaluationLog, best_of, looks_in_vain, steps_to_look_after

# Why a run ends where whoever listens says so.
ASKED = "it was asked to"
Told = Callable[[Evaluation], bool]


@dataclass
class Watch:
    """Looks at the held-out rows after some steps, and says when the run is over.

    It changes nothing that is trained. `look` tells what they make of the model as it is. `tell` hears of every look,
    of those before an interruption again, and may end the run by returning True. `over` says why the run ends before
    its last step, "" where it does not.
    """

    run: RunFolder
    setup: Setup
    model: CausalModel
    parameters: Mapping[str, nn.Parameter]
    look: Callable[[], Measured]
    first_step: int
    tell: Told
    over: str = field(default="", init=False)

    def __post_init__(self) -> None:
        train, setup = self.setup.config.train, self.setup
        assert train.eval_every != "auto" and train.patience != "auto"
        self._patience, self._keeps_best = train.patience, train.keep == "best"
        self._due = steps_to_look_after(
            epochs_between=train.eval_every, steps_per_epoch=setup.steps_per_epoch, steps=setup.steps
        )
        self._log = EvaluationLog(self.run.evaluations, first_step=self.first_step)
        for number in range(len(self._log.kept)):
            self._judge(number)

    @property
    def evaluations(self) -> list[Evaluation]:
        return self._log.kept

    def __call__(self, step: int) -> bool:
        """Look at the held-out rows if it is time after `step`; return whether the run is over."""
        if step in self._due:
            evaluation = self._look(step)
            if self._keeps_best and best_of([*self.evaluations, evaluation]) is evaluation:
                checkpoint.save_best(
                    self.run.checkpoints, step=step, identity=self.setup.identity, parameters=self.parameters
                )
            self._log.add(evaluation)
            self._judge(len(self.evaluations) - 1)
        return bool(self.over)

    def _look(self, step: int) -> Evaluation:
        started = time.perf_counter()
        # No dropout; and what prompts of held-out rows are remembered must not take the place of those that are learnt.
        self.model.train(False)
        with self.model.apart():
            found = self.look()
        self.model.train()
        return_memory()
        assert found.loss is not None
        return Evaluation(
            step=step,
            epoch=step / self.setup.steps_per_epoch,
            loss=found.loss,
            losses=found.losses,
            metrics=found.metrics,
            seconds=time.perf_counter() - started,
        )

    def _judge(self, number: int) -> None:
        """Say whether the run is over after the look with this number."""
        seen = self.evaluations[: number + 1]
        told = self.tell(seen[-1])
        if seen[-1].step >= self.setup.steps:
            return
        if told:
            self.over = ASKED
        elif self._patience is not None and looks_in_vain(seen) >= self._patience:
            self.over = f"the held-out loss has not fallen in {self._patience} looks"

    def take_best(self, last_step: int) -> int:
        """Put the best state that was seen into the parameters, where that one is kept; return after which step it was.

        Raises RunError where it cannot be read.
        """
        best = best_of(self.evaluations) if self._keeps_best else None
        if best is None or best.step == last_step:
            return last_step
        checkpoint.load_best(self.run.checkpoints, step=best.step, parameters=self.parameters)
        return best.step

    def words(self, last_step: int, kept_step: int) -> list[str]:
        """Return what a person should know of how the run ended."""
        told = [f"stopped after step {last_step} of {self.setup.steps}: {self.over}"] if self.over else []
        if kept_step != last_step:
            lowest = next(seen.loss for seen in self.evaluations if seen.step == kept_step)
            told.append(f"kept what it was after step {kept_step}: a held-out loss of {lowest:.3f} is the lowest seen")
        return told

    def summary(self, kept_step: int) -> dict[str, Any]:
        """Return what a run's summary says of the looks."""
        return {
            "evaluations": len(self.evaluations),
            "steps_planned": self.setup.steps,
            "kept_step": kept_step,
            "stopped_early": self.over or None,
        }

    def measured(self, step: int) -> Measured:
        """Return what held-out rows tell of the model as it is, after `step` steps; looked at anew if it has to be."""
        for seen in self.evaluations:
            if seen.step == step:
                return Measured(seen.loss, seen.losses, seen.metrics)
        return self.look()


def best_is_there(run: RunFolder, setup: Setup, step: int) -> bool:
    """Return whether what a run needs of its best state is there, if it goes on after `step`."""
    best = best_of(EvaluationLog(run.evaluations, first_step=step).kept)
    return setup.config.train.keep != "best" or best is None or checkpoint.best_is_kept(run.checkpoints, step=best.step)
