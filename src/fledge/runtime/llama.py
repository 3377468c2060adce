"""Tokens from a GGUF file: llama.cpp in a worker process behind a small typed client.

Every token that a person sees or a verdict counts comes through here. Chat uses the template *inside* the file, because
that is what anybody gets who runs the file elsewhere. `process` explains why the worker is a process of its own.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from fledge.errors import EngineError, ModelError
from fledge.records import FinishReason, Message, Reply
from fledge.runtime import invocation
from fledge.runtime.gguf_check import read_header
from fledge.runtime.process import WorkerProcess
from fledge.runtime.stops import StopScanner
from fledge.runtime.threads import usable_cores

GGUF_MAGIC = b"GGUF"
CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest token each time; `stop` strings end the answer unseen.

    grammar: what alone may be said, in llama.cpp's GBNF; "" for anything.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    grammar: str = ""

    def __post_init__(self) -> None:
        assert self.temperature >= 0 and 0 < self.top_p <= 1 and self.max_tokens > 0, self
        assert all(self.stop), "an empty stop string would stop everything"


@dataclass(frozen=True)
class Properties:
    """What llama.cpp read from the file. `context_tokens` is the room of one conversation, prompt and answer."""

    chat_template: str
    bos_token: str
    eos_token: str
    quantisation: str
    context_tokens: int


def require_gguf(path: Path, *, code: str = "model.broken_file") -> None:
    """Raise ModelError(`code`) unless `path` is a file that begins as a GGUF file does."""
    if not path.is_file():
        raise ModelError(code, "there is no such file.", where=str(path), remedy="Check the path.")
    with path.open("rb") as file:
        magic = file.read(len(GGUF_MAGIC))
    if magic != GGUF_MAGIC:
        raise ModelError(
            code,
            f"the file begins with {magic!r}; a GGUF file begins with {GGUF_MAGIC!r}.",
            where=str(path),
            remedy="Fetch or export it again.",
        )


class Llama:
    """A GGUF file, ready to answer. A context manager; every method may be called from several threads at once.

    `context_tokens` is the room of one conversation, `parallel` how many are worked on at once. `adapter` is a LoRA
    GGUF file, applied at full strength. `reuse_prompt` lets a conversation that begins as an earlier one did skip what
    was read before: right for a chat. llama.cpp attends by another kernel when few tokens are new, and its rounding can
    turn a near-tie, so switch it off where an answer must not depend on what was asked before. Under an adapter that
    acts only after the prompt (aLoRA) one conversation is worked on at a time. `embeds` is for a model that tells what
    texts mean instead of answering.

    Raises ModelError for a file that is no GGUF file, EngineError("engine.start") when llama.cpp refuses it. Methods
    raise EngineError("engine.request") for a request that llama.cpp refuses and EngineError("engine.died") when the
    worker is gone; a new `Llama` then works.
    """

    def __init__(
        self,
        path: Path,
        *,
        adapter: Path | None = None,
        context_tokens: int = 2048,
        parallel: int = 1,
        threads: int | None = None,
        reuse_prompt: bool = True,
        embeds: bool = False,
        start_timeout_s: float = 60.0,
    ) -> None:
        require_gguf(path)
        if adapter is not None:
            require_gguf(adapter, code="model.bad_adapter")
        # llama.cpp switches such an adapter off while it reads a prompt, and then on again for one of those it reads
        # together: the others would be answered without it.
        alone = adapter is not None and invocation.KEY in read_header(adapter).kv
        self.parallel = parallel = 1 if alone else parallel
        self._reuse_prompt = reuse_prompt
        api_key = secrets.token_urlsafe()
        self._worker = WorkerProcess(
            "fledge.runtime.worker",
            {
                "path": str(path.resolve()),
                "adapter": None if adapter is None else str(adapter.resolve()),
                "context_tokens": context_tokens,
                "parallel": parallel,
                "threads": threads or usable_cores(),
                "api_key": api_key,
                "embeds": embeds,
            },
            where=str(path) if adapter is None else f"{path} with {adapter}",
            start_timeout_s=start_timeout_s,
        )
        self._client = httpx.Client(
            base_url=self._worker.hello["url"],
            headers={"Authorization": f"Bearer {api_key}"},
            # No read timeout: a long prompt may take minutes, and a dead worker closes the connection.
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            # A kept connection that the worker closes as idle would look like its death.
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,  # loopback never goes through a proxy
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and free its memory. Safe to call again; requests in flight fail with "engine.died"."""
        self._worker.close()
        self._client.close()

    @property
    def worker_pid(self) -> int:
        return self._worker.pid

    def chat(self, messages: Sequence[Message], *, sampling: Sampling) -> Reply:
        """Return the answer to a conversation."""
        *_, reply = self.stream(messages, sampling=sampling)
        assert isinstance(reply, Reply)
        return reply

    def stream(self, messages: Sequence[Message], *, sampling: Sampling) -> Iterator[str | Reply]:
        """Yield the answer piece by piece, then the whole of it as a `Reply`. Closing the iterator stops the work."""
        started = time.perf_counter()
        first_token_s = None
        pieces = []
        scanner = StopScanner(sampling.stop)
        finish, timings = None, {}
        with closing(self._events("/v1/chat/completions", self._request(messages, sampling))) as events:
            for event in events:
                choice = event["choices"][0]
                finish, timings = choice["finish_reason"], event.get("timings", {})
                piece = scanner.feed(choice["delta"].get("content") or "")
                if finish is not None:
                    piece += scanner.rest()
                if piece:
                    if first_token_s is None:
                        first_token_s = time.perf_counter() - started
                    pieces.append(piece)
                    yield piece
                if scanner.stopped:
                    break
        if finish is None and not scanner.stopped:
            raise self._worker.death()
        total_s = time.perf_counter() - started
        yield Reply(
            text="".join(pieces),
            finish=FinishReason.LENGTH if finish == "length" and not scanner.stopped else FinishReason.STOP,
            prompt_tokens=timings["cache_n"] + timings["prompt_n"],
            tokens=timings["predicted_n"],
            tokens_per_s=_tokens_per_s(timings, total_s=total_s),
            first_token_s=first_token_s or total_s,
        )

    def ask_all(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> list[Reply]:
        """Return the answers in order, `parallel` conversations at a time. `on_done` is told how many are done.

        The first error ends the work. Ctrl-C ends it at once, and the worker with it.
        """
        with ThreadPoolExecutor(max_workers=self.parallel) as pool:
            futures = [pool.submit(self.chat, messages, sampling=sampling) for messages in conversations]
            try:
                for num_done, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    if on_done is not None:
                        on_done(num_done)
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, Exception):
                    self.close()  # what is being computed would hold up Ctrl-C
                raise
        return [future.result() for future in futures]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Return the conversation as llama.cpp renders it with the file's own chat template."""
        body = {"messages": [m.as_openai() for m in messages], "add_generation_prompt": add_generation_prompt}
        return str(self.post("/apply-template", body)["prompt"])

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """Return token ids. `parse_special` reads "<|im_end|>" as one token, `add_special` adds the BOS of the file."""
        body = {"content": text, "parse_special": parse_special, "add_special": add_special}
        return list(self.post("/tokenize", body)["tokens"])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens written out."""
        return str(self.post("/detokenize", {"tokens": list(ids)})["content"])

    def properties(self) -> Properties:
        """Return what llama.cpp read from the file."""
        found = self._json(self._client.build_request("GET", "/props"))
        return Properties(
            chat_template=found["chat_template"],
            bos_token=found["bos_token"],
            eos_token=found["eos_token"],
            quantisation=found["model_ftype"],
            context_tokens=found["default_generation_settings"]["n_ctx"],
        )

    def _request(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        return {
            "messages": [m.as_openai() for m in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            # Only what Sampling names: llama.cpp's defaults (top-k 40, min-p 0.05) and those of a file stay out.
            "samplers": ["top_p", "temperature"],
            "cache_prompt": self._reuse_prompt,
            "stream": True,
            "timings_per_token": True,
            # Not as response_format: llama.cpp drops that where the answer is read by a parser of the template's own.
            **({"grammar": sampling.grammar} if sampling.grammar else {}),
        }

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what llama.cpp's server answers to a request of its own interface."""
        return self._json(self._client.build_request("POST", path, json=body))

    def _json(self, request: httpx.Request) -> dict[str, Any]:
        with self._answer(request) as response:
            answer: dict[str, Any] = json.loads(response.read())
            return answer

    def _events(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Yield the JSON objects of a stream of server-sent events."""
        with self._answer(self._client.build_request("POST", path, json=body)) as response:
            for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise self._refusal(event["error"])
                yield event

    @contextmanager
    def _answer(self, request: httpx.Request) -> Iterator[httpx.Response]:
        """Hold a good answer open; a refusal and a lost worker become EngineErrors."""
        try:
            response = self._client.send(request, stream=True)
            try:
                if response.is_error:
                    raise self._refusal(json.loads(response.read())["error"])
                yield response
            finally:
                response.close()
        except httpx.TransportError as error:
            raise self._worker.death() from error

    def _refusal(self, error: Mapping[str, Any]) -> EngineError:
        where = self._worker.where
        if error["type"] == "exceed_context_size_error":
            return EngineError(
                "engine.request",
                f"the prompt has {error['n_prompt_tokens']} tokens; the context holds {error['n_ctx']}.",
                where=where,
                remedy="Shorten the conversation or give it more room with context_tokens.",
            )
        return EngineError("engine.request", f"llama.cpp refused the request: {error['message']}", where=where)


def _tokens_per_s(timings: Mapping[str, Any], *, total_s: float) -> float:
    # From the first token to the last lie n - 1 steps; a single token took the whole time.
    num_tokens, writing_s = timings["predicted_n"], timings["predicted_ms"] / 1000
    return float((num_tokens - 1) / writing_s if num_tokens > 1 and writing_s > 0 else num_tokens / total_s)
