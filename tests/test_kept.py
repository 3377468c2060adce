"""What is kept is whole or not there, and never more than fits."""

from __future__ import annotations

import os
from pathlib import Path

from fledge.kept import keep, read_kept


def test_what_is_kept_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.one"
    assert read_kept(path) is None
    keep(path, b"held", most_bytes=1000)
    assert read_kept(path) == b"held" and [p.name for p in path.parent.iterdir()] == ["a.one"]
    for damaged in (path.read_bytes()[:-1], path.read_bytes()[:-1] + b"x", b""):
        path.write_bytes(damaged)
        assert read_kept(path) is None


def test_the_oldest_of_a_kind_go_where_all_do_not_fit(tmp_path: Path) -> None:
    for age, name in enumerate(("new.one", "old.one", "oldest.one", "other.two")):
        keep(tmp_path / name, bytes(100), most_bytes=10_000)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert read_kept(tmp_path / "oldest.one") is not None, "and counts as used now"
    keep(tmp_path / "last.one", bytes(100), most_bytes=3 * 132)
    assert {path.name for path in tmp_path.iterdir()} == {"last.one", "oldest.one", "new.one", "other.two"}


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    keep(tmp_path / "file" / "a.one", b"held", most_bytes=1000)
    assert read_kept(tmp_path / "file" / "a.one") is None
