"""The law of one direction: who may import whom, and behind which door each third-party library stays."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import fledge

SOURCE = Path(fledge.__file__).parents[1]

# A room may import lower layers and itself; rooms of one layer meet on disk or in recipes.
LAYERS = {
    "fledge": 0, "errors": 0, "records": 0, "config": 0, "config_file": 0, "project": 0, "kept": 0,
    "data": 1, "runtime": 1, "rewards": 1,
    "model": 2, "knowledge": 2,
    "objective": 3,
    "training": 4, "evaluation": 4, "release": 4, "advise": 4,
    "recipes": 6,
    "api": 7, "cli": 7, "__main__": 8,
}  # fmt: skip
# `import fledge` offers what api has; it opens it when somebody asks, which the tests of lightness below prove.
FRONT_DOOR = ("fledge", "fledge.api")
# These are told everything as arguments: an objective knows no model and no tokenizer.
ALONE = {"objective", "records", "errors"}
# Third-party library: the rooms and modules that may import it.
DOORS = {
    "charset_normalizer": ("data.readers.opening",),
    "gguf": ("model", "release"),
    "httpx": ("runtime.llama", "runtime.client", "model.download"),
    "jinja2": ("data.chat_jinja",),
    "numpy": (
        *(
            "data.tree",
            "data.token_cache",
            "data.checks",
            "data.split",
            "runtime",
            "knowledge",
            "model",
            "training.batch",
            "evaluation",
            "release",
        ),
        "recipes.check",
    ),
    "openpyxl": ("data.readers.books",),
    "optuna": ("recipes.study",),
    "pyarrow": ("data.readers.books",),
    "pydantic": ("config", "config_file"),
    "pypdf": ("data.readers.documents",),
    "rapidfuzz": ("data.checks.near",),
    "rich": ("cli",),
    "tokenizers": ("data.tokenizer", "data.vocabularies"),
    "torch": ("model", "objective", "training", "recipes"),
    "transformers": ("model.load",),
    "typer": ("cli",),
    "xllamacpp": ("runtime.worker", "runtime.logits_worker", "release.quantize"),
    "yaml": ("config_file", "data.readers.books", "recipes", "cli"),
}
IMPORTERS = ("find_spec", "import_module", "__import__")


def modules(source: Path) -> dict[str, ast.Module]:
    """Return every module of the package below `source` by its dotted name, parsed."""
    paths = {".".join(path.relative_to(source).with_suffix("").parts): path for path in source.rglob("*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for name, path in paths.items()}


def imports(tree: ast.Module, known: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import, wherever it stands: in a function, under TYPE_CHECKING, by find_spec."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for full in (f"{module}.{alias.name}" for alias in node.names):
                yield node.lineno, full if full in known else module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTERS:
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def room(module: str) -> str:
    """Return the folder or top module that `module` is in; the package itself is the room "fledge"."""
    return [*module.split("."), module][1]


def complaint(importer: str, imported: str) -> str:
    """Return what is wrong with this import, or ""."""
    top, here = imported.split(".")[0], room(importer)
    if not top:
        return "relative import"
    if (importer, imported) == FRONT_DOOR:
        return ""
    if top == "fledge":
        there = room(imported)
        if here not in LAYERS or there not in LAYERS:
            return "room without a layer"
        if here == there or (LAYERS[here] == LAYERS[there] == 0 and here not in ALONE and here != "fledge"):
            return ""
        if here in ALONE or LAYERS[there] >= LAYERS[here]:
            return f"'{here}' may not import '{there}'"
    elif top not in sys.stdlib_module_names:
        allowed = tuple(f"fledge.{door}." for door in DOORS.get(top, ()))
        if not f"{importer}.".startswith(allowed or ("closed",)):
            return f"'{top}' has no door here"
    return ""


def complaints(source: Path) -> list[str]:
    """Return everything in the package below `source` that breaks the law, as module:line: what."""
    trees = modules(source)
    edges = {name: list(imports(tree, list(trees))) for name, tree in trees.items()}
    every = [(name, line, complaint(name, used)) for name, uses in edges.items() for line, used in uses]
    found = [f"{name}:{line}: {what}" for name, line, what in every if what]
    try:
        inside = {
            name: {used for _, used in uses if used in trees and (name, used) != FRONT_DOOR} - {name}
            for name, uses in edges.items()
        }
        graphlib.TopologicalSorter(inside).prepare()
    except graphlib.CycleError as error:
        found.append(f"cycle: {' <- '.join(error.args[1])}")
    return found


def test_every_import_goes_down_and_through_its_door() -> None:
    assert complaints(SOURCE) == []


def test_no_door_stands_open_for_nothing() -> None:
    trees = modules(SOURCE)
    uses = {(used.split(".")[0], f"{name}.") for name, tree in trees.items() for _, used in imports(tree, list(trees))}
    for library, doors in DOORS.items():
        for door in doors:
            assert any(lib == library and name.startswith(f"fledge.{door}.") for lib, name in uses), (library, door)
    assert set(LAYERS) == {room(name) for name in trees}


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("data/up.py", "from fledge.model import load", "'data' may not import 'model'"),
        ("data/beside.py", "def f():\n    import fledge.runtime.llama", "'data' may not import 'runtime'"),
        (
            "training/beside.py",
            "if TYPE_CHECKING:\n    from fledge.release import x",
            "'training' may not import 'release'",
        ),
        ("objective/x.py", "from fledge.model.load import CausalModel", "'objective' may not import 'model'"),
        ("errors.py", "from fledge.project import x", "'errors' may not import 'project'"),
        ("__init__.py", "from fledge.cli import main", "'fledge' may not import 'cli'"),
        ("model/x.py", "import transformers", "'transformers' has no door here"),
        ("model/load_more.py", "import transformers", "'transformers' has no door here"),
        ("recipes/x.py", "import importlib\nimportlib.import_module('httpx')", "'httpx' has no door here"),
        ("recipes/x.py", "import requests", "'requests' has no door here"),
        ("data/x.py", "from . import y", "relative import"),
        ("attic/x.py", "import fledge.errors", "room without a layer"),
        ("data/x.py", "from fledge.data.y import a\n", "cycle: "),
    ],
)
def test_the_checker_sees(tmp_path: Path, path: str, text: str, expected: str) -> None:
    for name, content in {"data/y.py": "import fledge.data.x\n", path: text}.items():
        (file := tmp_path / "fledge" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert any(expected in found for found in complaints(tmp_path))


@pytest.mark.parametrize("name", sorted(modules(SOURCE)))
def test_every_module_can_be_imported(name: str) -> None:
    importlib.import_module(name)


def _fastest(code: str, heavy: set[str]) -> tuple[float, set[str]]:
    """Return the least seconds that `code` took in five fresh processes, and which of `heavy` it loaded."""
    script = f"import json, sys, time; start = time.perf_counter()\n{code}\n"
    script += "print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]), file=sys.stderr)"
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, check=True) for _ in range(5)]
    told = [json.loads(run.stderr.splitlines()[-1]) for run in runs]
    return min(seconds for seconds, _ in told), heavy & set(told[0][1])


def test_importing_fledge_is_light() -> None:
    seconds, loaded = _fastest("import fledge", {"torch", "transformers", "numpy", "typer"})
    assert not loaded
    assert seconds < 0.2


def test_the_room_of_data_needs_no_torch() -> None:
    rooms = sorted(name for name in modules(SOURCE) if name.startswith("fledge.data"))
    assert len(rooms) > 15
    code = "import importlib\nfor name in " + repr(rooms) + ": importlib.import_module(name)"
    assert not _fastest(code, {"torch", "transformers", "pyarrow", "openpyxl", "pypdf"})[1]


def test_help_is_light() -> None:
    code = "sys.argv = ['fledge', '--help']\nfrom fledge.cli import main\ntry: main()\nexcept SystemExit: pass"
    seconds, loaded = _fastest(code, {"torch", "transformers", "numpy", "httpx", "yaml", "pydantic"})
    assert not loaded
    assert seconds < 0.5
    assert _fastest("import numpy", {"numpy"})[1], "the measurement itself sees what is loaded"
