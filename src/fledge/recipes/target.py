"""TARGET, as people type it: a run (7, latest, a folder), a .gguf file, a Hugging Face folder or a catalog name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fledge.errors import ModelError, RunError
from fledge.model import catalog
from fledge.model.pull import resolve as resolve_model
from fledge.project import RUN_NAME, RunFolder, find_run, list_runs, read_json
from fledge.recipes.measure import Served


def is_run(project: Path, spec: str) -> bool:
    """Return whether `spec` can only mean a run."""
    name = Path(spec).name
    return spec == "latest" or spec.isdigit() or bool(RUN_NAME.fullmatch(name)) and not name.endswith(".gguf")


def serve_target(project: Path, spec: str, *, say: Callable[[str], None] = lambda _: None) -> Served:
    """Return the GGUF file that `spec` means. A finished run that was not exported yet is exported first."""
    if is_run(project, spec):
        return _of_run(project, find_run(project, spec), say)
    try:
        path = resolve_model(spec, base_dir=project)
    except ModelError as error:
        runs = ", ".join(run.path.name for run in list_runs(project)[-3:])
        if error.code != "model.unknown" or not runs:
            raise
        raise ModelError(
            error.code, error.message, where=error.where, remedy=f"{error.remedy} Runs: {runs}."
        ) from error
    if path.is_dir():
        raise ModelError(
            "model.unsupported",
            "a Hugging Face folder cannot answer by itself.",
            where=str(path),
            remedy="Train on it, or give the .gguf file of it.",
        )
    return Served(spec if spec.lower() in catalog.MODELS else path.name, path)


def _of_run(project: Path, run: RunFolder, say: Callable[[str], None]) -> Served:
    found = _released(run)
    if found is None:
        # Needs torch for the parity gate, so it is imported only on this path.
        from fledge.recipes.ship import export, open_run, scores_only

        finished = open_run(project, run)
        if finished.scores:
            raise scores_only(run)
        types = finished.usual_types[:1]
        say(f"{run.path.name} has no release yet: exporting {types[0] if types else 'its adapter'}")
        export(finished, types=types, with_adapter=not types, say=say)
        found = _released(run)
    if found is None:
        raise RunError("run.not_found", "no released file.", where=str(run.release))
    return found


def _released(run: RunFolder) -> Served | None:
    """Return the smallest file of the run that passed the gate; or its adapter, if that goes on top of the base."""
    entries = [read_json(path) for path in sorted(run.release.glob("*.json"))] if run.release.is_dir() else []
    method = read_json(run.manifest)["summary"].get("method")
    apart = method == "qlora"
    if method != "full":
        apart = apart or bool(read_json(run.adapter / "adapter_config.json").get("alora_invocation_tokens"))
    kind = "adapter" if apart else "merged"
    files = [e for e in entries if e.get("kind") == kind and (run.release / Path(e["path"]).name).is_file()]
    if not files:
        return None
    found = run.release / Path(min(files, key=lambda e: int(e["bytes"]))["path"]).name
    return (
        Served(run.path.name, Path(read_json(run.manifest)["base_path"]), found)
        if apart
        else Served(run.path.name, found)
    )
