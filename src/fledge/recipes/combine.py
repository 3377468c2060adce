"""Several runs -> one: their adapters put together as a run of its own, to be exported and measured like others."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

import fledge
from fledge.errors import ConfigError, RunError
from fledge.model.adapter import Adapter, save_adapter
from fledge.model.combine import HOWS, Recipe, combine
from fledge.project import RunFolder, new_run, read_json, sha256_of, write_json_atomic, write_text_atomic
from fledge.recipes.report import write_report
from fledge.recipes.ship import Finished, open_run


def _silent(_: str) -> None: ...


def combine_runs(
    project: Path,
    runs: Sequence[RunFolder],
    recipe: Recipe,
    *,
    say: Callable[[str], None] = _silent,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a new run whose adapter is made of those of `runs`; return {run, path, bytes, rank, kept}.

    Raises RunError where they stand on different bases, ConfigError for weights that are none, ModelError where the
    adapters cannot be put together. Nothing is written then.
    """
    recipe = _checked(runs, recipe)
    opened = [open_run(project, run) for run in runs]
    manifests = [read_json(run.manifest) for run in runs]
    other = next((i for i, m in enumerate(manifests) if m["base_sha256"] != manifests[0]["base_sha256"]), None)
    if other is not None:
        raise RunError(
            "run.not_resumable",
            f"it was trained on another base than {runs[0].path.name} ({manifests[0]['model']}).",
            where=str(runs[other].path),
            remedy="Combine runs of one base.",
        )
    say(f"{recipe.how}: {HOWS[recipe.how]}")
    combined = combine([_adapter(run) for run in opened], recipe, say=step)
    names = [run.path.name for run in runs]
    made = new_run(project, f"merge-{runs[0].path.name.split('-', 2)[-1]}")
    parts = ", ".join(f"{weight:g} x {name}" for weight, name in zip(recipe.weights, names, strict=True))
    notes = [f"made of {parts}: {recipe.how}, {HOWS[recipe.how]}"]
    if combined.kept < 1:
        notes.append(f"rank {combined.adapter.rank} holds {combined.kept:.1%} of what they change")
    try:
        record = yaml.safe_load(runs[0].knobs.read_text(encoding="utf-8"))
        record |= {"fledge": fledge.__version__, "notes": notes, "spread": {}}
        write_text_atomic(made.knobs, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
        save_adapter(combined.adapter, made.adapter)
        tensors = made.adapter / "adapter_model.safetensors"
        manifest = {**manifests[0], "fledge": fledge.__version__, "adapter_sha256": sha256_of(tensors)}
        manifest |= {"parents": {name: m["adapter_sha256"] for name, m in zip(names, manifests, strict=True)}}
        manifest |= {"summary": _summary(made, recipe, names, combined.kept, manifests[0]["summary"])}
        write_json_atomic(made.manifest, manifest)
        write_report(made)
    except BaseException:
        # Without its manifest it would pass for a run that can be gone on with.
        shutil.rmtree(made.path, ignore_errors=True)
        raise
    for note in notes:
        say(note)
    return {
        "run": made.path.name,
        "path": str(made.adapter.resolve()),
        "bytes": tensors.stat().st_size,
        "rank": combined.adapter.rank,
        "kept": combined.kept,
    }


def weights_of(text: str | None) -> tuple[float, ...]:
    """Return the numbers of "0.6,0.4"; none for None. Raises ConfigError for what is no list of finite numbers."""
    try:
        found = tuple(float(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise ConfigError(
            "config.bad_value", f"'{text}' is no list of numbers.", where="--weights", remedy="For example: 0.7,0.3"
        )
    return found


def _checked(runs: Sequence[RunFolder], recipe: Recipe) -> Recipe:
    """Return the recipe with a weight for each run; equal ones where none is named."""
    weights = recipe.weights or tuple(1 / len(runs) for _ in runs)
    if len(weights) != len(runs) or not any(weights):
        raise ConfigError(
            "config.bad_value",
            f"{len(weights)} weights for {len(runs)} runs." if len(weights) != len(runs) else "all weights are 0.",
            where="--weights",
            remedy="Give one for each run, such as --weights 0.7,0.3",
        )
    return Recipe(recipe.how, weights, recipe.density, recipe.rank, recipe.seed)


def _adapter(run: Finished) -> Adapter:
    if run.adapter is None:
        raise RunError(
            "run.not_resumable",
            "all of its weights were trained: it has no adapter to combine.",
            where=str(run.run.path),
            remedy="Combine runs of method lora.",
        )
    if run.weights.added:
        raise RunError(
            "run.not_resumable",
            "tokens were added to it, and their rows mean something beside its own adapter only.",
            where=str(run.run.path),
            remedy="Combine runs without data.add_tokens, or train one run on the rows of all.",
        )
    return run.adapter


def _summary(
    made: RunFolder, recipe: Recipe, names: Sequence[str], kept: float, first: dict[str, Any]
) -> dict[str, Any]:
    """Return what the summary of a run says, as far as one that was not trained has it."""
    return {
        "run": made.path.name,
        "method": first["method"],
        "objective": first["objective"],
        "made_of": dict(zip(names, recipe.weights, strict=True)),
        "how": recipe.how,
        "kept": kept,
        "steps": 0,
        "seconds": 0.0,
        "loss_last": None,
        "eval_loss": None,
        "adapter": str(made.adapter.resolve()),
        "diagnoses": [],
    }
