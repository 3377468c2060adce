"""The processes that look at rows: what they say arrives whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from fledge.recipes.check_pieces import Piece

PIPE_BYTES = 1 << 16


def test_what_a_stopped_process_was_saying_arrives_whole(tmp_path: Path) -> None:
    """A signal cuts a write short; with PYTHONUNBUFFERED the standard streams lose the rest of it."""
    rows = [{"question": f"What is {i}?", "answer": f"TODO: write to jane.roe{i}@northwind.io."} for i in range(600)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    piece = Piece(str(path), str(tmp_path / "seen"), "question_answer", start=0, end=path.stat().st_size)
    command = [sys.executable, "-m", "fledge.recipes.check_pieces"]
    told = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=told, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(asdict(piece)) + "\n")
        process.stdin.flush()
        # It has looked at all rows, and waits for somebody to take what the pipe does not hold.
        waiting = Path(f"/proc/{process.pid}/wchan")
        deadline = time.monotonic() + 60
        while "pipe_w" not in waiting.read_text(encoding="ascii") and time.monotonic() < deadline:
            time.sleep(0.05)
        for sent in (signal.SIGSTOP, signal.SIGCONT):
            process.send_signal(sent)
            time.sleep(0.2)
        line = process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    assert len(line) > PIPE_BYTES and json.loads(line)["rows"] == len(rows)
