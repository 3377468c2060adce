"""Writes the rows of this example: sums of one and two steps with small numbers, each asked once."""

from __future__ import annotations

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
TRAIN, EVAL = 300, 100


def problems() -> list[tuple[str, int]]:
    """Return every problem with its answer, in a fixed random order."""
    found = []
    for a in range(1, 16):
        for b in range(1, 16):
            found.append((f"{a} + {b}", a + b))
            if a > b:
                found.append((f"{a} - {b}", a - b))
    for a in range(1, 10):
        for b in range(1, 10):
            for c in range(1, 10):
                found.append((f"{a} + {b} + {c}", a + b + c))
                if a + b > c:
                    found.append((f"{a} + {b} - {c}", a + b - c))
    random.Random(0).shuffle(found)
    one = [problem for problem in found if problem[0].count(" ") == 2]
    two = [problem for problem in found if problem[0].count(" ") == 4]
    half = (TRAIN + EVAL) // 2
    mixed = one[:half] + two[:half]
    random.Random(1).shuffle(mixed)
    return mixed


def main() -> None:
    every = problems()
    for name, rows in (("train", every[:TRAIN]), ("eval", every[TRAIN:])):
        lines = [json.dumps({"prompt": f"What is {sum_}?", "answer": str(answer)}) for sum_, answer in rows]
        (HERE / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
