"""One file over HTTP: streamed to disk, resumed where it broke off, tried again when the line is bad."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from fledge.errors import PullError, writing
from fledge.project import write_json_atomic

Progress = Callable[[int, int | None], None]  # bytes done, bytes in all where known

TRIES = 3
MAX_HOPS = 10
READ_BYTES = 1 << 20
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class _TryAgain(Exception):
    """The server could not answer just now, or its file changed under a resume."""


def download(
    url: str, part: Path, *, token: str | None = None, progress: Progress | None = None, pause_s: float = 1.0
) -> str | None:
    """Fetch `url` into `part` and return the sha256 of the whole file, or None where the server has no such file.

    A `part` left by an earlier, broken download is continued when the server still has the same file (ETag and size).
    Tries that get nowhere are repeated after `pause_s`, twice that, ... seconds; a try that brought bytes starts the
    count anew. `token` goes to the host of `url` only. Raises PullError with the reason in a few words.
    """
    failures = 0
    with httpx.Client(timeout=TIMEOUT, headers={"accept-encoding": "identity", "user-agent": "fledge"}) as client:
        while True:
            had = _size(part)
            try:
                return _attempt(client, url, part, token=token, progress=progress)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise PullError("model.no_source", f"no usable address: {error}") from error
            except (httpx.TransportError, _TryAgain) as error:
                failures = 1 if _size(part) > had else failures + 1
                if failures == TRIES:
                    raise PullError("model.no_source", _in_words(error)) from error
                time.sleep(pause_s * 2 ** (failures - 1))


def finish(part: Path, final: Path) -> None:
    """Give a whole part its name; what was noted for a resume goes."""
    os.replace(part, final)
    _meta_path(part).unlink(missing_ok=True)


def _attempt(client: httpx.Client, url: str, part: Path, *, token: str | None, progress: Progress | None) -> str | None:
    known = _read_meta(part)
    start = min(_size(part), max(known["total"] - 1, 0)) if known else 0
    with _get(client, url, token=token, start=start) as response:
        if response.status_code == 404:
            return None
        meta = _meta_of(response, start=start)
        if response.status_code == 416 or (response.status_code == 206 and meta != known):
            part.unlink(missing_ok=True)
            raise _TryAgain("the file changed on the server")
        if response.status_code == 200:
            start = 0
            with writing(part):
                part.unlink(missing_ok=True)
                write_json_atomic(_meta_path(part), meta)
        elif response.status_code != 206:
            _refuse(response)
        return _stream(response, part, start=start, total=meta["total"], progress=progress)


def _stream(response: httpx.Response, part: Path, *, start: int, total: int | None, progress: Progress | None) -> str:
    hasher = hashlib.sha256()
    with writing(part), part.open("r+b" if start else "wb") as file:
        while file.tell() < start:
            hasher.update(file.read(min(READ_BYTES, start - file.tell())))
        file.truncate()
        done = start
        for chunk in response.iter_raw():  # as it comes: a chunk size would lose what it gathers when the line breaks
            file.write(chunk)
            hasher.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    return hasher.hexdigest()


@contextmanager
def _get(client: httpx.Client, url: str, *, token: str | None, start: int) -> Iterator[httpx.Response]:
    """Open the address, following redirects only to https or to this machine. The token stays with the first host."""
    first = hop = httpx.URL(url)
    for _ in range(MAX_HOPS):
        headers = {"range": f"bytes={start}-"} if start else {}
        if token and _is_private(hop) and (hop.scheme, hop.host, hop.port) == (first.scheme, first.host, first.port):
            headers["authorization"] = f"Bearer {token}"
        with client.stream("GET", hop, headers=headers) as response:
            if not response.has_redirect_location:
                yield response
                return
            hop = hop.join(response.headers["location"])
        if not _is_private(hop):
            raise PullError("model.no_source", f"redirected to {hop.scheme}://{hop.host}, which is not https")
    raise PullError("model.no_source", f"redirected more than {MAX_HOPS} times")


def _is_private(url: httpx.URL) -> bool:
    """Whether nobody between here and there can read or change what is sent."""
    if url.scheme == "https" or url.host == "localhost":
        return True
    try:
        return url.scheme == "http" and ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False


def _refuse(response: httpx.Response) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise _TryAgain(f"the server answered {status}")
    if status in (401, 403):
        raise PullError("model.no_source", f"access refused ({status}): no such model, or it needs HF_TOKEN")
    raise PullError("model.no_source", f"the server answered {status}")


def _meta_of(response: httpx.Response, *, start: int) -> dict[str, Any]:
    """What tells one version of a file from another: its ETag and its size in bytes (None where not told)."""
    total: int | None = None
    if response.status_code == 206:
        told = re.fullmatch(rf"bytes {start}-\d+/(\d+)", response.headers.get("content-range", ""))
        total = int(told[1]) if told else None
    elif "content-length" in response.headers:
        total = int(response.headers["content-length"])
    return {"etag": response.headers.get("etag"), "total": total}


def _meta_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_meta(part: Path) -> dict[str, Any] | None:
    """What is known of the file that `part` is the beginning of, or None where it cannot be continued."""
    try:
        meta = json.loads(_meta_path(part).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return meta if isinstance(meta, dict) and isinstance(meta.get("total"), int) else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _in_words(error: Exception) -> str:
    known: dict[type[Exception], str] = {
        httpx.ConnectError: "cannot connect",
        httpx.ConnectTimeout: "no answer",
        httpx.ReadTimeout: "the server stopped sending",
        httpx.RemoteProtocolError: "the transfer broke off",
        httpx.ReadError: "the transfer broke off",
        httpx.ProxyError: "the proxy refused",
    }
    words, detail = known.get(type(error)), str(error)[:100]
    return f"{words} ({detail})" if words and detail else words or detail or type(error).__name__
