"""Nothing calls out unless the command is about the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FLEDGE = Path(sys.executable).with_name("fledge")
ROWS = '{"prompt": "What is 2 + 2?", "completion": "4"}\n'

# Loaded by every Python process of the command, its workers too (native code below Python is not seen: llama.cpp is
# given a file and a loopback port). It writes down what it stops, so an error that is swallowed counts as well.
GUARD = """
import ipaddress, os, socket

def stop(place):
    with open(os.environ["CALLS"], "a") as file:
        print(place, file=file)
    raise OSError(f"called out to {place}")

def is_far(host):
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host not in ("localhost", "", None)

def guarded(connect):
    def checked(self, address):
        if self.family != socket.AF_UNIX and is_far(address[0]):
            stop(address)
        return connect(self, address)
    return checked

class Guarded(socket.socket):
    connect, connect_ex = guarded(socket.socket.connect), guarded(socket.socket.connect_ex)

look_up = socket.getaddrinfo
socket.socket = Guarded
socket.getaddrinfo = lambda host, *rest, **named: stop(host) if is_far(host) else look_up(host, *rest, **named)
"""


@pytest.fixture
def run(tmp_path: Path, starter_gguf: Path):
    """Give a function that runs a command in an empty folder and returns (exit code, output, places it called)."""
    guard, calls = tmp_path / "guard", tmp_path / "calls"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"PYTHONPATH": str(guard), "CALLS": str(calls)}

    def call(*command: object, **more: str) -> tuple[int, str, list[str]]:
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, env=environment | more, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines() if calls.exists() else []

    return call


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "new project --kind persona",
        "models list",
        "models info qwen3-0.6b",
        "models pull smollm2-135m",
        "doctor",
        "data show rows.jsonl",
        "data synth rows.jsonl -o grown.jsonl -n 5",
        "data synth rows.jsonl -o grown.jsonl -n 1 --teacher cmd:nothing-such",
        "runs list",
        "chat smollm2-135m --prompt Hello --json",
        "chat nobody/nothing.gguf --prompt Hello",
    ],
)
def test_a_command_calls_nobody(run, command: str) -> None:
    code, output, calls = run(FLEDGE, *command.split())
    assert calls == [], output
    assert code == (2 if "nothing" in command else 0), output


@pytest.mark.slow
def test_training_and_exporting_call_nobody(run) -> None:
    for command in (
        "new project",
        "train -C project train.epochs=1",
        "export latest -C project",
        "runs show 1 -C project",
    ):
        code, output, calls = run(FLEDGE, *command.split())
        assert (code, calls) == (0, []), output


def test_the_guard_stops_what_is_about_the_network(run, tmp_path: Path) -> None:
    code, output, calls = run(FLEDGE, "models", "pull", "qwen3-0.6b", FLEDGE_HOME=str(tmp_path / "home"))
    assert code == 2
    assert "no source has it" in output
    assert calls


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "socket.socket().connect(('192.0.2.1', 80))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(('192.0.2.1', 53))",
        "socket.getaddrinfo('example.org', 80)",
        "__import__('urllib.request').request.urlopen('http://example.org')",
    ],
)
def test_the_guard_sees_what_is_swallowed(run, code: str) -> None:
    _, _, calls = run(sys.executable, "-c", f"import socket\ntry: {code}\nexcept OSError: pass")
    assert len(calls) == 1


def test_the_guard_lets_loopback_through(run) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    assert run(sys.executable, "-c", code) == (0, "", [])
