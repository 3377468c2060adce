"""The interview on a terminal: one question at a time, each answer kept at once, Ctrl-C at any time."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from fledge.cli.output import console, say

BACK, CLEAR = "<", "-"


class Ended(Exception):
    """There is no more input."""


def interview(folder: Path, *, suggested: Mapping[str, str]) -> dict[str, str]:
    """Ask what is not answered yet and return all answers. `suggested` are kept with Enter.

    Ctrl-C, and the end of the input, leave the answers so far in the folder. Raises KeyboardInterrupt for both.
    """
    from fledge.data.profile.interview import next_question
    from fledge.recipes.persona import keep_answers, read_answers

    answers = read_answers(folder)
    _greet(goes_on=bool(answers), suggested=bool(suggested))
    try:
        while question := next_question(answers):
            hint = suggested.get(question.key, "")
            given = _ask(question.text, f"[{hint}]" if hint else f"for example: {question.hint}")
            if given == BACK:
                if answers:
                    del answers[list(answers)[-1]]
                continue
            answers[question.key] = "" if given == CLEAR else given or hint
            keep_answers(folder, answers)
    except (KeyboardInterrupt, Ended):
        kept = f"{len(answers)} answers are kept in {folder}; the same command goes on with the next question."
        say(f"\nstopped. {kept if answers else 'Nothing was answered, so nothing is kept.'}")
        raise KeyboardInterrupt from None
    return answers


def _greet(*, goes_on: bool, suggested: bool) -> None:
    say(
        "It goes on where you stopped."
        if goes_on
        else "Some questions about you. The model will know what you tell, and nothing else."
    )
    if suggested:
        say("What was found stands in brackets: Enter keeps it, - takes it out, other words replace it.")
    say("Enter skips a question, < goes back to the one before, Ctrl-C stops and keeps your answers.\n")


def _ask(text: str, hint: str) -> str:
    console.print(text, style="bold", markup=False)
    console.print(f"  {hint}", style="dim", markup=False)
    console.print("> ", end="", markup=False)
    # Bytes, since a terminal may send another encoding than it says, and Python's own decoding would give up.
    line = sys.stdin.buffer.readline()
    if not line:
        raise Ended
    try:
        words = line.decode("utf-8")
    except UnicodeDecodeError:
        words = line.decode("cp1252", errors="replace")
        say(f"  (not UTF-8; read as Windows-1252: {words.strip()})")
    return " ".join("".join(c for c in words if c.isprintable() or c in " \t").split())
