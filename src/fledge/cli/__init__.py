"""The command line: thin over recipes. One file a group; heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from typing import Any

import typer

from fledge import __version__
from fledge.cli import advise, chat, data, demo, doctor, evaluate, models, new, release, reward, runs, sweep, train
from fledge.errors import FledgeError, SetupError

app = typer.Typer(
    name="fledge",
    help="Raise a small language model on your own PC until it can fly on its own.\n\n"
    "Begin with: fledge demo, or: fledge new my-model --kind template",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# typer carries its own click and exports only the leaves of its errors; this is their common parent.
_UsageError: Any = typer.BadParameter.__bases__[0]

INTERRUPTED = 130

# In the order of a model's life.
app.command()(demo.demo)
app.command()(new.new)
app.command()(doctor.doctor)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.add_typer(advise.app, name="advise")
app.add_typer(reward.app, name="reward")
app.command()(train.train)
app.command()(sweep.sweep)
app.add_typer(runs.app, name="runs")
app.command(name="eval")(evaluate.evaluate)
app.command()(release.export)
app.command()(release.merge)
app.command()(chat.chat)


def _version(value: bool) -> None:
    if value:
        print(f"fledge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None: ...


def _command_path(error: Any) -> str:
    return str(error.ctx.command_path) if error.ctx else "fledge"


def _run() -> Any:
    """Run the command. Raises SetupError where it needs an extra that is not installed."""
    try:
        return app(standalone_mode=False)
    except ModuleNotFoundError as error:
        from fledge.recipes.inspect import missing_extras

        for extra in missing_extras():
            if error.name in extra["modules"]:
                raise SetupError(
                    "setup.missing_extra",
                    f"{error.name} is not installed; it is needed for {extra['why']}.",
                    remedy=f"Install it: {extra['install']}",
                ) from error
        raise


def main() -> None:
    """Run a command. Exit codes: 0 done, 2 the user's input or setup, 1 a fault of ours, 130 interrupted."""
    from fledge.cli.output import emit, say

    try:
        code = _run()
        if code == INTERRUPTED:
            # typer makes an exit of Ctrl-C, and says nothing.
            say("interrupted.")
    except FledgeError as error:
        say(f"error: {error}")
        if "--json" in sys.argv:
            emit({"error": error.as_dict()})
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted.")
        code = INTERRUPTED
    except _UsageError as error:
        message = error.format_message()
        # Called without arguments the "error" is the help text.
        say(message if len(sys.argv) == 1 else f"error: {message} `{_command_path(error)} --help` shows an example.")
        if "--json" in sys.argv:
            emit({"error": {"code": "config.bad_value", "message": message, "where": "command line", "remedy": ""}})
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
