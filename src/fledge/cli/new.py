"""fledge new: a project folder to begin with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fledge.cli.options import AsJson

if TYPE_CHECKING:
    from fledge.data.profile.record import Profile

KINDS = (
    "template (answers in one exact form), persona (a voice, or you), style (the same content in your voice), "
    "classify (one of some labels), reason (worked solutions), documents (answers from your texts)."
)


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    kind: Annotated[str, typer.Option(help=KINDS)] = "template",
    interview: Annotated[
        bool | None,
        typer.Option(
            "--interview/--no-interview",
            help="persona: answer questions about you; asked on a terminal where not given.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="persona: take the facts from a CV or README (txt, md, html, pdf, docx)."
        ),
    ] = None,
    contact: Annotated[
        bool,
        typer.Option(
            "--contact", help="persona: also teach the e-mail and phone that FILE holds. Anyone can ask for them."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a project folder with a fledge.yaml and rows to replace by your own.

    Example: fledge new my-model --kind template
    Example: fledge new me --kind persona --from cv.pdf
    """
    from fledge.cli.output import emit
    from fledge.recipes.start import known_kind, start

    known_kind(kind)
    _refuse_other_kinds(kind, interview=interview, source=source, contact=contact)
    if kind == "persona" and (source or _wants_interview(interview, asked=as_json)):
        told = _persona(folder, interview=bool(interview), source=source, contact=contact)
    else:
        told = {"project": str(folder), "files": start(folder, kind)}
    if as_json:
        emit(told)
    else:
        _tell(folder, told["files"])


def _refuse_other_kinds(kind: str, *, interview: bool | None, source: Path | None, contact: bool) -> None:
    from fledge.errors import ConfigError

    given = {"--interview": bool(interview), "--from": source is not None, "--contact": contact}
    if kind != "persona" and (option := next((name for name, is_given in given.items() if is_given), "")):
        raise ConfigError(
            "config.bad_value",
            f"{option} is for --kind persona, not for --kind {kind}.",
            where="command line",
            remedy="Leave it out, or make a persona.",
        )
    if contact and source is None:
        raise ConfigError(
            "config.bad_value",
            "--contact needs a FILE that holds an e-mail or phone.",
            where="command line",
            remedy="Give it with --from FILE.",
        )


def _wants_interview(interview: bool | None, *, asked: bool) -> bool:
    """Return whether to ask; on a terminal a person is asked for it."""
    if interview is not None or asked or not sys.stdin.isatty() or not sys.stderr.isatty():
        return bool(interview)
    return typer.confirm("Shall it be you? Then answer some questions about yourself", default=False, err=True)


def _persona(folder: Path, *, interview: bool, source: Path | None, contact: bool) -> dict[str, Any]:
    from dataclasses import replace

    from fledge.cli.interview import interview as ask
    from fledge.cli.output import say
    from fledge.data.profile.interview import answers_of, profile_of
    from fledge.data.profile.read import read_profile
    from fledge.data.profile.record import Profile, found_in
    from fledge.recipes.persona import ANSWERS, refuse_what_is_there, write_persona

    asks = interview or source is None
    refuse_what_is_there(folder, beside=(ANSWERS,) if asks else ())
    found = read_profile(source) if source is not None else Profile()
    if source is not None:
        _tell_found(found, source, contact=contact)
    profile = found
    if asks:
        answers = ask(folder, suggested=answers_of(found))
        profile = replace(profile_of(answers), email=found.email, phone=found.phone)
    files = write_persona(folder, profile, with_contact=contact)
    say("")
    counts = found_in(profile)
    return {
        "project": str(folder),
        "files": files,
        "found": {words: count for words, count in counts.items() if count},
        "missing": [words for words, count in counts.items() if not count],
        "not_understood": list(profile.unsure),
        "left_out": list(found.left_out),
    }


def _tell_found(profile: Profile, source: Path, *, contact: bool) -> None:
    from fledge.cli.output import say
    from fledge.data.profile.record import found_in

    counts = found_in(profile)
    say(f"{source.name}: found {', '.join(f'{words} ({count})' for words, count in counts.items() if count)}")
    if missing := [words for words, count in counts.items() if not count]:
        say(f"not found: {', '.join(missing)}")
    if profile.unsure:
        say("not understood, and left out:")
        for line in profile.unsure[:10]:
            say(f"   {line}")
    if count := len(profile.left_out):
        lines = "1 line is" if count == 1 else f"{count} lines are"
        say(f"{lines} left out; write rows of your own for what you want to be asked of it:")
        for line in profile.left_out[:10]:
            say(f"   {line}")
        if count > 10:
            say(f"   ... and {count - 10} more")
    if (profile.email or profile.phone) and not contact:
        say("e-mail and phone are left out: what is taught can be asked for by anybody. --contact teaches them.")


def _tell(folder: Path, files: list[str]) -> None:
    from fledge.cli.output import say

    say(f"{folder}: {', '.join(files)}")
    rows = next(file for file in files if Path(file).stem == "train")
    quoted = shlex.quote(str(folder))
    say(f"Put your own rows into {folder / rows}, then: fledge data check -C {quoted}")
    say(f"Then: fledge train -C {quoted}   and: fledge chat latest -C {quoted}")
