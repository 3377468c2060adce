"""`fledge data check` on rows that are made here: `make bench-data`, or `python benchmarks/data.py --rows 1000000`.

Two figures count: the whole check of a million rows of about 1 KB (seconds, and the memory of all its processes
together), and the same for 100,000, near duplicates and all. Faults are planted, so that speed is not had by looking
away: what is found is compared with what was planted. Appends to benchmarks/results.csv.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from results import append, processor_versions

TARGETS = {"rows": (1_000_000, 120.0, 500e6), "near": (100_000, 60.0, 500e6)}
SMALL = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "for",
    "was",
    "with",
    "as",
    "on",
    "be",
    "at",
    "by",
    "this",
    "not",
    "are",
    "but",
    "from",
    "or",
    "have",
    "an",
    "they",
    "which",
    "you",
]
ROW_WORDS = 150
PLANTED_EVERY = 10_000


def words(rng: random.Random, vocabulary: list[str], count: int) -> str:
    """Return sentences in which every third word is a small one, as in English."""
    picked = rng.choices(vocabulary, k=count)
    picked[::3] = rng.choices(SMALL, k=len(picked[::3]))
    picked[11::12] = [word + "." for word in picked[11::12]]
    return " ".join(picked).capitalize() + "."


def rows(num_rows: int, seed: int) -> Iterator[str]:
    """Yield rows as lines of JSONL. Of every 10,000 one repeats, one nearly repeats, one holds an e-mail address."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    weights = [len(letters) - place for place in range(len(letters))]
    vocabulary = ["".join(rng.choices(letters, weights, k=rng.randint(4, 9))) for _ in range(20_000)]
    before = ("", "")
    for number in range(num_rows):
        question, answer = words(rng, vocabulary, 15), words(rng, vocabulary, ROW_WORDS)
        place = number % PLANTED_EVERY
        if place == 1000:
            question, answer = before
        elif place == 2000:
            question, answer = before[0], before[1].replace(". ", " and so on. ", 1)
        elif place == 3000:
            answer += f" Write to jane.roe{number}@northwind.io."
        before = (question, answer)
        yield json.dumps(
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        )


def resident(pid: int) -> int:
    """Return the bytes that a process and its children hold in memory."""
    total = 0
    pending = [pid]
    while pending:
        one = pending.pop()
        try:
            fields = Path(f"/proc/{one}/statm").read_text(encoding="utf-8").split()
            pending += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text("utf-8").split()]
        except OSError:
            continue
        # Pages of files that are mapped or shared go when memory is wanted; they are not counted.
        total += (int(fields[1]) - int(fields[2])) * 4096
    return total


def measure(path: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Return seconds and peak memory of `fledge data check PATH`, and what it counted."""
    peak = 0
    started = time.perf_counter()
    command = [sys.executable, "-m", "fledge", "data", "check", str(path), "--json"]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out)
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.05):
                peak = max(peak, resident(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        process.wait()
        seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
        out.seek(0)
        told = json.load(out)
    figures = {"seconds": seconds, "peak_bytes": float(peak), "rows": float(told["rows"])}
    return figures, told["counts"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=TARGETS["rows"][0], help="rows of the large file")
    parser.add_argument("--near", type=int, default=TARGETS["near"][0], help="rows of the file for near duplicates")
    parser.add_argument("--no-record", action="store_true", help="append nothing to results.csv")
    arguments = parser.parse_args()
    for what, num_rows in (("near", arguments.near), ("rows", arguments.rows)):
        _, most_s, most_bytes = TARGETS[what]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            with path.open("w", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in rows(num_rows, seed=0))
            figures, counts = measure(path)
            figures["file_bytes"] = float(path.stat().st_size)
        planted = num_rows // PLANTED_EVERY
        for code in ("data.duplicate", "data.near_duplicate", "data.personal"):
            figures[f"{code.removeprefix('data.')}.found_of_planted"] = counts.get(code, 0) / max(1, planted)
        for name, value in figures.items():
            print(f"{what}: {name} = {value:,.6g}")
        for name, bound in (("seconds", most_s), ("peak_bytes", most_bytes)):
            print(f"{'reached' if figures[name] <= bound else 'MISSED '}  {what}.{name} (target <= {bound:g})")
        if not arguments.no_record:
            append(f"data check {what}", figures, processor_versions("none"))


if __name__ == "__main__":
    main()
