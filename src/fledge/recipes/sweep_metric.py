"""What trials of a sweep are compared by: the held-out loss, what else the objective tells, or right answers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fledge.data.wanted import answers_of
from fledge.errors import ConfigError, nearest
from fledge.model.weights import GgufWeights
from fledge.project import RunFolder
from fledge.recipes.measure import Served, measure
from fledge.recipes.prepare import read_project
from fledge.recipes.setup import Setup
from fledge.recipes.ship import export, open_run
from fledge.recipes.space import Swept
from fledge.recipes.texts import conversations_in
from fledge.training.aims import compares

LOSS, SCORE = "eval_loss", "score"
# What objectives that compare answers tell beside their loss; SimPO and ORPO tell the second too.
COMPARED = ("accuracy", "likelier")
METRICS = (LOSS, SCORE, *COMPARED)


def is_better_high(metric: str) -> bool:
    return metric != LOSS


def check_metric(metric: str, space: Sequence[Swept], setup: Setup) -> None:
    """Raise ConfigError where trials cannot be compared by `metric`."""
    compared, problem, remedy = compares(setup.config), "", f"Take --metric {LOSS} or {SCORE}."
    if metric not in METRICS:
        problem = f"'{metric}' is no metric{nearest(metric, METRICS) or '.'}"
        remedy = f"There are: {', '.join(METRICS)}."
    elif not setup.held_out.examples:
        problem = "no rows are held out, so trials cannot be compared."
        remedy = "Name some in data.eval, or bring more rows: of fewer than 20 none is held out."
    elif metric in COMPARED and not compared:
        problem = f"objective {setup.config.objective} tells no '{metric}'."
    elif metric == LOSS and (blunt := [one.name for one in space if one.name.startswith("preference.")]):
        problem = f"{blunt[0]} decides what the held-out loss counts, so trials cannot be compared by it."
        remedy = f"Take --metric {COMPARED[0]}."
    elif metric == SCORE and setup.config.objective == "text":
        problem = "texts are no questions, so no answers can be scored."
        remedy = f"Take --metric {LOSS}."
    if problem:
        raise ConfigError("config.bad_value", problem, where="command line", remedy=remedy)


def metric_of(metric: str, summary: Mapping[str, Any], run: RunFolder, project: Path) -> float:
    """Return the metric of a finished run. Raises ExportError where its answers are scored and no file can be made."""
    if metric == SCORE:
        return _score(run, project)
    value = summary["eval_loss"] if metric == LOSS else summary["eval_metrics"].get(metric)
    if value is None:
        raise ConfigError(
            "config.bad_value", f"objective {summary['objective']} tells no '{metric}'.", where="--metric"
        )
    return float(value)


def _score(run: RunFolder, project: Path) -> float:
    """Return the share of held-out questions that the run's file answers right. The file is gone afterwards."""
    finished = open_run(project, run)
    # An adapter on top of its base is made in a tenth of the time of a merged file.
    adapter = finished.adapter
    apart = isinstance(finished.weights, GgufWeights) and adapter is not None and not adapter.use_dora
    exported = export(finished, types=[] if apart else finished.usual_types[:1], with_adapter=apart)
    path = Path(exported["files"][0]["path"])
    served = Served(run.path.name, finished.weights.path, path) if apart else Served(run.path.name, path)
    rows = conversations_in(answers_of(read_project(project, finished.config).held_out))
    found = measure(served, rows, finished.config)
    shutil.rmtree(run.release)
    return found.accuracy
