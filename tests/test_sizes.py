"""Budgets for beauty: when one binds, find the missing idea and split by meaning."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "docs", "benchmarks", "examples")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Names under which anything may be filed, so that nothing is found again.
NO_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


def oversized(path: Path) -> Iterator[str]:
    """Yield what is too large in a file, or badly named."""
    text = path.read_text("utf-8")
    if (lines := len(text.splitlines())) > MAX_FILE_LINES:
        yield f"{path}: {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            first = min(line.lineno for line in (node, *node.decorator_list))
            if (lines := node.end_lineno - first + 1) > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines"
    if NO_NAMES & {path.stem, path.parent.name}:
        yield f"{path}: a name that says nothing"


def test_files_and_functions_are_small() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 50
    assert [found for path in paths for found in oversized(path)] == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("long.py", "x = 1\n" * (MAX_FILE_LINES + 1), "401 lines"),
        (
            "deep.py",
            "class C:\n  @cache\n  def f(self):\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1),
            "f has 61 lines",
        ),
        ("utils.py", "", "a name that says nothing"),
        ("helpers/x.py", "", "a name that says nothing"),
    ],
)
def test_the_checker_sees(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (path := tmp_path / name).parent.mkdir(exist_ok=True)
    path.write_text(text)
    [found] = oversized(path)
    assert expected in found


def test_the_checker_lets_the_largest_allowed_through(tmp_path: Path) -> None:
    path = tmp_path / "large.py"
    path.write_text("def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1) + "x = 1\n" * 340)
    assert len(path.read_text().splitlines()) == MAX_FILE_LINES
    assert list(oversized(path)) == []
