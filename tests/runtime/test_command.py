"""A command that answers: what it prints, how it fails, and that nothing of it is left running."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fledge.errors import ConfigError, TeacherError
from fledge.runtime.command import Command


def running(marker: str) -> bool:
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return any(marker in line and not line.startswith("ps ") for line in lines)


def test_the_prompt_goes_in_and_the_answer_comes_out() -> None:
    assert Command("cat").ask("Grüße\n") == "Grüße\n"
    assert Command("sh -c 'tr a-z A-Z | head -c 5'").ask("hello world" * 99999) == "HELLO"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sh -c 'echo not logged in >&2; exit 3'", "'sh' ended with exit code 3: not logged in"),
        ("sh -c 'exit 1'", "exit code 1: it said nothing"),
        ("true", "'true' printed nothing"),
        ("sh -c 'kill -9 $$'", "exit code -9"),
    ],
)
def test_how_it_fails(line: str, expected: str) -> None:
    with pytest.raises(TeacherError) as caught:
        Command(line).ask("x")
    assert caught.value.code == "teacher.failed"
    assert expected in str(caught.value)


def test_it_ends_with_all_that_it_started() -> None:
    marker = f"31415.{os.getpid()}"
    started = time.monotonic()
    with pytest.raises(TeacherError, match=r"did not answer within 0.4 s"):
        Command(f"sh -c 'sleep {marker} & sleep {marker}'", timeout_s=0.4).ask("x")
    assert time.monotonic() - started < 5
    time.sleep(0.1)
    assert not running(f"sleep {marker}")


def test_closing_ends_what_runs() -> None:
    # Of this run alone: what an earlier one left would be taken for ours.
    marker = f"27182.{os.getpid()}"
    command = Command(f"sleep {marker}")
    failures: list[TeacherError] = []

    def ask() -> None:
        try:
            command.ask("x")
        except TeacherError as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not running(f"sleep {marker}"):
        time.sleep(0.02)
    command.close()
    thread.join(5)
    assert len(failures) == 1 and not running(f"sleep {marker}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("", "no program"), ("no-such-program -x", "no program 'no-such-program'"), ("sh -c 'x", "quot")],
)
def test_what_is_no_command(line: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        Command(line)


def test_a_command_that_prints_without_end_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(TeacherError, match="printed more than 4 MB"):
        Command("yes", timeout_s=60).ask("x")
    assert time.monotonic() - started < 20
    # What it complains of is read away, however much it is.
    assert Command("sh -c 'head -c 20000000 /dev/zero >&2; echo well'").ask("x") == "well\n"


def test_what_it_leaves_in_a_group_of_its_own_does_not_hold_up_the_timeout() -> None:
    marker = f"16180.{os.getpid()}"
    started = time.monotonic()
    with pytest.raises(TeacherError, match="did not answer within"):
        Command(f"sh -c 'setsid sleep {marker} & echo hi'", timeout_s=0.5).ask("x")
    assert time.monotonic() - started < 6
    subprocess.run(["pkill", "-f", f"sleep {marker}"], check=False)
