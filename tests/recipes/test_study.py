"""The search: what an interrupted trial is told again changes no decision, and every trial is drawn from its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from fledge.recipes.space import DONE, FAILED, PRUNED, Choices, Range, Swept
from fledge.recipes.study import Going, Study

SPACE: list[Swept] = [
    Range("train.lr", 1e-4, 1e-2, whole=False, log=True),
    Range("train.epochs", 2, 8, whole=True, log=False),
    Choices("train.top_layers", (1, 2, None)),
]


def learn(trial: Going, *losses: float) -> list[bool]:
    return [trial.look(number, loss) for number, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize("maximise", [False, True])
def test_a_trial_behind_the_median_ends_and_looks_told_again_are_judged_as_before(
    tmp_path: Path, maximise: bool
) -> None:
    with Study(tmp_path / "study.db", SPACE, maximise=maximise, seed=0) as study:
        for loss in (1.0, 1.1, 1.2):
            trial = study.begin()
            assert learn(trial, 3.0, loss + 1, loss) == [False, False, False]
            trial.done(0.5)
        trial = study.begin()
        assert learn(trial, 9.0, 2.05) == [False, False], "the first look falls into the warm-up"
        assert trial.look(3, 1.9), "worse than the median of 1.1"
        number = trial.number
    # It was killed before it ended: all looks are told again.
    with Study(tmp_path / "study.db", SPACE, maximise=maximise, seed=0) as study:
        again = study.begin()
        assert again.number == number
        assert learn(again, 9.0, 2.05, 1.9) == [False, False, True]
        again.prune()
        failing = study.begin()
        failing.note(why="because")
        failing.fail()
        assert [trial.state for trial in study.trials()] == [DONE, DONE, DONE, PRUNED, FAILED]
        assert study.trials()[-1].told == {"why": "because"}
        best = study.best()
        assert best is not None
        assert best.number == 0, "of equal ones the first"


def drawn(path: Path, count: int, *, reopened: bool) -> list[dict[str, object]]:
    """Return the values of some trials whose metric is the learning rate's distance from 1e-3."""
    found: list[dict[str, object]] = []
    while len(found) < count:
        with Study(path, SPACE, maximise=False, seed=3) as study:
            for _ in range(1 if reopened else count):
                if reopened:
                    study.begin()  # killed before anything was trained
                trial = study.begin()
                found.append(dict(trial.values))
                trial.done(abs(float(str(trial.values["train.lr"])) - 1e-3))
    return found


def test_values_depend_on_the_number_of_the_trial_alone(tmp_path: Path) -> None:
    whole = drawn(tmp_path / "whole.db", 10, reopened=False)
    assert drawn(tmp_path / "killed % and ?again.db", 10, reopened=True) == whole
    assert len({str(values) for values in whole}) > 7, "and they differ"


def test_what_is_queued_comes_first_and_what_it_leaves_open_is_chosen(tmp_path: Path) -> None:
    with Study(tmp_path / "study.db", SPACE, maximise=False, seed=0) as study:
        assert study.is_new
        study.queue({"train.lr": 0.001, "train.top_layers": None})
        assert not study.is_new
        values = study.begin().values
    assert (values["train.lr"], values["train.top_layers"]) == (0.001, None)
    assert values["train.epochs"] in range(2, 9)
