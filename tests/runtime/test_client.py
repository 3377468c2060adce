"""An endpoint asked politely: rate limits, faults that pass and such that do not, and a key that goes nowhere else."""

from __future__ import annotations

import contextlib
import email.utils
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fledge.errors import ConfigError, TeacherError
from fledge.records import Message
from fledge.runtime.client import Completion, Endpoint, retry_after_s
from teacher_server import School, serving

HELLO = [Message("user", "Fact:\nIt is red.")]
SCHEMA = {"type": "object"}


def endpoint(school: School, **settings: Any) -> Endpoint:
    return Endpoint(school.url, **({"model": "m", "first_wait_s": 0.02} | settings))


def ask(school: School, **settings: Any) -> Completion:
    with endpoint(school, **settings) as client:
        return client.chat(HELLO, max_tokens=9, temperature=0.5, seed=3, schema=SCHEMA)


def test_what_is_asked_and_what_comes_back() -> None:
    with serving(teach=lambda prompt, number: "red") as school:
        assert ask(school, key="secret") == Completion("red", 100, 50)
    ((_, body, headers),) = school.asked
    assert headers["authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 9, 0.5, 3)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["messages"] == [{"role": "user", "content": "Fact:\nIt is red."}]


def test_an_endpoint_that_does_not_count() -> None:
    with serving(counts=False) as school:
        found = ask(school)
    assert (found.tokens_in, found.tokens_out) == (None, None)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_what_passes_is_tried_again(status: int) -> None:
    with serving(statuses=[status, status]) as school:
        assert ask(school).text
    assert len(school.asked) == 3


def test_it_waits_as_long_as_it_is_told() -> None:
    with serving(statuses=[429], headers={"retry-after": "1"}) as school:
        ask(school)
    first, second = (moment for moment, _, _ in school.asked)
    assert 0.95 <= second - first < 3


def test_a_rate_limit_holds_back_all_threads() -> None:
    with serving(statuses=[429], headers={"retry-after": "1"}) as school, endpoint(school) as client:
        client.chat(HELLO, max_tokens=9, temperature=0)  # the one that is told
        told = school.asked[0][0]
        school.statuses = [429]
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(client.chat, HELLO, max_tokens=9, temperature=0)
            while len(school.asked) < 3:
                time.sleep(0.01)
            time.sleep(0.2)
            others = [pool.submit(client.chat, HELLO, max_tokens=9, temperature=0) for _ in range(3)]
            for one in (first, *others):
                one.result()
    moments = [moment for moment, _, _ in school.asked]
    assert moments[1] - told >= 0.95
    assert all(moment - moments[2] >= 0.9 for moment in moments[3:])


def test_it_gives_up_in_the_end() -> None:
    with serving(statuses=[503] * 9) as school:
        with pytest.raises(TeacherError, match=r"HTTP 503: not now, tried 3 times") as caught:
            ask(school, retries=2)
        assert caught.value.code == "teacher.failed"
        assert len(school.asked) == 3


def test_it_does_not_wait_for_an_hour() -> None:
    with serving(statuses=[429], headers={"retry-after": "3600"}) as school:
        with pytest.raises(TeacherError, match="HTTP 429"):
            ask(school)
        assert len(school.asked) == 1


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "key"), (403, "key"), (404, "--model"), (402, "HTTP 402: not now")]
)
def test_what_does_not_pass_is_told_at_once(status: int, expected: str) -> None:
    with serving(statuses=[status] * 3) as school:
        with pytest.raises(TeacherError) as caught:
            ask(school)
        assert caught.value.code == "teacher.refused"
        assert expected in str(caught.value)
        assert len(school.asked) == (2 if status == 404 else 1)


def test_a_wrong_key_is_not_repeated_in_the_error() -> None:
    with serving(strict="right") as school:
        with pytest.raises(TeacherError, match="invalid key") as caught:
            ask(school, key="sk-wrong")
        assert "sk-wrong" not in repr(caught.value) + str(caught.value.as_dict())


def test_a_server_that_knows_no_schema_is_asked_without() -> None:
    with serving(structured=False) as school, endpoint(school) as client:
        for _ in range(2):
            assert client.chat(HELLO, max_tokens=9, temperature=0, schema=SCHEMA).text
    assert ["response_format" in body for _, body, _ in school.asked] == [True, False, False]


def test_slow_answers_and_dead_servers() -> None:
    with serving(pause_s=1.0) as school, pytest.raises(TeacherError, match=r"no answer within 0.2 s, tried 2 times"):
        ask(school, timeout_s=0.2, retries=1)
    with pytest.raises(TeacherError, match=r"cannot be reached .*, tried 3 times") as caught:
        ask(school)
    assert caught.value.code == "teacher.unreachable"


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", b"[1]", b'{"choices": []}', b'{"choices": [{"message": 3}]}', b"[" * 99999]
)
def test_an_answer_that_is_none(body: bytes) -> None:
    with serving(body=body) as school, pytest.raises(TeacherError) as caught:
        ask(school, retries=0)
    assert caught.value.code == "teacher.failed"


def test_a_redirect_is_not_followed() -> None:
    with serving() as far, serving(statuses=[307], headers={"location": far.url + "/chat/completions"}) as school:
        with pytest.raises(TeacherError, match="another address"):
            ask(school, key="secret")
        assert far.asked == []


def test_the_only_model_needs_no_name() -> None:
    with serving() as school, endpoint(school, model="") as client:
        assert client.model == "tiny"
    with serving(models=["a", "b"]) as school, pytest.raises(ConfigError, match=r"Name it with --model. It has: a, b."):
        ask(school, model="")


@pytest.mark.parametrize(
    ("url", "key", "expected"),
    [
        ("ftp://host/v1", "", "no address of a teacher"),
        ("http:///v1", "", "no address of a teacher"),
        ("http://host:99999/v1", "", "no address of a teacher"),
        ("https://me:pass@host/v1", "", "a user"),
        ("https://host/v1?key=1", "", "a query"),
        ("http://169.254.169.254/v1", "", "at which no teacher can be"),
        ("http://[fe80::1]/v1", "", "at which no teacher can be"),
        ("http://0.0.0.0/v1", "", "at which no teacher can be"),
        ("http://example.org/v1", "secret", "in the clear"),
    ],
)
def test_addresses_that_no_key_goes_to(url: str, key: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        Endpoint(url, key=key)
    assert "pass" not in str(caught.value)


def test_a_key_goes_in_the_clear_to_this_machine_only() -> None:
    for url in ("http://127.0.0.1:1/v1", "http://localhost:1/v1", "http://[::1]:1/v1", "https://example.org/v1"):
        Endpoint(url, key="secret").close()


def test_the_address_of_the_completions_is_one_of_the_api() -> None:
    client = Endpoint("http://127.0.0.1:1/v1/chat/completions/")
    assert client.url == "http://127.0.0.1:1/v1"
    client.close()


def test_how_long_to_wait_as_seconds_or_as_a_date() -> None:
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after_s({"retry-after": "1.5"}) == 1.5
    assert retry_after_s({"retry-after-ms": "250"}) == 0.25
    assert 28 <= (retry_after_s({"retry-after": soon}) or 0) <= 31
    assert retry_after_s({"retry-after": "soon"}) is retry_after_s({}) is None


def test_a_service_that_repeats_the_key_does_not_get_it_printed() -> None:
    with (
        serving(strict="right") as school,
        pytest.raises(TeacherError, match="invalid key Bearer \\(the key\\)") as caught,
    ):
        ask(school, key="sk-topsecret-" + "x" * 300)
    assert "topsecret" not in str(caught.value)


def test_an_answer_without_end_is_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fledge.runtime.client.MAX_ANSWER_BYTES", 1 << 20)
    with serving(body=b" " * (3 << 20)) as school, pytest.raises(TeacherError, match="longer than 1 MB"):
        ask(school)


def test_an_answer_that_trickles_takes_no_longer_than_one_may() -> None:
    """Each piece comes in time, but never the last."""
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
                for _ in range(200):
                    connection.sendall(b" ")
                    time.sleep(0.05)

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    started = time.monotonic()
    with (
        listener,
        Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", model="m", timeout_s=0.5, retries=0) as asked,
        pytest.raises(TeacherError, match="no answer within 0.5 s"),
    ):
        asked.chat(HELLO, max_tokens=9, temperature=0)
    assert time.monotonic() - started < 3


def test_it_says_that_it_waits_and_for_what() -> None:
    said: list[str] = []
    with serving(statuses=[503, 429]) as school:
        ask(school, say=said.append)
    assert ["HTTP 503" in said[0], "HTTP 429" in said[1], len(said)] == [True, True, 2]
    assert all("tries again in" in line for line in said)


def test_nobody_gives_tokens_back() -> None:
    with serving(tokens=(-5, 7)) as school:
        found = ask(school)
    assert (found.tokens_in, found.tokens_out) == (0, 7)
