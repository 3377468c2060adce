"""A profile becomes a project whose rows pass every check, whatever stands in a name."""

from __future__ import annotations

from pathlib import Path

import pytest

import cvs
from fledge.config_file import load_config
from fledge.data.facts import read_facts
from fledge.data.profile.read import profile_in
from fledge.data.profile.record import Job, Profile
from fledge.errors import ConfigError, DataError
from fledge.evaluation.scorers import SCORERS
from fledge.recipes.check import Options, check
from fledge.recipes.persona import keep_answers, read_answers, write_persona
from fledge.recipes.prepare import read_project


@pytest.mark.parametrize("name", [name for name in vars(cvs) if name.endswith(("_MD", "_TXT"))])
def test_its_rows_have_no_error_no_leak_and_no_contradiction(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "me"
    write_persona(folder, profile_in(getattr(cvs, name)))
    options = Options(held_out=(folder / "data/eval.jsonl",))
    report = check([folder / "data/train.jsonl"], load_config(folder), options=options)
    assert report.errors == 0
    for code in ("data.leak", "data.duplicate", "data.contradiction", "data.personal", "data.leftover"):
        assert report.counts[code] == 0, [str(p) for p in report.problems if p.code == code]
    rows = read_project(folder, load_config(folder))
    assert all(SCORERS["contains"](row.reply, row) for row in rows.held_out)
    taught = {row.reply for row in rows.train}
    assert {fact.text for fact in read_facts(folder / "data/facts.yaml")} == taught
    assert {row.reply for row in rows.held_out} <= taught


def test_any_name_makes_files_that_can_be_read(tmp_path: Path) -> None:
    name = 'Anna "Ännchen" O\'Neil: {x} | # \\ 李'
    write_persona(tmp_path / "me", Profile(name=name, jobs=(Job("cook", "{employer} & Co: #1", "2010", "2012"),)))
    config = load_config(tmp_path / "me")
    assert config.data.system == f"You are {name}. You answer questions about yourself."
    assert f"My name is {name}." in {row.reply for row in read_project(tmp_path / "me", config).train}
    assert read_facts(tmp_path / "me/data/facts.yaml")[0].keys == (name,)


def test_answers_are_kept_and_damaged_ones_are_told(tmp_path: Path) -> None:
    answers = {"name": "no", "place": "", "about": "1: 2 # 3", "skills": "- a\tb"}
    keep_answers(tmp_path / "me", answers)
    assert read_answers(tmp_path / "me") == answers
    assert read_answers(tmp_path / "you") == {}
    (tmp_path / "me/interview.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_answers(tmp_path / "me")


def test_an_empty_profile_and_a_full_folder_make_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing was told"):
        write_persona(tmp_path / "me", Profile())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "me").mkdir()
    (tmp_path / "me/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something in it"):
        write_persona(tmp_path / "me", Profile(name="Jo Doe"))
    assert [path.name for path in (tmp_path / "me").iterdir()] == ["mine.txt"]
