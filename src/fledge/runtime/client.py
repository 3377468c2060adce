"""Any OpenAI-compatible endpoint, asked politely: retries, rate limits, timeouts, and a key that goes nowhere else.

The key is read from the environment by whoever makes the client, sent to this one address only, never in the clear to
another machine, never after a redirect, and stands in no message.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from fledge.errors import ConfigError, TeacherError
from fledge.records import Message

CONNECT_TIMEOUT_S = 10.0
# Waiting before a retry: doubled each time from FIRST to LONGEST, times a random 0.5..1 so that clients spread out.
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
RETRIES = 6
# An address at which nobody ever answered is most likely wrong: so often it is tried again.
RETRIES_UNREACHED = 2
# Longer than this no answer is waited for: the user is told instead.
MAX_RETRY_AFTER_S = 600.0
PASSING = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
MAX_ANSWER_BYTES, MAX_SAID_CHARS = 1 << 24, 200


@dataclass(frozen=True)
class Completion:
    """One answer. Token counts as the endpoint bills them; None where it does not say."""

    text: str
    tokens_in: int | None
    tokens_out: int | None


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes


class Endpoint:
    """An OpenAI-compatible API. A context manager; `chat` may be called from several threads at once.

    url: the address of the API ("https://host/v1"), or of its chat/completions. timeout_s: for one answer.
    first_wait_s: before the first retry. say: gets a line for people before each wait.

    Raises ConfigError for an address that is none, or to which the key would go in the clear.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        key: str = "",
        timeout_s: float = 120.0,
        first_wait_s: float = FIRST_WAIT_S,
        retries: int = RETRIES,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/chat/completions")
        host, near = _checked(self.url, key)
        self.where = self.url
        self._first_wait_s, self._retries = first_wait_s, retries
        self._structured = True
        self._reached = False
        # When a rate limit is met by one thread, all wait.
        self._paused_until = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            follow_redirects=False,
            trust_env=not near,  # a proxy may stand before far hosts, never before this machine
            limits=httpx.Limits(max_connections=64),
        )
        self._timeout_s = timeout_s
        self._key, self._say = key, say
        self.model = model

    def __enter__(self) -> Self:
        if not self.model:
            try:
                self.model = self._only_model()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; threads that wait for a retry give up."""
        self._stopped.set()
        self._client.close()

    def _only_model(self) -> str:
        answer = self._send("GET", "/models", None)
        names = [str(m["id"]) for m in answer.get("data", []) if isinstance(m, dict) and "id" in m]
        if len(names) == 1:
            return names[0]
        shown = f"It has: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}." if names else "It lists none."
        raise ConfigError("config.bad_value", "which model is to be asked?", where=self.where,
                          remedy=f"Name it with --model. {shown}")  # fmt: skip

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Return the answer to a conversation, constrained to a JSON schema where the endpoint can do that.

        Raises TeacherError: "teacher.unreachable", "teacher.refused" (no use to try again) or "teacher.failed" (given
        up after retries).
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.as_openai() for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if seed is not None:
            body["seed"] = seed
        constrained = schema is not None and self._structured
        if constrained:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "rows", "strict": True, "schema": schema},
            }
        try:
            answer = self._send("POST", "/chat/completions", body)
        except TeacherError as error:
            if not constrained or error.code != "teacher.refused" or "HTTP 4" not in error.message:
                raise
            if not any(f"HTTP {status}" in error.message for status in (400, 404, 422)):
                raise
            # Many servers know no response_format; the prompt asks for JSON anyway.
            self._structured = False
            del body["response_format"]
            answer = self._send("POST", "/chat/completions", body)
        return self._completion(answer)

    def _completion(self, answer: Mapping[str, Any]) -> Completion:
        try:
            content = answer["choices"][0]["message"]["content"]
            usage = answer.get("usage") or {}
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise TeacherError(
                "teacher.failed", "the answer is no chat completion.", where=self.where, remedy="Check the address."
            ) from error
        # A count below nothing would give back what the budget has spent.
        told = [max(0, count) if isinstance(count, int) else None for count in counts]
        return Completion(content if isinstance(content, str) else "", told[0], told[1])

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the JSON object of an answer; what passes is tried again, as late as the endpoint asks for."""
        for attempt in range(self._retries + 1):
            self._wait_for_pause()
            wait_s, problem = self._backoff_s(attempt), ""
            try:
                response = self._ask(method, path, body)
            except httpx.TimeoutException:
                problem = f"no answer within {self._timeout_s:g} s"
            except httpx.TransportError as error:
                problem = f"cannot be reached ({error or type(error).__name__})"
            else:
                self._reached = True
                if response.status not in PASSING:
                    return self._accepted(response)
                problem = self._said(response)
                if (asked := retry_after_s(response.headers)) is not None:
                    wait_s = max(wait_s * 0.1, asked)
                if response.status == 429:
                    with self._lock:
                        self._paused_until = max(self._paused_until, time.monotonic() + min(wait_s, MAX_RETRY_AFTER_S))
            last = self._retries if self._reached else min(self._retries, RETRIES_UNREACHED)
            if attempt == last or wait_s > MAX_RETRY_AFTER_S or self._stopped.is_set():
                break
            self._say(f"{self.where}: {problem}; tries again in {wait_s:.0f} s")
            self._stopped.wait(wait_s)
        code = "teacher.unreachable" if "reached" in problem else "teacher.failed"
        raise TeacherError(code, f"{problem}, tried {attempt + 1} times.", where=self.where,
                           remedy="Check the address and the service; run the command again to go on.")  # fmt: skip

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> _Answer:
        """Return one answer, read up to what an answer can be, within the time that one may take."""
        deadline, content = time.monotonic() + self._timeout_s, bytearray()
        with self._client.stream(method, f"{self.url}{path}", json=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise TeacherError(
                        "teacher.failed", f"the answer is longer than {MAX_ANSWER_BYTES >> 20} MB.", where=self.where,
                        remedy="Check the address.",
                    )  # fmt: skip
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("it goes on and on")
            return _Answer(response.status_code, response.headers, bytes(content))

    def _accepted(self, response: _Answer) -> dict[str, Any]:
        if 300 <= response.status < 400:
            raise TeacherError("teacher.refused", f"sends on to another address (HTTP {response.status}).",
                               where=self.where, remedy="Give the address itself; keys are not sent on.")  # fmt: skip
        if response.status >= 400:
            remedy = {
                401: "Check the key (--key-env names the variable that holds it).",
                403: "Check the key and what it may do.",
                404: "Check the address (it often ends with /v1) and --model.",
            }.get(response.status, "Check --model and the address.")
            raise TeacherError("teacher.refused", f"{self._said(response)}.", where=self.where, remedy=remedy)
        try:
            value = json.loads(response.content)
            assert isinstance(value, dict)
        except (ValueError, RecursionError, AssertionError) as error:
            raise TeacherError("teacher.failed", "the answer is no JSON object.", where=self.where,
                               remedy="Check the address (it often ends with /v1).") from error  # fmt: skip
        return value

    def _said(self, response: _Answer) -> str:
        """Return what a refusal says, in one short line; a service that repeats the key does not get it printed."""
        text = response.content.decode("utf-8", errors="replace")
        try:
            error = json.loads(text).get("error")
            text = str(error.get("message", error) if isinstance(error, dict) else error or text)
        except (ValueError, AttributeError, RecursionError):
            text = "" if "<html" in text.lower() else text
        # Before it is cut, or a part of the key would be left.
        flat = " ".join((text.replace(self._key, "(the key)") if self._key else text).split())
        return f"HTTP {response.status}" + (f": {flat[:MAX_SAID_CHARS].rstrip('.')}" if flat else "")

    def _backoff_s(self, attempt: int) -> float:
        longest = min(LONGEST_WAIT_S, self._first_wait_s * 2.0**attempt)
        return longest * random.uniform(0.5, 1.0)

    def _wait_for_pause(self) -> None:
        with self._lock:
            left = self._paused_until - time.monotonic()
        if left > 0:
            self._stopped.wait(left)


def _checked(url: str, key: str) -> tuple[str, bool]:
    """Return (host, whether it is this machine). Raises ConfigError for an address that a key should not go to."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    problem = ""
    if parts.scheme not in ("http", "https") or not host:
        problem = "is no address of a teacher."
    elif parts.username or parts.password or parts.query or parts.fragment:
        problem = "holds more than an address: a user, a query or a fragment."
    near = host == "localhost"
    try:
        address = ipaddress.ip_address(host)
        near = address.is_loopback
        if address.is_link_local or address.is_unspecified or address.is_multicast:
            problem = "is an address at which no teacher can be."
    except ValueError:
        pass
    if not problem and parts.scheme == "http" and key and not near:
        problem = "would get the key in the clear."
    if problem:
        raise ConfigError("config.bad_value", problem, where=_shown(url), remedy="For example: https://host/v1")
    return host, near


def _shown(url: str) -> str:
    """Return the address without a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else url


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds an answer asks to wait: Retry-After as seconds or as a date (RFC 9110, 10.2.3)."""
    if (told := headers.get("retry-after-ms", "")).replace(".", "", 1).isdigit():
        return float(told) / 1000
    told = headers.get("retry-after", "").strip()
    if told.replace(".", "", 1).isdigit():
        return float(told)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time()) if told else None
    except (ValueError, TypeError):
        return None
