"""A user's rewards run outside of fledge, and whatever they do is one clear line. Real processes throughout."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fledge.errors import RewardError
from fledge.rewards.file import MAX_HANGS, RewardFile
from fledge.rewards.record import Sample

SAMPLE = Sample("2 + 2?", "It is 4.", "4", "rows.jsonl:3", "an empty answer")
Open = Callable[..., RewardFile]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Give a function that writes rewards.py and opens it; `said` of the file lists what was told."""
    files: list[RewardFile] = []

    def open_(text: str, **more: float) -> RewardFile:
        path = tmp_path / "rewards.py"
        path.write_text(text)
        said: list[str] = []
        files.append(RewardFile(path, say=said.append, **({"timeout_s": 1.0} | more)))
        files[-1].said = said
        return files[-1]

    yield open_
    for file in files:
        file.close()


def fault(file: RewardFile, place: int = 0) -> str:
    with pytest.raises(RewardError) as met:
        file.rewards[place].score(SAMPLE)
    assert met.value.code == "reward.failed"
    assert "on an empty answer to rows.jsonl:3: 'It is 4.'" in str(met.value)
    return str(met.value)


@pytest.mark.parametrize(
    "text",
    [
        "def reward_a(prompt, reply, answer): return float(answer in reply)",
        "def reward_a(reply, answer): return answer in reply",
        "def reward_a(*, answer, **rest): return int(answer in rest['reply'])",
        "def reward_a(question, completion, truth): return truth in completion",
        "def reward_a(prompt, reply, answer, /): return answer in reply",
        "def reward_a(reply, strict=True): return 1 if strict else 0",
        "def other(answer): return answer == '4'\nREWARDS = [other]",
        "def other(answer): return answer == '4'\nREWARDS = ['other']",
        "from fractions import Fraction\ndef reward_a(reply): return Fraction(1)",
        "import numpy as np\ndef reward_a(reply): return np.float32(1)",
    ],
)
def test_a_function_gets_what_it_asks_for(opened: Open, text: str) -> None:
    [reward] = opened(text, timeout_s=20).rewards
    assert reward.score(SAMPLE) == 1.0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return float('nan')", "it gave nan"),
        ("return 1e999", "it gave inf"),
        ("pass", "it gave None (is a return missing?)"),
        ("return '1'", "it gave str '1'"),
        ("return 1 / 0", "it raised ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "it raised SystemExit: 3"),
        ("import os; os._exit(3)", "its process ended with exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "its process was ended by SIGSEGV"),
    ],
)
def test_what_is_no_number_is_told_with_its_line(opened: Open, body: str, expected: str) -> None:
    file = opened(f"x = 1\n\n\ndef reward_a(reply): {body}\n\ndef reward_b(reply): return 1\n")
    told = fault(file)
    assert expected in told
    assert "rewards.py:4: reward_a: " in told
    assert file.rewards[1].score(SAMPLE) == 1.0, "the others go on"


def test_a_fault_names_the_line_where_it_happens(opened: Open) -> None:
    file = opened("def inner(text):\n    return int(text)\n\ndef reward_a(reply):\n    return inner(reply)\n")
    assert "rewards.py:2: reward_a: it raised ValueError" in fault(file)


def test_a_hang_is_killed_and_the_worker_starts_again(opened: Open) -> None:
    file = opened("def reward_a(reply):\n    while True: pass\ndef reward_b(reply): return 1", timeout_s=0.5)
    for _ in range(MAX_HANGS):
        pid = file.worker_pid
        assert "rewards.py:1: reward_a: it gave nothing within 0.5 s" in fault(file)
        assert not Path(f"/proc/{pid}").exists()
        assert file.rewards[1].score(SAMPLE) == 1.0
    started = time.monotonic()
    assert "is not called any more" in fault(file)
    assert time.monotonic() - started < 0.1


def test_a_worker_that_nobody_waits_for_ends(opened: Open) -> None:
    file = opened("def reward_a(reply): return 1")
    pid = file.worker_pid
    file.close()
    assert not Path(f"/proc/{pid}").exists()


def test_an_idle_worker_ends_with_fledge_and_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("open('mine', 'w').write('x')\ndef reward_a(reply): return 1\n")
    code = (
        "import os, pathlib\nfrom fledge.rewards.file import RewardFile\n"
        f"file = RewardFile(pathlib.Path({str(tmp_path / 'rewards.py')!r}))\n"
        "print(file.worker_pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    worker = Path("/proc") / done.stdout.strip()
    deadline = time.monotonic() + 5
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["rewards.py"]


def test_a_loop_ends_when_fledge_is_killed(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def reward_a(reply):\n    while True: pass\n")
    code = (
        "import pathlib, threading\nfrom fledge.rewards.file import RewardFile\n"
        "from fledge.rewards.record import Sample\n"
        f"file = RewardFile(pathlib.Path({str(tmp_path / 'rewards.py')!r}), timeout_s=1.5)\n"
        "print(file.worker_pid, flush=True)\nfile.rewards[0].score(Sample('', '', ''))\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # what is killed leaves its folder
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as fledge:
        assert fledge.stdout is not None
        worker = Path("/proc") / fledge.stdout.readline().strip()
        time.sleep(0.3)
        fledge.kill()
    assert worker.name.isdigit()
    deadline = time.monotonic() + 10
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(worker)


def _runs(process: Path) -> bool:
    # Whoever inherits it may take its time to collect it.
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_memory_and_files_are_limited(opened: Open) -> None:
    text = (
        "def reward_a(reply): return len(bytearray(1 << 29))\n"
        "def reward_b(reply):\n    with open('x', 'wb') as file: return file.write(b'x' * (1 << 21))\n"
        "def reward_c(reply):\n    with open('x', 'w') as file: return file.write('x')\n"
    )
    file = opened(text, memory_bytes=1 << 28, file_bytes=1 << 20, timeout_s=5)
    assert "MemoryError" in fault(file)
    assert "File too large" in fault(file, 1)
    assert file.rewards[2].score(SAMPLE) == 1.0, "its own folder can be written to"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("open({victim!r}, 'w')", "writing"),
        ("os.open({victim!r}, os.O_CREAT | os.O_WRONLY)", "writing"),
        ("os.remove({keep!r})", "changing"),
        ("os.rename({keep!r}, 'x')", "changing"),
        ("os.symlink('/', 'out') or open('out' + {victim!r}, 'w')", "changing"),
        ("socket.socket()", "a socket"),
        ("socket.getaddrinfo('localhost', 80)", "a socket"),
        ("subprocess.run(['true'])", "starting another program"),
        ("os.system('true')", "starting another program"),
        ("[os.fork() for _ in range(999)]", "starting another program"),
        ("os.kill(os.getppid(), 0)", "sending a signal"),
    ],
)
def test_what_it_may_not_do_is_refused_and_told(opened: Open, tmp_path: Path, body: str, expected: str) -> None:
    victim, keep = tmp_path / "victim", tmp_path / "keep"
    keep.touch()
    body = body.format(victim=str(victim), keep=str(keep))
    # Swallowed, so that only what is told can show it.
    tried = f"try: {body}\n    except OSError: return 0\n    return 1\n"
    file = opened(f"import os, socket, subprocess\ndef reward_a(reply):\n    {tried}")
    assert file.rewards[0].score(SAMPLE) == 0.0
    assert any(f"it was refused {expected}" in note for note in file.said), file.said
    assert keep.exists() and not victim.exists()


@pytest.mark.parametrize(
    "call",
    ["fork()", "socket(2, 1, 0)", "open(b'{victim}', 0o101, 0o666)", "kill(os.getppid(), 0)", "chmod(b'{keep}', 0)"],
)
def test_native_code_gets_no_further(opened: Open, tmp_path: Path, call: str) -> None:
    victim, keep = tmp_path / "victim", tmp_path / "keep"
    keep.touch()
    call = call.format(victim=victim, keep=keep)
    file = opened(f"import ctypes, os\ndef reward_a(reply): return ctypes.CDLL(None).{call}\n")
    assert file.rewards[0].score(SAMPLE) == -1.0
    assert not victim.exists()


def test_native_code_does_all_that_where_nothing_holds_it(tmp_path: Path) -> None:
    import ctypes

    victim = tmp_path / "victim"
    opened = ctypes.CDLL(None).open(str(victim).encode(), 0o101, 0o666)
    assert opened >= 0 and victim.exists()
    os.close(opened)


def test_what_it_prints_and_reads_is_told(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("ONE = 1\n")
    (tmp_path / "secret.txt").write_text("x")
    file = opened(
        "import mine, sys\nprint('loading')\n"
        f"def reward_a(reply):\n    print('hello', reply); print('oh', file=sys.stderr)\n"
        f"    return len(open({str(tmp_path / 'secret.txt')!r}).read()) * mine.ONE\n"
    )
    assert file.rewards[0].score(SAMPLE) == file.rewards[0].score(SAMPLE) == 1.0
    told = [note.split(": ", 1)[1] for note in file.said]
    assert told[0] == "it printed: loading"
    assert sorted(told[1:]) == ["it printed: hello It is 4.", "it printed: oh", f"it read {tmp_path / 'secret.txt'}"]


def test_nothing_of_the_users_environment_is_in_it(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "secret")
    file = opened("import os\ndef reward_a(reply): return 'MY_API_KEY' in os.environ or len(os.listdir('.'))")
    assert file.rewards[0].score(SAMPLE) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ndef reward_a(reply)\n", "rewards.py:2: it is not valid Python: expected ':'"),
        ("x = 1\n\nx / 0\n", "rewards.py:3: it can't be loaded: ZeroDivisionError"),
        ("import nothing_like_it\n", "rewards.py:1: it can't be loaded: ModuleNotFoundError"),
        ("def score(reply): return 1\n", "rewards.py: no function in it is called reward_something"),
        ("REWARDS = [3]\n", "REWARDS lists 3, which is no function"),
        ("\ndef reward_a(reply, foo): return 1\n", "rewards.py:2: reward_a asks for 'foo'"),
        ("import os\nos._exit(1)\n", "its process ended with exit code 1 while it was loaded"),
    ],
)
def test_a_file_without_rewards_is_one_line(opened: Open, text: str, expected: str) -> None:
    with pytest.raises(RewardError) as met:
        opened(text)
    assert met.value.code == "reward.broken"
    assert expected in str(met.value)
    assert "\n" not in str(met.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"nothing\.py: there is no such file"):
        RewardFile(tmp_path / "nothing.py")


def test_a_kernel_that_holds_nothing_back_is_told(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def reward_a(reply): return 1"
    assert opened(text).said == []
    monkeypatch.setattr("fledge.rewards.file.FILTERS", ("seccomp", "nothing-like-it"))
    assert "this kernel has no nothing-like-it" in opened(text).said[0]
