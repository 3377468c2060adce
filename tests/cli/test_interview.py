"""`fledge new --kind persona` as a person meets it: on a terminal, with Ctrl-C, empty answers, odd bytes and a CV."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import cvs
from fledge.config_file import load_config
from fledge.data.facts import read_facts
from fledge.recipes.prepare import read_project

TIMEOUT_S = 60


class Terminal:
    """A process on a pseudo-terminal, as a person sits before it."""

    def __init__(self, process: subprocess.Popen[bytes], handle: int) -> None:
        self.process, self._handle, self._seen, self._place = process, handle, b"", 0

    def wait_for(self, words: str) -> str:
        """Read on until `words` stand on the screen after what was waited for before; return what stood before them."""
        end = time.monotonic() + TIMEOUT_S
        while (found := self._seen.find(words.encode(), self._place)) < 0:
            left = end - time.monotonic()
            assert left > 0, f"no {words!r} in {self.screen[-2000:]!r}"
            if select.select([self._handle], [], [], left)[0]:
                self._seen += self._read()
        before = self._seen[self._place : found].decode("utf-8", errors="replace")
        self._place = found + len(words.encode())
        return before

    def _read(self) -> bytes:
        try:
            return os.read(self._handle, 4096)
        except OSError:  # what Linux says when the other side is closed
            raise AssertionError(f"it ended: {self.screen[-2000:]}") from None

    @property
    def screen(self) -> str:
        return self._seen.decode("utf-8", errors="replace")

    def type(self, words: str | bytes) -> None:
        """Answer the next question."""
        self.wait_for("> ")
        os.write(self._handle, (words.encode() if isinstance(words, str) else words) + b"\n")

    def interrupt(self) -> None:
        self.wait_for("> ")
        os.write(self._handle, b"\x03")

    def end(self) -> int:
        """Wait for the end of the process, reading what it still says; return its exit code."""
        end = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < end, self.screen[-2000:]
            if select.select([self._handle], [], [], 0.1)[0]:
                try:
                    self._seen += os.read(self._handle, 4096)
                except OSError:
                    break
        return self.process.wait(TIMEOUT_S)


@contextmanager
def terminal(folder: Path, *options: str) -> Iterator[Terminal]:
    """`fledge new me --kind persona` on a terminal of 200 columns."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fledge", "new", "me", "--kind", "persona", *options]
    environment = os.environ | {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait(TIMEOUT_S)
        os.close(ours)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "data" / name).read_text(encoding="utf-8").splitlines()]


def skip_to_the_end(shell: Terminal) -> int:
    """Skip what is still asked: an empty answer each, as long as there is a question."""
    while True:
        try:
            shell.type("")
        except AssertionError:
            return shell.end()


def test_an_interview_interrupted_and_gone_on_with(tmp_path: Path) -> None:
    with terminal(tmp_path, "--interview") as shell:
        shell.wait_for("What is your name?")
        shell.type("Zoë Quiñones")
        shell.wait_for("What do you do")
        shell.type("violin maker")
        shell.wait_for("Where do you live?")
        shell.interrupt()
        shell.wait_for("2 answers are kept in me")
        assert shell.end() == 130
    assert [path.name for path in (tmp_path / "me").iterdir()] == ["interview.yaml"]

    with terminal(tmp_path, "--interview") as shell:
        shell.wait_for("goes on where you stopped")
        before = shell.wait_for("Where do you live?")
        assert "What is your name?" not in before, "nothing is asked twice"
        shell.type("Lugo")
        shell.wait_for("sentences about you")
        shell.type("<")
        shell.wait_for("Where do you live?")
        shell.type("Vigo")
        shell.wait_for("sentences about you")
        shell.type("")
        shell.wait_for("what have you worked as")
        shell.type("apprentice")
        shell.wait_for("At which company")
        shell.type("Taller \N{LATIN SMALL LETTER N WITH TILDE}and\u00fa".encode("latin-1"))
        shell.wait_for("read as Windows-1252: Taller ñandú")
        shell.type("2010")
        shell.type("2014")
        shell.wait_for("Another job?")
        assert skip_to_the_end(shell) == 0

    config = load_config(tmp_path / "me")
    assert config.data.system == "You are Zoë Quiñones. You answer questions about yourself."
    learnt = {row["prompt"]: row["completion"] for row in rows(tmp_path / "me", "train.jsonl")}
    assert learnt["Where do you live?"] == "I live in Vigo."
    assert learnt["What did you do at Taller ñandú?"] == "I worked as an apprentice at Taller ñandú from 2010 to 2014."
    assert not any("skills" in question for question in learnt), "what was skipped is not taught"
    kept = yaml.safe_load((tmp_path / "me/interview.yaml").read_text(encoding="utf-8"))
    assert (kept["name"], kept["place"], kept["skills"]) == ("Zoë Quiñones", "Vigo", "")
    facts = read_facts(tmp_path / "me/data/facts.yaml")
    assert {fact.group: fact.text for fact in facts}["name"] == "My name is Zoë Quiñones."


def test_all_questions_skipped_make_no_project(tmp_path: Path) -> None:
    with terminal(tmp_path, "--interview") as shell:
        assert skip_to_the_end(shell) == 2
        assert "nothing was told that could be taught" in shell.screen
    assert not (tmp_path / "me/fledge.yaml").exists()


def test_ctrl_c_before_any_answer_leaves_nothing(tmp_path: Path) -> None:
    with terminal(tmp_path, "--interview") as shell:
        shell.interrupt()
        shell.wait_for("nothing is kept")
        assert shell.end() == 130
    assert not (tmp_path / "me").exists()


def test_on_a_terminal_a_person_is_asked_whether_it_shall_be_them(tmp_path: Path) -> None:
    with terminal(tmp_path) as shell:
        shell.wait_for("answer some questions about yourself")
        shell.wait_for(":")
        os.write(shell._handle, b"n\n")
        assert shell.end() == 0
    assert "Gull Point" in (tmp_path / "me/fledge.yaml").read_text(encoding="utf-8"), "the shipped example"


def test_what_a_cv_told_is_kept_with_enter_changed_or_taken_out(tmp_path: Path) -> None:
    (tmp_path / "cv.md").write_text(cvs.HEADINGS_MD, encoding="utf-8")
    with terminal(tmp_path, "--interview", "--from", "cv.md") as shell:
        shell.wait_for("found name (1)")
        shell.wait_for("[Ana Ruiz Ferrer]")
        shell.type("")
        shell.wait_for("[Senior data engineer]")
        shell.type("plumber")
        shell.wait_for("[Porto, Portugal]")
        shell.type("-")
        assert skip_to_the_end(shell) == 0
    learnt = {row["prompt"]: row["completion"] for row in rows(tmp_path / "me", "train.jsonl")}
    assert learnt["What is your name?"] == "My name is Ana Ruiz Ferrer."
    assert learnt["What do you do?"] == "I work as a plumber."
    assert "Where do you live?" not in learnt
    assert "I worked as a Maths Teacher at Escola Secundária do Bolhão from 2014 to 2018." in learnt.values()


def new(folder: Path, *options: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "fledge", "new", *options]
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, timeout=TIMEOUT_S)


def test_a_cv_makes_a_project_at_once(tmp_path: Path) -> None:
    (tmp_path / "cv.txt").write_text(cvs.COLUMNS_TXT, encoding="utf-8")
    done = new(tmp_path, "me", "--kind", "persona", "--from", "cv.txt", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["project"] == "me"
    assert told["files"] == ["README.md", "data/eval.jsonl", "data/facts.yaml", "data/train.jsonl", "fledge.yaml"]
    assert told["found"]["jobs"] == 3
    assert told["missing"] == ["about you", "links", "projects", "interests"]
    assert b"0221 555 0147" not in (tmp_path / "me/data/train.jsonl").read_bytes()
    read = read_project(tmp_path / "me", load_config(tmp_path / "me"))
    assert len(read.train) > 40
    assert len(read.held_out) > 10
    assert {row.group for row in read.held_out} == {fact.group for fact in read_facts(tmp_path / "me/data/facts.yaml")}


def test_answers_may_come_through_a_pipe_in_any_encoding(tmp_path: Path) -> None:
    done = new(tmp_path, "me", "--kind", "persona", "--interview", given="Jörg Wäber\nKoch\n".encode("cp1252"))
    assert done.returncode == 130, "the input ended before the questions did"
    assert b"2 answers are kept in me" in done.stderr
    done = new(tmp_path, "me", "--kind", "persona", "--interview", given=b"\n" * 40)
    assert done.returncode == 0, done.stderr
    assert "My name is Jörg Wäber." in (tmp_path / "me/data/train.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("full", "--kind", "persona", "--from", "cv.md"), "full: there is something in it already."),
        (("full", "--kind", "persona", "--interview"), "full: there is something in it already."),
        (
            ("begun", "--kind", "persona"),
            "it already. Choose another folder. An interview that was begun",
        ),
        (("me", "--kind", "persona", "--from", "cv.mdd"), "cv.mdd: no such file; did you mean 'cv.md'?"),
        (("me", "--kind", "persona", "--from", "rows.csv"), "rows.csv: is no document; a CV or a README as txt, md"),
        (("me", "--kind", "persona", "--from", "poem.txt"), "poem.txt: nothing in it reads like a CV or a README"),
        (("me", "--kind", "style", "--from", "cv.md"), "--from is for --kind persona, not for --kind style"),
        (("me", "--kind", "persona", "--contact"), "--contact needs a FILE"),
        (("me", "--kind", "persons"), "there is no kind 'persons'; did you mean 'persona'?"),
        (
            ("damaged", "--kind", "persona", "--interview"),
            "interview.yaml: the answers of the interview cannot be read",
        ),
    ],
)
def test_bad_input_is_one_clear_line_and_makes_nothing(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    (tmp_path / "cv.md").write_text(cvs.HEADINGS_MD, encoding="utf-8")
    (tmp_path / "poem.txt").write_text("The wind is in the reeds tonight.\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text("question,answer\na,b\n", encoding="utf-8")
    for folder, file, text in [
        ("full", "notes.txt", "mine"), ("begun", "interview.yaml", "name: Jo"), ("damaged", "interview.yaml", "- ["),
    ]:  # fmt: skip
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(text, encoding="utf-8")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    done = new(tmp_path, *options)
    assert done.returncode == 2, done.stderr
    error = done.stderr.decode().strip().splitlines()[-1]
    assert words in error
    assert "Traceback" not in done.stderr.decode()
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert re.fullmatch(r"error: .+", error)
