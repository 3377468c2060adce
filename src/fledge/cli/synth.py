"""fledge data synth: many rows out of few."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir

if TYPE_CHECKING:
    from fledge.recipes.synth_files import Written
    from fledge.recipes.teachers import Budget


Seeds = Annotated[list[Path], typer.Argument(metavar="SEEDS", help="Rows that show how to answer; two are enough.")]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="OUT.jsonl", help="Where the rows go.")]
NumRows = Annotated[int, typer.Option("-n", min=1, help="How many rows, those held out included.")]
Facts = Annotated[Path | None, typer.Option("--facts", metavar="FILE", help="What is so: lines, YAML, CSV, JSONL.")]
Documents = Annotated[
    Path | None, typer.Option("--documents", metavar="DIR", help="Texts to ask about, with a model as teacher.")
]
TeacherName = Annotated[str, typer.Option("--teacher", help="frames, local:TARGET, an address, or cmd:'COMMAND'.")]
EvalShare = Annotated[float, typer.Option("--eval", min=0.0, max=0.9, help="The share held out, into OUT.eval.jsonl.")]
HoldOut = Annotated[
    str, typer.Option("--hold", help="Held out are: facts (never taught) or wordings (of taught ones).")
]
Seed = Annotated[int, typer.Option("--seed", help="Other rows for another number.")]
ModelName = Annotated[str, typer.Option("--model", help="The model to ask at an address.")]
KeyEnv = Annotated[
    str, typer.Option("--key-env", metavar="NAME", help="The variable that holds the key of an address.")
]
Parallel = Annotated[
    int, typer.Option("--parallel", min=0, max=64, help="Requests at once; 0: 4, and 1 for a command.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=64, help="The most tokens of one answer.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, max=2.0, help="Of a model's answers.")]
TimeoutS = Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds to wait for one answer.")]
PriceIn = Annotated[float, typer.Option("--price-in", min=0.0, help="Price of a million tokens read.")]
PriceOut = Annotated[float, typer.Option("--price-out", min=0.0, help="Price of a million tokens written.")]
Money = Annotated[float | None, typer.Option("--budget", min=0.0, help="Stop before more than this is spent.")]
Tokens = Annotated[int | None, typer.Option("--tokens", min=1, help="Stop before more tokens than this are used.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")]


def synth(
    seeds: Seeds,
    out: Out,
    num_rows: NumRows,
    facts: Facts = None,
    documents: Documents = None,
    teacher: TeacherName = "frames",
    eval_share: EvalShare = 0.0,
    hold: HoldOut = "facts",
    seed: Seed = 0,
    model: ModelName = "",
    key_env: KeyEnv = "FLEDGE_TEACHER_KEY",
    parallel: Parallel = 0,
    max_tokens: MaxTokens = 1024,
    temperature: Temperature = 0.8,
    timeout_s: TimeoutS = 120.0,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    budget: Money = None,
    tokens: Tokens = None,
    force: Force = False,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Grow many checked rows out of a few seeds, a list of facts or documents.

    Example: fledge data synth seeds.jsonl --facts facts.yaml -o data/train.jsonl -n 500 --eval 0.2
    """
    from fledge.cli.output import Bar, say
    from fledge.recipes.prepare import inside
    from fledge.recipes.synth import Order
    from fledge.recipes.synth_files import Inputs
    from fledge.recipes.synth_files import synth as grow
    from fledge.recipes.teachers import Budget, Manner

    inputs = Inputs(
        tuple(inside(project, path) for path in seeds),
        None if facts is None else inside(project, facts),
        None if documents is None else inside(project, documents),
    )
    order = Order(num_rows, eval_share, _hold(hold), seed)
    manner = Manner(model, key_env, max_tokens, temperature, timeout_s, parallel)
    spent = Budget(price_in, price_out, budget, tokens)
    with Bar("rows", num_rows) as bar:
        written = grow(
            inputs, out, order, teacher, manner=manner, budget=spent, project=project, force=force, say=say,
            progress=lambda kept, wanted, note: bar(kept, wanted, note=note),
        )  # fmt: skip
    _tell(written, spent, num_rows, as_json=as_json)


def _hold(name: str) -> Any:
    from fledge.data.synth.material import Hold
    from fledge.errors import ConfigError

    try:
        return Hold(name)
    except ValueError as error:
        remedy = f"Give one of: {', '.join(one.value for one in Hold)}."
        raise ConfigError("config.bad_value", f"'{name}' cannot be held out.", where="--hold", remedy=remedy) from error


def _tell(written: Written, budget: Budget, asked: int, *, as_json: bool) -> None:
    from fledge.cli.output import duration, emit, say

    grown = written.grown
    if as_json:
        emit(_as_json(written, budget, asked))
    else:
        say(f"{written.out}: {len(grown.train):,} rows, made by {written.teacher} in {duration(grown.seconds)}.")
        if written.held_out is not None:
            say(f"{written.held_out}: {len(grown.held_out):,} rows held out.")
        say(f"kept {grown.kept:,} of {grown.made:,} made ({100 * grown.kept / max(1, grown.made):.0f} %); dropped:")
        for reason, count in grown.dropped.most_common():
            say(f"   {count:,} x {reason.value.replace('_', ' ')}")
        if grown.failed:
            say(f"   {grown.failed:,} requests without an answer")
        say(f"diversity {grown.diversity:.2f} (distinct word pairs), {grown.diversity_within:.2f} within one fact")
        if budget.tokens_in or budget.tokens_out:
            about = "about " if budget.estimated else ""
            cost = f", cost {budget.money:.4f}" if budget.price_in or budget.price_out else ""
            say(f"{about}{budget.tokens_in:,} tokens read and {budget.tokens_out:,} written{cost}")
    for note in written.notes:
        say(f"note: {note}.")
    if not as_json:
        say(f"Next: fledge data check {written.out}" + (f" --eval {written.held_out}" if written.held_out else ""))


def _as_json(written: Written, budget: Budget, asked: int) -> dict[str, Any]:
    grown = written.grown
    return {
        "asked": asked, "kept": grown.kept, "made": grown.made,
        "dropped": [{"reason": reason.value, "count": count} for reason, count in grown.dropped.most_common()],
        "diversity": grown.diversity, "diversity_within": grown.diversity_within,
        "teacher": written.teacher, "seconds": grown.seconds,
        "out": str(written.out), "eval": None if written.held_out is None else str(written.held_out),
        "rows_train": len(grown.train), "rows_eval": len(grown.held_out),
        "tokens_in": budget.tokens_in, "tokens_out": budget.tokens_out, "tokens_estimated": budget.estimated,
        "cost": budget.money, "failed": grown.failed, "reused": grown.reused, "stopped": grown.stopped or None,
        "journal": None if written.journal is None else str(written.journal), "notes": list(written.notes),
    }  # fmt: skip
