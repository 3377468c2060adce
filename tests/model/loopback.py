"""A real HTTP server on this machine that can break off, be slow, redirect and change its files."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 4096


@dataclass
class Site:
    """What the server does. `break_at` closes the connection after so many bytes of a body, `breaks` times.

    `statuses` answer the next requests, one each; 0 answers as usual. `asked` are the requests that came.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    break_at: int = 0
    breaks: int = 0
    chunk_pause_s: float = 0.0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def headers_of(self, path: str, name: str) -> list[str | None]:
        return [headers.get(name) for asked, headers in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site = self.site
        site.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if site.statuses and (status := site.statuses.pop(0)):
            return self._say(status)
        if self.path in site.redirects:
            return self._say(302, location=site.redirects[self.path])
        if self.path not in site.files:
            return self._say(404)
        body = site.files[self.path]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", "")) if site.ranges else None
        start = int(wanted[1]) if wanted else 0
        if wanted and start >= len(body):
            return self._say(416)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("content-range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if site.etags:
            self.send_header("etag", f'"{hashlib.sha256(body).hexdigest()[:16]}"')
        self.send_header("content-type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.send_header("content-length", str(len(body) - start))
        self.end_headers()
        return self._send(body[start:])

    def _send(self, body: bytes) -> None:
        stop = len(body)
        if self.site.breaks:
            self.site.breaks -= 1
            stop = self.site.break_at
            self.close_connection = True
        try:
            for at in range(0, stop, CHUNK):
                self.wfile.write(body[at : min(at + CHUNK, stop)])
                if self.site.chunk_pause_s:
                    time.sleep(self.site.chunk_pause_s)
        except OSError:
            self.close_connection = True  # the other side was killed

    def _say(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    handler = type("Handler", (_Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
