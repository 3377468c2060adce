"""The reward `unit_tests`: the share of a row's tests that the Python code in a reply passes, run outside of fledge."""

from __future__ import annotations

import ast
import re
import secrets

from fledge.rewards.child import Child, Gone, Silent

WORKER = "fledge.rewards.tests_worker"
TIMEOUT_S = 10.0
MEMORY_BYTES, FILE_BYTES = 512 << 20, 1 << 20
_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL | re.IGNORECASE
)
_TEST = "test"


def passed(prompt: str, reply: str, answer: str) -> float:
    """Return the share, 0..1, of the tests in `answer` that the last Python block of the reply passes.

    The tests are Python: each assert is one, and each function called test_something; other statements set up. A reply
    without code, that ends its process or takes longer than 10 s, is worth 0. The code runs in a confined process
    (`confinement`); code that looks for its judge in its own memory could still lie about the result.

    Raises ValueError where the answer holds no tests.
    """
    tests = read_tests(answer)
    code = code_in(reply)
    if not code.strip():
        return 0.0
    nonce = secrets.token_hex(16)
    child = Child(WORKER)
    settings = {
        "folder": child.folder, "memory_bytes": MEMORY_BYTES, "file_bytes": FILE_BYTES, "timeout_s": TIMEOUT_S,
        "code": code, "tests": tests, "nonce": nonce,
    }  # fmt: skip
    try:
        told = child.ask(settings, timeout_s=TIMEOUT_S)
    except (Silent, Gone):
        return 0.0
    finally:
        child.close()
    if told.get("nonce") != nonce or told.get("total") not in range(1, len(tests) + 1):
        return 0.0
    return float(min(1.0, max(0.0, told["passed"] / told["total"])))


def code_in(reply: str) -> str:
    """Return the last fenced block of Python in a reply; the whole reply where it has no fence at all."""
    blocks = _BLOCK.findall(reply)
    return str(blocks[-1]) if blocks else "" if "```" in reply else reply


def read_tests(answer: str) -> list[tuple[str, str]]:
    """Return the tests as (kind, source): `setup` and `test` statements, then `call` for each function of tests.

    Raises ValueError where the answer is no Python or holds no test.
    """
    blocks = _BLOCK.findall(answer)
    try:
        statements = ast.parse(blocks[-1] if blocks else answer).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the row's answer must hold tests in Python ({error})") from error
    found = [("test" if isinstance(each, ast.Assert) else "setup", ast.unparse(each)) for each in statements]
    named = [each.name for each in statements if isinstance(each, ast.FunctionDef) and each.name.startswith(_TEST)]
    found += [("call", f"{name}()") for name in named]
    if all(kind == "setup" for kind, _ in found):
        raise ValueError("the row's answer holds no test: an assert, or a function called test_something")
    return found
