"""A real OpenAI-compatible server on this machine that teaches; it can be slow, busy, broken or strict."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def eight_questions(prompt: str, number: int) -> str:
    """Return questions about the fact in a prompt, others with every number."""
    fact = re.search(r"(?:Fact|Passage):\n(.*)", prompt)
    assert fact is not None
    subject = " ".join(fact[1].rstrip(".").split()[:3])
    openings = (
        "Tell me of",
        "What about",
        "Anything known on",
        "Say something on",
        "Speak of",
        "Explain",
        "Why",
        "Describe",
    )
    questions = [
        f"{opening} {subject} in case {number} {letter}?" for opening, letter in zip(openings, "abcdefgh", strict=True)
    ]
    return json.dumps({"questions": questions})


@dataclass
class School:
    """What the server does. `statuses` answer the next requests, one each, with `headers`; 0 answers as usual.

    `strict`: the key it wants. `structured`: whether it knows response_format. `asked` holds (time, body, headers).
    """

    teach: Callable[[str, int], str] = eight_questions
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    models: list[str] = field(default_factory=lambda: ["tiny"])
    strict: str = ""
    structured: bool = True
    counts: bool = True
    tokens: tuple[int, int] = (100, 50)
    pause_s: float = 0.0
    body: bytes | None = None
    asked: list[tuple[float, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, change: int) -> None:
        with self._lock:
            self._now += change
            self.most_at_once = max(self.most_at_once, self._now)


class _Handler(BaseHTTPRequestHandler):
    school: School

    def do_GET(self) -> None:
        self._say(200, {"data": [{"id": name} for name in self.school.models]})

    def do_POST(self) -> None:
        school = self.school
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        school.enter(1)
        try:
            with school._lock:
                number = len(school.asked)
                school.asked.append((time.monotonic(), body, {k.lower(): v for k, v in self.headers.items()}))
                status = school.statuses.pop(0) if school.statuses else 0
            time.sleep(school.pause_s)
            if school.strict and self.headers.get("authorization") != f"Bearer {school.strict}":
                # As some services do, it repeats what it got.
                return self._say(401, {"error": {"message": f"invalid key {self.headers.get('authorization')}"}})
            if status:
                return self._say(status, {"error": {"message": "not now"}}, school.headers)
            if not school.structured and "response_format" in body:
                return self._say(400, {"error": {"message": "unknown field response_format"}})
            prompt = body["messages"][-1]["content"]
            answer = {"choices": [{"message": {"content": school.teach(prompt, number)}}]}
            if school.counts:
                answer |= {"usage": dict(zip(("prompt_tokens", "completion_tokens"), school.tokens, strict=True))}
            return self._say(200, answer)
        finally:
            school.enter(-1)

    def _say(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode() if self.school.body is None else self.school.body
        self.send_response(status)
        for name, held in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, held)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no fault of the server's."""


@contextmanager
def serving(**settings: Any) -> Iterator[School]:
    """Serve on a free port of this machine until the block ends."""
    school = School(**settings)
    handler = type("Handler", (_Handler,), {"school": school})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    school.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield school
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
