"""The process in which a reply's code meets the row's tests: `python -m fledge.rewards.tests_worker`.

Protocol. In: one JSON line (`folder, memory_bytes, file_bytes, timeout_s, code, tests: [[kind, source]], nonce`). Out:
one JSON line `{nonce, passed, total}`. Code that ends the process gets nothing said, and so passes nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from fledge.rewards.confinement import shut_in

ALARM_AFTER_S = 2


def judge(code: str, tests: list[tuple[str, str]]) -> tuple[int, int]:
    """Return how many tests pass, and how many there are. Nothing that the code raises gets out."""
    total = sum(kind != "setup" for kind, _ in tests)
    Path("reply.py").write_text(code, encoding="utf-8", errors="replace")
    spec = importlib.util.spec_from_file_location("reply", "reply.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:  # noqa: BLE001  (a stranger's code, SystemExit too)
        return 0, total
    names: dict[str, Any] = dict(vars(module))
    passed = 0
    for kind, source in tests:
        Path("test.py").write_text(source, encoding="utf-8", errors="replace")
        try:
            names = runpy.run_path("test.py", init_globals=names)
        except BaseException:  # noqa: BLE001  (a test that fails, in whatever way)
            continue
        passed += kind != "setup"
    return passed, total


def main() -> None:
    settings = json.loads(sys.stdin.buffer.readline())
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.alarm(int(settings["timeout_s"]) + ALARM_AFTER_S)
    nonce = settings.pop("nonce")
    limits = {name: settings[name] for name in ("memory_bytes", "file_bytes")}
    shut_in(settings["folder"], **limits, strict=True)
    passed, total = judge(settings["code"], settings["tests"])
    replies.write(json.dumps({"nonce": nonce, "passed": passed, "total": total}).encode() + b"\n")
    replies.flush()
    # Threads that the code left behind must not hold up the end.
    os._exit(0)


if __name__ == "__main__":
    main()
