"""Code in a reply against a row's tests, in a process that holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fledge.rewards import unit_tests
from fledge.rewards.unit_tests import code_in, passed, read_tests

TESTS = "assert square(2) == 4\nassert square(3) == 9\n"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Here:\n```python\ndef square(x):\n    return x * x\n```\nDone.", 1.0),
        ("def square(x): return x * x", 1.0),
        ("```py\ndef square(x): return 4\n```", 0.5),
        ("```\nx = 1\n```\n```python\ndef square(x): return x * x\n```", 1.0),
        ("```python\ndef square(x): return x * x\nif __name__ == '__main__': 1 / 0\n```", 1.0),
        ("", 0.0),
        ("```js\nlet x = 1\n```", 0.0),
        ("def square(x:", 0.0),
        ("import os; os._exit(0)", 0.0),
        ("raise SystemExit(0)", 0.0),
        ("def square(x): raise SystemExit(0)", 0.0),
        ("def square(x): import os; os._exit(0)", 0.0),
        ("print('{\"passed\": 2, \"total\": 2}')", 0.0),
        ("import os\nwhile True: os.fork()", 0.0),
        ("import subprocess\nsubprocess.run(['true'])\ndef square(x): return x * x", 0.0),
        ("import socket\nsocket.socket()\ndef square(x): return x * x", 0.0),
        ("x = bytearray(1 << 30)\ndef square(x): return x * x", 0.0),
        ("open('big', 'wb').write(b'x' * (1 << 22))\ndef square(x): return x * x", 0.0),
        ("open('/etc/passwd').read()\ndef square(x): return x * x", 0.0),
        ("import ctypes\nassert ctypes.CDLL(None).open(b'/etc/passwd', 0) >= 0\ndef square(x): return x * x", 0.0),
        ("import math, json, re, collections\nopen('own', 'w').write('x')\ndef square(x): return x * x", 1.0),
        ("import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()\n"
         "def square(x): return x * x", 1.0),
    ],
)  # fmt: skip
def test_what_a_reply_is_worth(reply: str, expected: float) -> None:
    assert passed("", reply, TESTS) == expected


def test_a_loop_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_tests, "TIMEOUT_S", 0.5)
    assert passed("", "while True: pass", TESTS) == 0.0


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    code = f"try: open({str(tmp_path / 'x')!r}, 'w')\nexcept OSError: pass\ndef square(x): return x * x"
    assert passed("", code, TESTS) == 1.0
    assert list(tmp_path.iterdir()) == []


def test_functions_of_tests_and_what_sets_them_up() -> None:
    tests = "import math\nnumbers = [2, 3]\ndef test_all():\n    assert [square(n) for n in numbers] == [4, 9]\n"
    tests += "def test_type():\n    assert isinstance(square(2), float)\nassert math.sqrt(square(2)) == 2\n"
    assert passed("", "def square(x): return x * x", tests) == pytest.approx(2 / 3)
    assert [kind for kind, _ in read_tests(f"```python\n{tests}```")] == [*["setup"] * 4, "test", "call", "call"]


@pytest.mark.parametrize("answer", ["", "42", "x = 1", "def f(:"])
def test_an_answer_without_tests_is_told(answer: str) -> None:
    with pytest.raises(ValueError, match="the row's answer"):
        passed("", "x = 1", answer)


def test_the_last_block_counts() -> None:
    assert code_in("a = 1") == "a = 1"
    assert code_in("```python\na\n```\n```\nb\n```") == "b\n"
    assert code_in("```python\nnot closed") == ""
