"""The search over knobs: which values are tried next, and which trial is not worth going on. The door to optuna.

Values: a tree-structured Parzen estimator (Bergstra et al., Algorithms for Hyper-Parameter Optimization, NIPS 2011).
Going on: a trial ends where its best loss so far is worse than the median of the others at the same share of theirs
(Golovin et al., Google Vizier, KDD 2017, section 3.2.2). Everything is in one SQLite file; the search of trial n is
seeded by n, so a sweep that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.trial import TrialState

from fledge.recipes.space import DONE, FAILED, PRUNED, Choices, Swept

NAME = "sweep"
# Trials at random before the search has something to go by; trials that nothing is compared with before.
RANDOM_TRIALS, UNPRUNED_TRIALS = 6, 3
# The first look may fall into the warm-up of the learning rate.
FIRST_PRUNED = 2
_STATES = {TrialState.COMPLETE: DONE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}
WAIT_S = 30.0


@dataclass(frozen=True)
class Trial:
    """A trial that is over. value: the metric, None where there is none. told: what else was noted of it."""

    number: int
    state: str
    values: Mapping[str, Any]
    value: float | None
    told: Mapping[str, Any]


class Going:
    """A trial that is under way."""

    def __init__(self, study: Study, trial: Any, values: Mapping[str, Any]) -> None:
        self._study, self._trial, self.values = study, trial, values

    @property
    def number(self) -> int:
        return int(self._trial.number)

    def note(self, **facts: Any) -> None:
        """Keep facts about the trial."""
        for name, fact in facts.items():
            self._trial.set_user_attr(name, fact)

    def look(self, number: int, loss: float) -> bool:
        """Keep the held-out loss of a look, counted from 1; return whether the trial is not worth going on.

        A look that a resumed run tells again is judged as it was the first time.
        """
        return self._study._look(self._trial, number, loss)

    def done(self, value: float) -> None:
        self._study._study.tell(self._trial, value)

    def prune(self) -> None:
        self._study._study.tell(self._trial, state=TrialState.PRUNED)

    def fail(self) -> None:
        self._study._study.tell(self._trial, state=TrialState.FAIL)


class Study:
    """All trials of a sweep, in one SQLite file. A context manager: leaving it closes the file."""

    def __init__(self, path: Path, space: Sequence[Swept], *, maximise: bool, seed: int) -> None:
        self._space, self._maximise, self._seed = space, maximise, seed
        optuna.logging.set_verbosity(optuna.logging.ERROR)

        def connect() -> sqlite3.Connection:
            # Given as a function, for a path may hold what means something in an address.
            connection = sqlite3.connect(path, timeout=WAIT_S)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            return connection

        self._storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": connect})
        self._study = optuna.create_study(
            study_name=NAME,
            storage=self._storage,
            direction="maximize" if maximise else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=FIRST_PRUNED),
            load_if_exists=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()

    def trials(self) -> list[Trial]:
        """Return the trials that are over, in their order."""
        return [
            Trial(
                trial.number,
                _STATES[trial.state],
                self._rounded(trial.params),
                trial.value if trial.state == TrialState.COMPLETE else None,
                dict(trial.user_attrs),
            )
            for trial in self._study.get_trials(deepcopy=False, states=tuple(_STATES))
        ]

    @property
    def is_new(self) -> bool:
        return not self._study.get_trials(deepcopy=False)

    def queue(self, values: Mapping[str, Any]) -> None:
        """Try these values next; knobs that are not named are chosen."""
        self._study.enqueue_trial(dict(values))

    def begin(self) -> Going:
        """Return the trial that was interrupted, or else the next one."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        before = len(self._study.get_trials(deepcopy=False, states=tuple(_STATES)))
        self._study.sampler = optuna.samplers.TPESampler(seed=self._seed + before, n_startup_trials=RANDOM_TRIALS)
        trial = optuna.trial.Trial(self._study, running[0]._trial_id) if running else self._study.ask()
        return Going(self, trial, self._rounded({one.name: _suggest(trial, one) for one in self._space}))

    def best(self) -> Trial | None:
        """Return the first trial with the best metric, or None."""
        done = [trial for trial in self.trials() if trial.value is not None]
        sign = -1.0 if self._maximise else 1.0
        return min(done, key=lambda trial: sign * float(trial.value or 0.0), default=None)

    def _rounded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {one.name: one.rounded(values[one.name]) for one in self._space if one.name in values}

    def _look(self, trial: Any, number: int, loss: float) -> bool:
        frozen = self._study.get_trials(deepcopy=True)[trial.number]
        if number not in frozen.intermediate_values:
            # What is compared are losses, whatever the metric in the end.
            trial.report(-loss if self._maximise else loss, number)
            frozen = self._study.get_trials(deepcopy=True)[trial.number]
        frozen.intermediate_values = {step: v for step, v in frozen.intermediate_values.items() if step <= number}
        return bool(self._study.pruner.prune(self._study, frozen))


def _suggest(trial: Any, one: Swept) -> Any:
    if isinstance(one, Choices):
        return trial.suggest_categorical(one.name, list(one.values))
    if one.whole:
        return trial.suggest_int(one.name, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(one.name, one.low, one.high, log=one.log)
