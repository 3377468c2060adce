"""fledge data check: what to know about rows before they are learnt, said and drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir

if TYPE_CHECKING:
    from fledge.config import Config
    from fledge.data.template import ChatTemplate
    from fledge.errors import Finding
    from fledge.recipes.check import Report
    from fledge.recipes.mend import Mended

# So many examples of each code are shown; all are counted.
SHOWN = 3


def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH", help="Files or folders of rows; none: data.train and data.eval.", show_default=False
        ),
    ] = None,
    held_out: Annotated[
        list[Path] | None, typer.Option("--eval", metavar="PATH", help="Rows held out: what of them is learnt too?")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option("--fix", metavar="OUT.jsonl", help="Write the rows anew, repaired where that is safe."),
    ] = None,
    mask: Annotated[
        bool, typer.Option("--mask", help="With --fix: replace personal data by <EMAIL_1> and the like.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A warning is an error.")] = False,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with rows before a model learns them. Exit code 2 where an error is found.

    Example: fledge data check data/train.jsonl --eval data/eval.jsonl --fix data/clean.jsonl --mask
    """
    from fledge.cli.output import Bars
    from fledge.config import FILE_NAME, Config
    from fledge.config_file import load_config
    from fledge.recipes.check import Options
    from fledge.recipes.check import check as look

    _refuse(fix, mask=mask)
    own = (project / FILE_NAME).is_file()
    config = load_config(project) if own or not paths else Config()
    learnt, held = _given(paths or [], held_out or [], project, config)
    template, why = _template(config, project)
    options = Options(tuple(held), strict)
    with Bars() as bars:
        report = look(learnt, config, template=template, options=options, on_finding=_Teller(), progress=bars)
    report.notes += [why] if why else []
    _tell(report, _fixed(report, fix, config, mask=mask) if fix is not None else None, as_json=as_json)
    if report.errors:
        raise typer.Exit(2)


def _refuse(fix: Path | None, *, mask: bool) -> None:
    """Raise ConfigError for what could not be written, before minutes of reading."""
    from fledge.errors import ConfigError
    from fledge.recipes.mend import refuse_out

    if mask and fix is None:
        raise ConfigError("config.bad_value", "--mask needs --fix.", remedy="For example: --fix clean.jsonl --mask")
    if fix is not None:
        refuse_out(fix)


def _tell(report: Report, fixed: Mended | None, *, as_json: bool) -> None:
    from fledge.cli.output import emit, say

    if as_json:
        emit(_as_json(report, fixed))
    else:
        from fledge.cli.check_picture import draw

        draw(report)
    for note in report.notes:
        say(f"note: {note}.")
    if fixed is not None:
        _tell_fixed(fixed)


class _Teller:
    """Says each problem when it is met, of each code the first few."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()

    def __call__(self, finding: Finding) -> None:
        from fledge.cli.output import say

        self._told[finding.code] += 1
        if self._told[finding.code] <= SHOWN:
            say(f"{finding.severity.value}: {finding}")
        elif self._told[finding.code] == SHOWN + 1:
            say(f"   ... and more of {finding.code}, counted at the end")


def _given(paths: Sequence[Path], held: Sequence[Path], project: Path, config: Config) -> tuple[list[Path], list[Path]]:
    """Return the paths to learn from and to measure with, as given or as the project says."""
    from fledge.recipes.prepare import inside

    told = [inside(project, path) for path in held]
    own = [project / path for path in config.data.eval_paths]
    if paths:
        return [inside(project, path) for path in paths], told
    return [project / path for path in config.data.train_paths], told or own


def _template(config: Config, project: Path) -> tuple[ChatTemplate | None, str]:
    """Return the model's template, or why there is none; nothing is fetched for it."""
    from fledge.data.template import ChatTemplate
    from fledge.errors import FledgeError
    from fledge.model.extended import extend
    from fledge.model.pull import on_this_machine
    from fledge.model.tokenizer import load_tokenizer
    from fledge.model.weights import open_weights

    try:
        path = on_this_machine(config.model, base_dir=project)
        if path is None:
            return (
                None,
                f"tokens are not counted: {config.model} is not on this machine; `fledge models pull` fetches it",
            )
        return ChatTemplate(load_tokenizer(extend(open_weights(path), config.data.add_tokens))), ""
    except FledgeError as error:
        return None, f"tokens are not counted: {error}"


def _fixed(report: Report, out: Path, config: Config, *, mask: bool) -> Mended:
    from fledge.cli.output import Bar
    from fledge.recipes.mend import mend

    paths = [seen.path for seen in report.files if not seen.held_out and seen.format is not None]
    with Bar("writing", report.rows) as bar:
        return mend(paths, out, config, mask=mask, step=bar)


def _tell_fixed(fixed: Mended) -> None:
    from fledge.cli.output import say

    say(f"{fixed.path}: {fixed.rows:,} rows written.")
    for what, count in fixed.changes.most_common():
        say(f"   {count:,} x {what}")
    if fixed.left_out:
        first = ", ".join(fixed.left_out[:5]) + (", ..." if len(fixed.left_out) > 5 else "")
        say(f"   left out, since nothing can read them: {len(fixed.left_out):,} ({first})")


def _as_json(report: Report, fixed: Mended | None) -> Mapping[str, Any]:
    from fledge.data.checks.look import as_mapping

    lengths = report.lengths
    value: dict[str, Any] = {
        "files": [
            {"path": str(f.path), "format": f.format, "rows": f.rows, "ok": not f.errors, "why": f.why,
             "side": "eval" if f.held_out else "train"}
            for f in report.files
        ],
        "rows": report.rows,
        "taught_tokens": lengths.taught_tokens, "prompt_tokens": lengths.prompt_tokens,
        "max_tokens": lengths.max_tokens,
        "duplicates": report.counts["data.duplicate"], "near_duplicates": report.counts["data.near_duplicate"],
        "leaks": report.counts["data.leak"], "pii": report.personal,
        "counts": dict(report.counts), "problems": [as_mapping(problem) for problem in report.problems],
        "tokens": {"estimated": lengths.estimated, "rows_counted": lengths.sampled, "too_long": lengths.too_long},
        "lengths": {"prompt": lengths.prompts, "answer": lengths.answers},
        "languages": [{"language": name or None, "rows": count} for name, count in report.balance.languages.items()],
        "answers": [{"answer": name, "rows": count} for name, count in report.balance.answers.items()],
        "licences": [asdict(licence) for licence in report.licences], "notes": report.notes,
    }  # fmt: skip
    if fixed is not None:
        changes = [{"what": what, "count": count} for what, count in fixed.changes.most_common()]
        value["fixed"] = {
            "path": str(fixed.path), "rows": fixed.rows, "masked": fixed.masked, "changes": changes,
            "left_out": fixed.left_out[:1000], "num_left_out": len(fixed.left_out),
        }  # fmt: skip
    return value
