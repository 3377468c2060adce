"""python3 examples/python-stdlib/check.py

Checks facts.yaml and the files built from it, and runs every code line in a process of its own.

Prints one line per problem and a short summary; the exit status is 1 if there was any problem. The limits
below suit this data set: lower MIN_FACTS and MIN_TRAIN if your own set is smaller.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from itertools import combinations

import build

MIN_FACTS = 40
MIN_TRAIN = 4
MIN_HELD_OUT = 2
MAX_CODE = 60
WORDS = range(5, 15)
TOO_SIMILAR = 0.9
NEW_FRAMES = 0.8
TIMEOUT_S = 20
JOBS = 2
TEMPLATE = re.compile(r"You asked: [^\n]+\nModule: [a-z_][a-z0-9_.]*\nCode: (?:import|from) [^\n]+\n### DONE!")


def plain(question: str) -> str:
    """Lower case words only: a different capital or comma does not make a different question."""
    return " ".join(re.findall(r"[a-z0-9']+", question.lower()))


def frame(question: str) -> str:
    """The first two words. Crude, but it is what a small model latches on to."""
    return " ".join(plain(question).split()[:2])


def too_similar(one: str, two: str) -> bool:
    matcher = SequenceMatcher(None, one, two, autojunk=False)
    # The two quick ratios are upper bounds, which spares nearly all of the slow comparisons.
    bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)
    return all(bound() >= TOO_SIMILAR for bound in bounds)


def imports(tree: ast.Module) -> set[str]:
    """Top-level names of the modules which the first statement imports."""
    first = tree.body[0] if tree.body else None
    if isinstance(first, ast.Import):
        return {alias.name.split(".")[0] for alias in first.names}
    if isinstance(first, ast.ImportFrom) and first.module:
        return {first.module.split(".")[0]}
    return set()


def check_code(fact: build.Fact) -> Iterator[str]:
    """What can be said about module and code without running anything."""
    name = fact.group
    if fact.module not in sys.stdlib_module_names:
        yield f"{name}: {fact.module} is not a module of the standard library"
    if "\n" in fact.code or len(fact.code) > MAX_CODE:
        yield f"{name}: the code must be one line of at most {MAX_CODE} characters, has {len(fact.code)}"
    try:
        tree = ast.parse(fact.code)
    except SyntaxError as error:
        yield f"{name}: the code is not valid Python: {error.msg}"
        return
    if fact.module not in imports(tree):
        yield f"{name}: the code does not start by importing {fact.module}"


def run_code(fact: build.Fact) -> str | None:
    """Run the line alone in an empty folder; the problem, or None when all went well."""
    with tempfile.TemporaryDirectory() as folder:
        # Temporary files which the line itself makes land here too, and go away with the folder.
        env = {**os.environ, "TMPDIR": folder, "TEMP": folder, "TMP": folder}
        command = [sys.executable, "-I", "-c", fact.code]
        try:
            done = subprocess.run(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return f"{fact.group}: the code still ran after {TIMEOUT_S} s"
    noise = done.stderr.decode(errors="replace").strip()
    if done.returncode or noise:
        last = noise.splitlines()[-1] if noise else "no message"
        return f"{fact.group}: the code ended with status {done.returncode}: {last}"
    return None


def check_questions(fact: build.Fact) -> Iterator[str]:
    """Counts, lengths, the frames within the fact, and the answer template."""
    name = fact.group
    if len(fact.train) < MIN_TRAIN:
        yield f"{name}: {len(fact.train)} training questions, needs {MIN_TRAIN}"
    if len(fact.held_out) < MIN_HELD_OUT:
        yield f"{name}: {len(fact.held_out)} held-out questions, needs {MIN_HELD_OUT}"
    for question in fact.train + fact.held_out:
        if (words := len(question.split())) not in WORDS:
            yield f"{name}: {words} words, must be {WORDS[0]} to {WORDS[-1]}: {question}"
        if not TEMPLATE.fullmatch(build.completion(question, fact)):
            yield f"{name}: the answer does not fit the template: {question}"
    train_frames = Counter(frame(question) for question in fact.train)
    for words_, count in train_frames.items():
        if count > 1:
            yield f"{name}: {count} training questions start with '{words_}'"
    for question in fact.held_out:
        if frame(question) in train_frames:
            yield f"{name}: starts like a training question of the same fact: {question}"


def check_together(facts: list[build.Fact]) -> Iterator[str]:
    """What concerns several facts: their number, their names, near-duplicates, frames of the held-out questions."""
    if len(facts) < MIN_FACTS:
        yield f"{len(facts)} facts, needs {MIN_FACTS}"
    for name, count in Counter(fact.group for fact in facts).items():
        if count > 1:
            yield f"{name}: {count} facts show the same function"
    everything = [question for fact in facts for question in fact.train + fact.held_out]
    for one, two in combinations(everything, 2):
        if too_similar(plain(one), plain(two)):
            yield f"too similar: '{one}' and '{two}'"
    known = {frame(question) for fact in facts for question in fact.train}
    held_out = [question for fact in facts for question in fact.held_out]
    old = [question for question in held_out if frame(question) in known]
    if len(held_out) - len(old) < NEW_FRAMES * len(held_out):
        yield f"{len(old)} of {len(held_out)} held-out questions start like a training question, e.g. '{old[0]}'"


def check_files(facts: list[build.Fact]) -> Iterator[str]:
    for path in build.stale(build.render(facts)):
        yield f"{path.relative_to(build.HERE)} does not match facts.yaml: run build.py"


def summary(facts: list[build.Fact], ran: int) -> str:
    train = [question for fact in facts for question in fact.train]
    held_out = [question for fact in facts for question in fact.held_out]
    modules = {fact.module for fact in facts}
    naming = sum(fact.module in plain(question).split() for fact in facts for question in fact.train + fact.held_out)
    return (
        f"{len(facts)} facts, {len(modules)} modules, {len(train)} training and {len(held_out)} held-out rows, "
        f"{len({frame(q) for q in train})} training and {len({frame(q) for q in held_out})} held-out frames; "
        f"{naming} questions name their module; {ran} of {len(facts)} code lines ran"
    )


def main() -> int:
    try:
        facts = build.load_facts()
    except (build.FactsError, OSError) as error:
        print(f"problem: {error}")
        return 1
    with ThreadPoolExecutor(max_workers=JOBS) as pool:
        failures = [problem for problem in pool.map(run_code, facts) if problem]
    problems = [*failures, *check_together(facts), *check_files(facts)]
    for fact in facts:
        problems += [*check_code(fact), *check_questions(fact)]
    for problem in problems:
        print(f"problem: {problem}")
    print(summary(facts, len(facts) - len(failures)))
    print(f"{len(problems)} problems" if problems else "all good")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
