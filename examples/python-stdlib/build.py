"""python3 examples/python-stdlib/build.py [--check]

Turns facts.yaml into data/train.jsonl and data/eval.jsonl, both next to this file.

Every question becomes one row: `prompt` is the question, `completion` the whole answer in the fixed
four-line template, `answer` the part which an evaluation must find in a reply, and `group` a short
name shared by all phrasings of a fact. The same facts.yaml always gives the same bytes.

With --check nothing is written; the exit status is 1 if the files on disk are not what would be written.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
FACTS = HERE / "facts.yaml"
TRAIN = HERE / "data" / "train.jsonl"
EVAL = HERE / "data" / "eval.jsonl"
KEYS = {"module", "code", "train", "held_out"}


class FactsError(ValueError):
    """facts.yaml does not have the expected form."""


@dataclass(frozen=True)
class Fact:
    """One thing to learn: a task in several wordings, and the module and the line which do it."""

    module: str
    code: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def answer(self) -> str:
        return f"Module: {self.module}\nCode: {self.code}"

    @property
    def group(self) -> str:
        """Module and first name used from it, such as `os-cpu_count`; check.py asserts that it is unique."""
        try:
            tree = ast.parse(self.code)
        except SyntaxError:  # check.py reports the broken line; a build must still have a name for it
            return self.module
        first = tree.body[0] if tree.body else None
        if isinstance(first, ast.ImportFrom):
            return f"{self.module}-{first.names[0].name}".lower()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == self.module:
                return f"{self.module}-{node.attr}".lower()
        return self.module


def completion(question: str, fact: Fact) -> str:
    """The exact reply to a question: four lines, no newline at the end."""
    return f"You asked: {question}\n{fact.answer}\n### DONE!"


def _texts(raw: Any, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        raise FactsError(f"{where}: must be a list of texts (quote a text which holds a colon)")
    return tuple(raw)


def _fact(raw: Any, number: int) -> Fact:
    where = f"fact {number}"
    if not isinstance(raw, dict) or set(raw) != KEYS:
        raise FactsError(f"{where}: needs exactly the keys {', '.join(sorted(KEYS))}")
    module, code = raw["module"], raw["code"]
    if not isinstance(module, str) or not isinstance(code, str):
        raise FactsError(f"{where}: module and code must be texts")
    return Fact(module, code, _texts(raw["train"], f"{where}, train"), _texts(raw["held_out"], f"{where}, held_out"))


def load_facts(path: Path = FACTS) -> list[Fact]:
    """Read the facts; raises FactsError with the number of the entry that is wrong."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise FactsError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, list) or not raw:
        raise FactsError(f"{path.name}: must be a list of facts")
    return [_fact(item, number) for number, item in enumerate(raw, start=1)]


def _row(question: str, fact: Fact) -> str:
    row = {
        "prompt": question,
        "completion": completion(question, fact),
        "answer": fact.answer,
        "group": fact.group,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def render(facts: list[Fact]) -> dict[Path, str]:
    """The full text of each output file."""
    return {
        TRAIN: "".join(_row(question, fact) for fact in facts for question in fact.train),
        EVAL: "".join(_row(question, fact) for fact in facts for question in fact.held_out),
    }


def stale(outputs: dict[Path, str]) -> list[Path]:
    """The output files which are missing or differ. Bytes are compared, so line endings count too."""
    return [path for path, text in outputs.items() if not path.is_file() or path.read_bytes() != text.encode()]


def write(path: Path, text: str) -> None:
    """Write beside the target and rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        part.write_bytes(text.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build data/*.jsonl from facts.yaml.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the files are out of date")
    options = parser.parse_args(argv)
    try:
        facts = load_facts()
    except (FactsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    outputs = render(facts)
    if options.check:
        for path in (old := stale(outputs)):
            print(f"out of date: {path.relative_to(HERE)} (run build.py)", file=sys.stderr)
        return 1 if old else 0
    for path, text in outputs.items():
        write(path, text)
        print(f"{path.relative_to(HERE)}: {text.count(chr(10))} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
