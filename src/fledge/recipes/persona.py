"""Profile -> a project folder that learns to answer as that person: facts, rows, knobs, a page to read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fledge.data.profile.lessons import Lesson, lessons_of
from fledge.data.profile.record import Profile
from fledge.errors import ConfigError, DataError, writing
from fledge.project import staged_file, staged_folder

# Answers stand here from the first on, so that an interview which was interrupted goes on.
ANSWERS = "interview.yaml"

KNOBS = """\
# A model that answers questions about {whose}. Every knob, with its meaning: docs/config.md of fledge.
model: smollm2-135m             # `fledge models list` shows the others; a .gguf file or a folder works too

data:
  train: data/train.jsonl       # what is learnt: every fact asked for in several wordings; add your own
  eval: data/eval.jsonl         # the same facts in other wordings; never learnt, only measured with
  # Who speaks. It stands before every row while learning, and before every conversation afterwards.
  system: {system}

generate:
  temperature: 0                # a fact is said in the same words every time
  max_tokens: {max_tokens:<18}# no answer is longer

evaluate:
  score: contains               # a reply is right when it holds the row's 'answer': the words that matter
"""
PAGE = """\
# A model that answers questions about {whose}

Made by `fledge new --kind persona`: {num_facts} facts, each asked for in several wordings.

1. Read `data/train.jsonl` from top to bottom: what stands there is what the model will say to everybody who
   asks. Change what is not how you would say it, and take out what is not everybody's business.
2. `data/facts.yaml` holds the same facts with the words that no answer may lose. Add a fact there, and its rows to
   `data/train.jsonl` and `data/eval.jsonl`: three or more wordings to learn, one to measure with.
3. What nobody told is answered with "{untold}". Put other such questions there, so that nothing is made up.

```sh
fledge data check                                   # what is wrong with the rows, and what to do
fledge train                                        # some minutes on two cores
fledge eval latest --against smollm2-135m           # how many facts it knows
fledge chat latest                                  # talk to it
```
"""
CHARS_PER_TOKEN = 3


def write_persona(folder: Path, profile: Profile, *, with_contact: bool = False) -> list[str]:
    """Make `folder` for a profile and return its files. Answers of an interview that stand in it already are kept.

    Raises DataError where the profile holds nothing to teach, ConfigError where something else is in the way.
    """
    lessons = lessons_of(profile, with_contact=with_contact)
    if not lessons:
        raise DataError(
            "data.empty",
            "nothing was told that could be taught.",
            where=str(folder),
            remedy="Answer at least one question, or give a CV or README with --from FILE.",
        )
    refuse_what_is_there(folder, beside=(ANSWERS,))
    with staged_folder(folder) as staged:
        (staged / "data").mkdir()
        texts = {
            "fledge.yaml": _knobs(profile, lessons),
            "README.md": PAGE.format(whose=_whose(profile), num_facts=len(lessons), untold=lessons[-1].answer),
            "data/facts.yaml": yaml.safe_dump(
                [_fact(lesson) for lesson in lessons], sort_keys=False, allow_unicode=True
            ),
            "data/train.jsonl": _lines(_rows(lessons)),
            "data/eval.jsonl": _lines(_held_out(lessons)),
        }
        for name, text in texts.items():
            (staged / name).write_text(text, encoding="utf-8")
        if (folder / ANSWERS).is_file():
            shutil.copyfile(folder / ANSWERS, staged / ANSWERS)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refuse_what_is_there(folder: Path, *, beside: Sequence[str] = ()) -> None:
    """Raise ConfigError where `folder` is a file or holds anything but what stands in `beside`."""
    if folder.exists() and (not folder.is_dir() or any(path.name not in beside for path in folder.iterdir())):
        unfinished = folder.is_dir() and (folder / ANSWERS).is_file() and not (folder / "fledge.yaml").exists()
        hint = " An interview that was begun in it goes on with --interview." if unfinished else ""
        raise ConfigError(
            "config.exists",
            "there is something in it already.",
            where=str(folder),
            remedy=f"Choose another folder.{hint}",
        )


def read_answers(folder: Path) -> dict[str, str]:
    """Return the answers that were given so far. Raises ConfigError where the file is damaged."""
    path = folder / ANSWERS
    if not path.is_file():
        return {}
    try:
        kept = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        kept = None
    if not isinstance(kept, dict) or not all(isinstance(key, str) for key in kept):
        raise ConfigError(
            "config.bad_yaml",
            "the answers of the interview cannot be read.",
            where=str(path),
            remedy="Mend the file, or remove it to begin anew.",
        )
    return {key: "" if value is None else str(value) for key, value in kept.items()}


def keep_answers(folder: Path, answers: Mapping[str, str]) -> None:
    """Write the answers given so far, whole or not at all."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with staged_file(folder / ANSWERS) as file:
        file.write("# Your answers. The interview goes on where they end; an empty one was skipped.\n")
        yaml.safe_dump(dict(answers), file, sort_keys=False, allow_unicode=True)


def _whose(profile: Profile) -> str:
    return profile.name or (profile.projects[0].name if profile.projects else "you")


def _knobs(profile: Profile, lessons: Sequence[Lesson]) -> str:
    if profile.name:
        system = f"You are {profile.name}. You answer questions about yourself."
    elif profile.projects:
        system = f"You answer questions about {profile.projects[0].name}."
    else:
        system = "You answer questions about yourself."
    longest = max(len(lesson.answer) for lesson in lessons)
    room = 32 * (1 + longest // CHARS_PER_TOKEN // 32 + 1)
    # JSON's quotes are YAML's too, whatever stands in a name.
    return KNOBS.format(whose=_whose(profile), system=json.dumps(system, ensure_ascii=False), max_tokens=room)


def _fact(lesson: Lesson) -> dict[str, Any]:
    return {
        "name": lesson.group, "fact": lesson.answer, "keys": [lesson.key], "questions": list(lesson.questions),
    }  # fmt: skip


def _rows(lessons: Sequence[Lesson]) -> list[dict[str, str]]:
    return [{"prompt": question, "completion": lesson.answer} for lesson in lessons for question in lesson.questions]


def _held_out(lessons: Sequence[Lesson]) -> list[dict[str, str]]:
    return [
        {"prompt": question, "completion": lesson.answer, "answer": lesson.key, "group": lesson.group}
        for lesson in lessons
        for question in lesson.held_out
    ]


def _lines(rows: Sequence[Mapping[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
