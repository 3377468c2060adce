"""What was trained in a way that llama.cpp does not know by itself is exported right or refused in words."""

from __future__ import annotations

from pathlib import Path

from fledge.config_file import load_config
from fledge.project import find_run
from fledge.recipes.ship import export, open_run
from fledge.recipes.tune import tune
from tiny import save_project


def test_a_run_with_dora_is_merged_and_let_through(tmp_path: Path) -> None:
    project = save_project(tmp_path / "project", epochs=8, dora=True)
    said: list[str] = []
    assert tune(project, load_config(project))["loss_last"] < 6
    told = export(open_run(project, find_run(project, "latest")), types=["f16"], with_adapter=True, say=said.append)
    assert [entry["kind"] for entry in told["files"]] == ["merged"]
    assert told["files"][0]["parity"]["passed"]
    assert any("llama.cpp cannot run DoRA" in line for line in said)
