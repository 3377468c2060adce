"""When held-out rows are looked at while a run goes on, when it ends, and what is kept: what `auto` makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from fledge.config import TrainConfig
from fledge.data.course import Course
from fledge.errors import ConfigError
from fledge.records import Example
from fledge.training.evaluations import MOST_TIME, most_looks

# Fewer looks than this say nothing of when to stop; of more, so many in sequence without a lower loss do.
FEWEST_TO_STOP, PATIENCE = 4, 3
ASKED_FOR = ("eval_every", "patience", "keep")


def looks(
    train: TrainConfig, *, examples: Sequence[Example], course: Course, held_out: Sequence[Example], by_loss: bool
) -> dict[str, tuple[object, str]]:
    """Return eval_every, patience and keep where they say `auto`, each with its reason, "" where there is no choice.

    Epochs are known. by_loss: whether the held-out loss is what counts, as it is of texts and of answers that are
    compared. Of answers that are learnt it is not: it rises while more of them are right (docs/decisions.md).

    Raises ConfigError where one of them asks for held-out rows and there are none.
    """
    assert train.epochs != "auto"
    if not held_out:
        _refuse(train)
    run_tokens = train.epochs * course.rows_per_epoch * _mean_tokens(examples)
    most = most_looks(run_tokens=run_tokens, held_out_tokens=sum(len(example.ids) for example in held_out))
    every = _every(train.epochs, most, rows=bool(held_out))
    between = every[0] if train.eval_every == "auto" else train.eval_every
    num_looks = train.epochs / between if between else 0
    # Who says when to stop says that the loss counts.
    asked = isinstance(train.patience, int)
    patience, keep = (_patience(num_looks), _keep(num_looks)) if by_loss or asked else ((None, ""), ("last", ""))
    rules = {"eval_every": every, "patience": patience, "keep": keep}
    return {knob: rule for knob, rule in rules.items() if getattr(train, knob) == "auto"}


def _refuse(train: TrainConfig) -> None:
    asked = {"eval_every": bool(train.eval_every), "patience": train.patience is not None, "keep": train.keep == "best"}
    for knob in ASKED_FOR:
        if asked[knob] and getattr(train, knob) != "auto":
            raise ConfigError(
                "config.bad_value",
                f"train.{knob} is {getattr(train, knob)}, and no rows are held out to look at.",
                where=f"train.{knob}",
                remedy="Name some in data.eval, or leave it out.",
            )


def _mean_tokens(examples: Sequence[Example]) -> float:
    return sum(len(example.ids) for example in examples) / max(1, len(examples))


def _every(epochs: float, most: int, *, rows: bool) -> tuple[float, str]:
    if not rows:
        return 0.0, ""
    if not most:
        return 0.0, f"a look at the held-out rows takes more than {MOST_TIME:.0%} of the run: at the end alone"
    if epochs <= most:
        return 1.0, f"a look at the held-out rows after each epoch takes less than {MOST_TIME:.0%} of the time"
    return round(epochs / most, 4), f"{most} looks at the held-out rows in {epochs:g} epochs"


def _patience(num_looks: float) -> tuple[int | None, str]:
    if num_looks <= 1:
        return None, ""
    if num_looks < FEWEST_TO_STOP:
        return None, "too few looks at held-out rows to tell when to stop"
    return PATIENCE, f"{PATIENCE} looks without a lower loss are no accident; the best state is kept"


def _keep(num_looks: float) -> tuple[str, str]:
    if num_looks <= 1:
        return "last", ""
    return "best", "a later one would foretell the held-out rows less well"
