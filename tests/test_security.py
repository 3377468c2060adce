"""What stands nowhere in this code, because opening somebody's file with it can run somebody's code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "docs", "benchmarks", "examples")

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# A call by the end of its dotted name.
CALLS = {
    "eval", "exec", "compile", "__import__",
    "torch.load", "torch.save", "torch.hub.load", "np.save", "numpy.save",
    "os.system", "os.popen", "extractall", "tempfile.mktemp",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip
# A keyword, and what it must not be; None is anything at all.
KEYWORDS = {"shell": True, "verify": False, "trust_remote_code": None, "allow_pickle": None}
# jinja2 runs a model's chat template, which came with the model: only its strictest sandbox is good enough.
ENVIRONMENTS = {"Environment", "Template", "SandboxedEnvironment", "NativeEnvironment", "ImmutableSandboxedEnvironment"}
SANDBOX = ("fledge/data/chat_jinja.py", "ImmutableSandboxedEnvironment")


def dangers(path: Path) -> Iterator[str]:
    """Yield path:line: what, for everything in a file that this house does without."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        for what in _dangers_of(node, path):
            yield f"{path}:{getattr(node, 'lineno', 0)}: {what}"


def _dangers_of(node: ast.AST, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for name in (alias.name for alias in node.names):
            if {module.split(".")[0], name.split(".")[0]} & MODULES:
                yield f"imports {module or name}"
            if f"{module}.{name}" in CALLS:
                yield f"imports {name} from {module}"
            if module.startswith("jinja2") and name in ENVIRONMENTS:
                yield from _unless_sandboxed(name, path)
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name in CALLS or name.split(".")[-1] in CALLS & {"extractall"}:
            yield f"calls {name}"
        for keyword in node.keywords:
            if keyword.arg in KEYWORDS and _is(keyword.value, KEYWORDS[keyword.arg]):
                yield f"{keyword.arg}={ast.unparse(keyword.value)}"
    elif isinstance(node, ast.Attribute) and node.attr in ENVIRONMENTS and ast.unparse(node.value).startswith("jinja2"):
        yield from _unless_sandboxed(node.attr, path)


def _is(value: ast.expr, banned: bool | None) -> bool:
    # A keyword that is computed may be the banned value, so it counts.
    return banned is None or not isinstance(value, ast.Constant) or value.value is banned


def _unless_sandboxed(name: str, path: Path) -> Iterator[str]:
    if not (path.as_posix().endswith(SANDBOX[0]) and name == SANDBOX[1]):
        yield f"jinja2 {name}"


def test_no_file_holds_a_danger() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 50
    assert [found for path in paths for found in dangers(path)] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import pickle", "imports pickle"),
        ("from joblib import load", "imports joblib"),
        ("torch.load(path, weights_only=True)", "calls torch.load"),
        ("from torch import load", "imports load from torch"),
        ("def f():\n    eval('1')", "calls eval"),
        ("exec(text)", "calls exec"),
        ("subprocess.run('ls', shell=True)", "shell=True"),
        ("subprocess.run('ls', shell=flag)", "shell=flag"),
        ("os.system('ls')", "calls os.system"),
        ("AutoModel.from_pretrained(x, trust_remote_code=False)", "trust_remote_code=False"),
        ("jinja2.Environment()", "jinja2 Environment"),
        ("from jinja2 import Template", "jinja2 Template"),
        ("from jinja2.sandbox import ImmutableSandboxedEnvironment", "jinja2 ImmutableSandboxedEnvironment"),
        ("yaml.load(text, Loader=yaml.SafeLoader)", "calls yaml.load"),
        ("httpx.get(url, verify=False)", "verify=False"),
        ("archive.extractall(folder)", "calls archive.extractall"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
    ],
)
def test_the_checker_sees(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(line)
    assert any(found.endswith(expected) for found in dangers(path))


@pytest.mark.parametrize("line", ["model.eval()", "yaml.safe_load(text)", "re.compile('a')", "run(x, shell=False)"])
def test_the_checker_lets_through(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(line)
    assert list(dangers(path)) == []
