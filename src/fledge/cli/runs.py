"""fledge runs: what was trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir, Run

app = typer.Typer(help="The runs of a project.", no_args_is_help=True)


@app.command("list")
def list_(project: ProjectDir = HERE, as_json: AsJson = False) -> None:
    """List the runs of the project, oldest first.

    Example: fledge runs list -C my-model
    """
    from fledge.cli.output import duration, emit
    from fledge.project import list_runs

    runs = [_describe(run.path) for run in list_runs(project)]
    if as_json:
        emit({"runs": runs})
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("run", no_wrap=True), "state", "steps", "loss", "held-out", "time", "files", box=None)
    for run in runs:
        summary = run["summary"] or {}
        held_out, loss = summary.get("eval_loss"), summary.get("loss_last")
        table.add_row(
            run["run"],
            run["state"],
            str(summary.get("steps", "")),
            "" if loss is None else f"{loss:.3f}",
            "" if held_out is None else f"{held_out:.3f}",
            duration(summary["seconds"]) if summary else "",
            ", ".join(Path(file["path"]).suffixes[-2].lstrip(".") for file in run["files"]),
        )
    Console().print(table if runs else "no runs yet: `fledge train` makes one")


@app.command()
def show(run: Run, project: ProjectDir = HERE, as_json: AsJson = False) -> None:
    """Show one run: its knobs with the reasons, what came out, its files.

    Example: fledge runs show latest
    """
    import yaml

    from fledge.cli.output import emit
    from fledge.errors import RunError
    from fledge.project import find_run

    found = find_run(project, run)
    described = _describe(found.path)
    try:
        record = yaml.safe_load(found.knobs.read_text(encoding="utf-8"))
        described |= {"knobs": record["knobs"], "notes": record["notes"]}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(
            "run.not_found",
            "its run.yaml is missing or damaged.",
            where=str(found.path),
            remedy="Remove the run folder.",
        ) from error
    if as_json:
        emit(described)
    else:
        print(yaml.safe_dump(described, sort_keys=False, allow_unicode=True), end="")


def _describe(path: Path) -> dict[str, Any]:
    from fledge.errors import RunError
    from fledge.project import RunFolder, read_json

    run = RunFolder(path)
    described: dict[str, Any] = {"run": path.name, "path": str(path.resolve()), "state": "interrupted"}
    described |= {"model": None, "summary": None, "files": [], "verdict": None}
    try:
        if run.finished:
            manifest = read_json(run.manifest)
            described |= {"state": "finished", "model": manifest.get("model"), "summary": manifest.get("summary")}
        if run.release.is_dir():
            described["files"] = [read_json(file) for file in sorted(run.release.glob("*.json"))]
        if run.verdict.is_file():
            described["verdict"] = read_json(run.verdict)
    except RunError:
        # One damaged file must not hide the other runs.
        described["state"] = "damaged"
    return described
