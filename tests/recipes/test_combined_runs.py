"""Runs put together are a run: exported through the gate, listed, reported; what does not fit writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fledge.config_file import load_config
from fledge.errors import ConfigError, DiskError, RunError
from fledge.model.adapter import load_adapter
from fledge.model.combine import Recipe
from fledge.project import list_runs, read_json
from fledge.recipes.combine import combine_runs, weights_of
from fledge.recipes.ship import export, open_run
from fledge.recipes.tune import resume, tune
from tiny import save_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over one base that learnt with different seeds."""
    folder = save_project(tmp_path_factory.mktemp("combine") / "project")
    for seed in (0, 1):
        tune(folder, load_config(folder, [f"train.seed={seed}"]))
    return folder


def test_two_runs_become_one_that_is_exported(project: Path) -> None:
    runs = list_runs(project)[:2]
    told = combine_runs(project, runs, Recipe("linear", (0.75, 0.25)))
    made = list_runs(project)[-1]
    assert told["run"] == made.path.name and made.path.name.endswith("-merge-model") and told["rank"] == 8
    assert told["bytes"] == (made.adapter / "adapter_model.safetensors").stat().st_size
    one, two = (load_adapter(run.adapter) for run in runs)
    for name, (a, b) in load_adapter(made.adapter).pairs().items():
        parts = [w * x.scale * (x.pairs()[name][1] @ x.pairs()[name][0]) for w, x in ((0.75, one), (0.25, two))]
        assert b @ a == pytest.approx(parts[0] + parts[1], abs=1e-5)
    manifest = read_json(made.manifest)
    assert list(manifest["parents"]) == [run.path.name for run in runs]
    files = export(open_run(project, made), types=["f16"], with_adapter=False)["files"]
    assert files[0]["parity"]["passed"]
    with pytest.raises(RunError, match="made of other runs"):
        resume(project, made)
    page = made.report.read_text(encoding="utf-8")
    assert f"0.75 × {runs[0].path.name}" in page and "not trained" in page


def test_nothing_is_written_for_what_does_not_fit(project: Path) -> None:
    runs, before = list_runs(project)[:2], len(list_runs(project))
    with pytest.raises(ConfigError, match="3 weights for 2 runs"):
        combine_runs(project, runs, Recipe("linear", (1.0, 1.0, 1.0)))
    with pytest.raises(ConfigError, match="all weights are 0"):
        combine_runs(project, runs, Recipe("linear", (0.0, 0.0)))
    for text in ("a,b", "nan,1", "inf"):
        with pytest.raises(ConfigError, match="no list of numbers"):
            weights_of(text)
    manifest = runs[1].manifest
    held = manifest.read_text(encoding="utf-8")
    manifest.write_text(json.dumps(json.loads(held) | {"base_sha256": "another"}), encoding="utf-8")
    try:
        with pytest.raises(RunError, match="another base"):
            combine_runs(project, runs, Recipe("linear", (1.0, 1.0)))
    finally:
        manifest.write_text(held, encoding="utf-8")
    assert len(list_runs(project)) == before


def test_a_run_that_could_not_be_written_leaves_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(list_runs(project))

    def full(*_: object) -> None:
        raise DiskError("setup.disk", "no room.")

    monkeypatch.setattr("fledge.recipes.combine.save_adapter", full)
    with pytest.raises(DiskError):
        combine_runs(project, list_runs(project)[:2], Recipe("linear", (1.0, 1.0)))
    assert len(list_runs(project)) == before
