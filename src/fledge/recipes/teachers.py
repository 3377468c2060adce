"""Who makes the rows: frames, a local model, an endpoint or a command, all asked in the same way."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fledge.data.synth.asking import SYSTEM, Request
from fledge.data.synth.journal import Said
from fledge.errors import ConfigError, EngineError, ModelError, TeacherError, nearest
from fledge.model import catalog
from fledge.model.pull import on_this_machine
from fledge.recipes.target import is_run, serve_target
from fledge.records import Message
from fledge.runtime.client import Endpoint
from fledge.runtime.command import Command
from fledge.runtime.llama import Llama, Sampling

KEY_VARIABLE = "FLEDGE_TEACHER_KEY"
# About what a token is of English; counted so only where nobody counts.
CHARS_A_TOKEN = 4
# Room for the chat template around a prompt, in tokens.
AROUND = 64
CONTEXT_TOKENS = 2048
HOW = "local:TARGET, an address (https://host/v1), cmd:'COMMAND', or frames"


class Teacher(Protocol):
    """Who answers requests. `name` tells it apart in the journal, `parallel` is how many it takes at once."""

    name: str
    parallel: int

    def ask(self, request: Request) -> Said:
        """Return the answer. Raises TeacherError where there is none; EngineError where llama.cpp is gone."""

    def close(self) -> None:
        """End what runs for it."""


@dataclass
class Budget:
    """What may be spent. Money in whatever the prices are in; `max_money` and `max_tokens` None: without a limit.

    A request is let through only if the most it can cost fits into what is left beside those under way.
    """

    price_in: float = 0.0
    price_out: float = 0.0
    max_money: float | None = None
    max_tokens: int | None = None
    money: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    estimated: bool = False
    _reserved_money: float = 0.0
    _reserved_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Return the price of tokens; prices are per million."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def reserve(self, most_in: int, most_out: int) -> bool:
        """Set aside the most that a request can take; False where that does not fit any more."""
        with self._lock:
            money = self.money + self._reserved_money + self.cost(most_in, most_out)
            tokens = self.tokens_in + self.tokens_out + self._reserved_tokens + most_in + most_out
            if (self.max_money is not None and money > self.max_money) or (
                self.max_tokens is not None and tokens > self.max_tokens
            ):
                return False
            self._reserved_money += self.cost(most_in, most_out)
            self._reserved_tokens += most_in + most_out
            return True

    def release(self, most_in: int, most_out: int) -> None:
        """Give back what was set aside for a request."""
        with self._lock:
            self._reserved_money -= self.cost(most_in, most_out)
            self._reserved_tokens -= most_in + most_out

    def spend(self, said: Said) -> None:
        """Count what an answer took."""
        with self._lock:
            self.money += self.cost(said.tokens_in, said.tokens_out)
            self.tokens_in += said.tokens_in
            self.tokens_out += said.tokens_out
            self.estimated |= said.estimated


def most_tokens_in(request: Request) -> int:
    """Return how many tokens a prompt can have at most: one a byte, and what the template writes around it."""
    return len((SYSTEM + request.prompt).encode()) + AROUND


@dataclass(frozen=True)
class Manner:
    """How a teacher is asked. max_tokens: of one answer. parallel: 0 for what suits the teacher."""

    model: str = ""
    key_variable: str = KEY_VARIABLE
    max_tokens: int = 1024
    temperature: float = 0.8
    timeout_s: float = 120.0
    parallel: int = 0
    first_wait_s: float = 1.0


def open_teacher(
    spec: str, manner: Manner, *, project: Path, say: Callable[[str], None] = lambda _: None
) -> Teacher | None:
    """Return the teacher that `spec` names, ready to be asked; None for frames.

    Raises ConfigError for a spec that names none, and what a missing model, program or key raises.
    """
    kind, _, rest = spec.partition(":")
    if spec == "frames":
        return None
    if kind == "local" and rest:
        return LocalTeacher(rest, manner, project=project, say=say)
    if kind == "cmd" and rest:
        return CommandTeacher(rest, manner)
    if kind in ("http", "https"):
        return EndpointTeacher(spec, manner, say=say)
    raise ConfigError("config.bad_value", f"'{spec}' is no teacher.", where="--teacher", remedy=f"Give {HOW}.")


class LocalTeacher:
    """Any GGUF file or run, through llama.cpp, held to the form of the answer by a grammar."""

    def __init__(self, target: str, manner: Manner, *, project: Path, say: Callable[[str], None]) -> None:
        if not is_run(project, target) and on_this_machine(target, base_dir=project) is None:
            told = nearest(target, list(catalog.MODELS)) or "."
            raise ModelError("model.unknown", f"'{target}' is not on this machine{told}", where="--teacher",
                             remedy=f"Fetch it: `fledge models pull {target}`, or give a .gguf file.")  # fmt: skip
        served = serve_target(project, target, say=say)
        self.name = f"local:{served.label}"
        self.parallel = manner.parallel or 4
        self._manner = manner
        self._llama = Llama(
            served.path,
            adapter=served.adapter,
            parallel=self.parallel,
            context_tokens=CONTEXT_TOKENS + manner.max_tokens,
        )

    def ask(self, request: Request) -> Said:
        sampling = Sampling(
            temperature=self._manner.temperature,
            top_p=0.95,
            max_tokens=self._manner.max_tokens,
            seed=int(request.key[:7], 16),
            grammar=request.grammar,
        )
        try:
            reply = self._llama.chat([Message("user", f"{SYSTEM}\n\n{request.prompt}")], sampling=sampling)
        except EngineError as error:
            if error.code != "engine.request":
                raise
            raise TeacherError("teacher.refused", error.message, where=self.name, remedy=error.remedy) from error
        return Said(reply.text, reply.prompt_tokens, reply.tokens)

    def close(self) -> None:
        self._llama.close()


class EndpointTeacher:
    """An OpenAI-compatible endpoint."""

    def __init__(self, url: str, manner: Manner, *, say: Callable[[str], None]) -> None:
        self.parallel = manner.parallel or 4
        self._manner = manner
        self._endpoint = Endpoint(
            url,
            model=manner.model,
            key=os.environ.get(manner.key_variable, ""),
            timeout_s=manner.timeout_s,
            first_wait_s=manner.first_wait_s,
            say=say,
        ).__enter__()
        self.name = f"{self._endpoint.url} {self._endpoint.model}"

    def ask(self, request: Request) -> Said:
        messages = [Message("system", SYSTEM), Message("user", request.prompt)]
        found = self._endpoint.chat(
            messages,
            max_tokens=self._manner.max_tokens,
            temperature=self._manner.temperature,
            seed=int(request.key[:7], 16),
            schema=request.schema,
        )
        counted = found.tokens_in is not None and found.tokens_out is not None
        return Said(
            found.text,
            found.tokens_in if found.tokens_in is not None else tokens_of(SYSTEM + request.prompt),
            found.tokens_out if found.tokens_out is not None else tokens_of(found.text),
            estimated=not counted,
        )

    def close(self) -> None:
        self._endpoint.close()


class CommandTeacher:
    """A command that reads the prompt on stdin; one at a time, unless more are asked for."""

    def __init__(self, line: str, manner: Manner) -> None:
        self.name = f"cmd:{line}"
        self.parallel = manner.parallel or 1
        self._command = Command(line, timeout_s=manner.timeout_s)

    def ask(self, request: Request) -> Said:
        prompt = f"{SYSTEM}\n\n{request.prompt}\n"
        text = self._command.ask(prompt)
        return Said(text, tokens_of(prompt), tokens_of(text), estimated=True)

    def close(self) -> None:
        self._command.close()


def tokens_of(text: str) -> int:
    """Return about how many tokens a text is."""
    return math.ceil(len(text) / CHARS_A_TOKEN)
