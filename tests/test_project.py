"""Project and run folders: whole files or none, and every run found by what people call it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from fledge.errors import DiskError, RunError
from fledge.project import (
    find_run,
    list_runs,
    new_run,
    read_json,
    sha256_of,
    staged_folder,
    write_bytes_atomic,
    write_json_atomic,
)


def test_a_write_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json_atomic(path, {"a": "東京"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "東京"\n}\n'
    assert read_json(path) == {"a": "東京"}
    write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]
    assert sha256_of(path) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"


def test_files_and_folders_get_the_users_own_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes_atomic(tmp_path / "file", b"")
        with staged_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="file: cannot write: No space left on device") as caught:
        write_bytes_atomic(path, b"new")
    assert caught.value.code == "setup.disk"
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "folder"
    with staged_folder(final) as staging:
        (staging / "one").write_text("1")
        assert not final.exists()
    assert (final / "one").read_text() == "1"
    with pytest.raises(KeyboardInterrupt), staged_folder(final) as staging:
        (staging / "two").write_text("2")
        raise KeyboardInterrupt
    assert [p.name for p in final.iterdir()] == ["one"]
    with staged_folder(final) as staging:
        (staging / "three").write_text("3")
    assert [p.name for p in final.iterdir()] == ["three"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_runs_are_numbered_and_found(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    with pytest.raises(RunError, match=r"no run 'latest'.*`fledge train`"):
        find_run(tmp_path, "latest")
    first, second = new_run(tmp_path, "sft-smollm2"), new_run(tmp_path, "sft-other")
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "0003-file").write_text("")
    assert [run.path.name for run in list_runs(tmp_path)] == ["0001-sft-smollm2", "0002-sft-other"]
    for spec in ("2", "0002", "latest", "0002-sft-other", str(second.path), "runs/0002-sft-other"):
        assert find_run(tmp_path, spec) == second, spec
    assert find_run(tmp_path, "1") == first
    for spec in ("3", "²", "sft", "notes", "..", ""):
        with pytest.raises(RunError, match="there is no run") as caught:
            find_run(tmp_path, spec)
        assert caught.value.code == "run.not_found"
        assert "0001-sft-smollm2, 0002-sft-other" in caught.value.remedy
    with pytest.raises(RunError, match="did you mean '0001-sft-smollm2'"):
        find_run(tmp_path, "0001-sft-smolm2")
    assert new_run(tmp_path, "x").number == 3


def test_the_ten_thousandth_run_comes_last(tmp_path: Path) -> None:
    for number in ("9999", "10000", "0002"):
        (tmp_path / "runs" / f"{number}-sft").mkdir(parents=True)
    assert [run.number for run in list_runs(tmp_path)] == [2, 9999, 10000]
    assert find_run(tmp_path, "latest").number == 10000
    assert new_run(tmp_path, "sft").number == 10001


def test_many_at_once_never_get_the_same_number(tmp_path: Path) -> None:
    found: list[int] = []
    start = threading.Barrier(8)

    def make(label: str) -> None:
        start.wait()
        found.extend(new_run(tmp_path, label).number for _ in range(10))

    threads = [threading.Thread(target=make, args=(f"label-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 81))


def test_a_damaged_json_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    for content in ("{", "[1]"):
        path.write_text(content)
        with pytest.raises(RunError, match="cannot be read"):
            read_json(path)
    with pytest.raises(RunError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_a_run_is_finished_by_its_manifest(tmp_path: Path) -> None:
    run = new_run(tmp_path, "sft")
    assert not run.finished
    run.manifest.write_text(json.dumps({}))
    assert run.finished
