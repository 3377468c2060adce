"""fledge chat: talk to a model, or put one question to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir, Target

COMMANDS = {
    "/help": "this list",
    "/new": "forget the conversation",
    "/system TEXT": "begin anew with this system prompt",
    "/quit": "leave (Ctrl-D does too)",
}


def chat(
    target: Target,
    adapter: Annotated[Path | None, typer.Option(metavar="FILE", help="A LoRA GGUF to put on top.")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Ask this and leave.")] = None,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Talk to a model. Answers stream; /help lists what else can be typed.

    Example: fledge chat latest --prompt "How do I read a CSV file?"
    """
    from fledge.cli.output import say
    from fledge.config import FILE_NAME, Config
    from fledge.config_file import load_config
    from fledge.errors import ConfigError
    from fledge.model.process import prepare_process

    if as_json and prompt is None:
        raise ConfigError("config.bad_value", "--json needs --prompt TEXT.", where="command line")
    prepare_process()
    from fledge.recipes.target import serve_target
    from fledge.runtime.llama import Llama, Sampling

    config = load_config(project) if (project / FILE_NAME).is_file() else Config()
    served = serve_target(project, target, say=say)
    generate, system = config.generate, config.data.system
    stop = tuple(generate.stop)
    sampling = Sampling(generate.temperature, max_tokens=generate.max_tokens, stop=stop, seed=config.train.seed)
    with Llama(served.path, adapter=adapter or served.adapter, context_tokens=config.train.max_tokens) as llama:
        if prompt is not None:
            _ask_once(llama, prompt, system, sampling, as_json)
        else:
            say(f"{served.label}. Ask away; /help lists the commands.")
            _converse(llama, system, sampling)


def _ask_once(llama: Any, prompt: str, system: str | None, sampling: Any, as_json: bool) -> None:
    from fledge.cli.output import emit

    *pieces, reply = _answer(llama, _start(system, prompt), sampling, quiet=as_json)
    if as_json:
        emit(
            {
                "reply": reply.text,
                "finish_reason": reply.finish.value,
                "prompt_tokens": reply.prompt_tokens,
                "tokens": reply.tokens,
                "tokens_per_s": reply.tokens_per_s,
                "first_token_s": reply.first_token_s,
            }
        )


def _start(system: str | None, question: str) -> list[Any]:
    from fledge.records import Message

    return [*([Message("system", system)] if system else []), Message("user", question)]


def _answer(llama: Any, messages: list[Any], sampling: Any, *, quiet: bool) -> list[Any]:
    """Return the pieces of the answer, the Reply last, printing them as they come."""
    got = []
    for piece in llama.stream(messages, sampling=sampling):
        got.append(piece)
        if not quiet and isinstance(piece, str):
            print(piece, end="", flush=True)
    if not quiet:
        print()
    return got


def _converse(llama: Any, system: str | None, sampling: Any) -> None:
    from fledge.cli.output import say
    from fledge.errors import EngineError
    from fledge.records import Message

    messages: list[Any] = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return
        command, _, rest = text.partition(" ")
        if command == "/quit":
            return
        if command == "/help":
            say("\n".join(f"{name:14} {meaning}" for name, meaning in COMMANDS.items()))
        elif command in ("/new", "/system"):
            messages, system = [], (rest or None) if command == "/system" else system
        elif command.startswith("/"):
            say(f"no command '{command}'; /help lists them.")
        elif text:
            asked = [*messages, Message("user", text)] if messages else _start(system, text)
            try:
                *_, reply = _answer(llama, asked, sampling, quiet=False)
            except EngineError as error:
                if error.code != "engine.request":
                    raise
                say(f"{error} /new begins anew.")
                continue
            messages = [*asked, Message("assistant", reply.text)]
            say(f"[{reply.tokens} tokens, {reply.tokens_per_s:.0f}/s]")
