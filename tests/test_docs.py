"""What is written is true: commands run, the map is the tree, generated pages are fresh, errors are explained."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fledge
import generate
from fledge.config_file import load_config
from fledge.errors import CODES
from fledge.recipes.prepare import read_project

ROOT = generate.ROOT
SOURCE = Path(fledge.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/fledge.yaml"))

# README lines that are not run here, and why.
SKIPPED = {
    "make demo": "it takes minutes and makes a .venv of its own",
    "make test": "it runs this test",
    "source .venv/bin/activate": "the tests already run in it",
}
# README lines that take longer than a test may; the slow test runs them all.
LONG = ("fledge train", "fledge eval", "fledge export", "fledge chat")


def commands(text: str) -> list[str]:
    """Return the lines of the sh blocks of a page, without what is said beside them."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout + done.stderr


def test_readme_commands_run(tmp_path: Path, starter_gguf: Path) -> None:
    lines = commands(README)
    assert set(SKIPPED) <= set(lines)
    for line in lines:
        if line.startswith(LONG):
            run(f"{' '.join(line.split()[:2])} --help", tmp_path)
        elif line not in SKIPPED:
            assert run(line, tmp_path)


@pytest.mark.slow
def test_readme_commands_run_to_the_end(tmp_path: Path, starter_gguf: Path) -> None:
    for line in commands(README):
        if line not in SKIPPED:
            assert run(line, tmp_path)


def test_a_readme_command_that_does_not_work_is_seen(tmp_path: Path) -> None:
    [line] = commands("```sh\nfledge models lst   # a typo\n```\n```text\nfledge x\n```\n")
    with pytest.raises(AssertionError, match="No such command"):
        run(line, tmp_path)


def mapped(text: str) -> set[str]:
    """Return the paths below src/fledge that the map names; every one must say what it is for."""
    block = re.search(r"^src/fledge/\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    paths: set[str] = set()
    folders: list[str] = []
    for line in block[1].splitlines():
        entry = re.fullmatch(r"((?:  )+)(\S+) {2,}(\S.*)", line)
        assert entry is not None, f"no purpose: {line!r}"
        indent, name, _ = entry.groups()
        folders = folders[: len(indent) // 2 - 1]
        paths.add("".join(folders) + name)
        if name.endswith("/"):
            folders.append(name)
    return paths


def standing(source: Path) -> set[str]:
    """Return the files and folders below `source`; a folder's __init__ is the folder itself."""
    paths = [path for path in source.rglob("*") if "__pycache__" not in path.parts]
    known = [path for path in paths if path.name not in ("__init__.py", "py.typed")]
    return {f"{path.relative_to(source)}{'/' if path.is_dir() else ''}" for path in known}


def test_the_map_is_the_tree() -> None:
    assert mapped(README) == standing(SOURCE)


def test_the_map_sees_a_missing_purpose_and_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room/new.py").touch()
    assert standing(tmp_path) - mapped("src/fledge/\n  room/   a room\n```") == {"room/new.py"}
    with pytest.raises(AssertionError, match="no purpose"):
        mapped("src/fledge/\n  errors.py\n```")


@pytest.mark.parametrize("page", generate.PAGES)
def test_generated_pages_are_fresh(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == generate.PAGES[page](), "make docs"


def sections(text: str) -> dict[str, str]:
    """Return the sections of docs/errors.md by their heading."""
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    found = [part.partition("\n") for part in parts]
    assert len({heading for heading, _, _ in found}) == len(found), "a section stands twice"
    return {heading: body for heading, _, body in found}


def test_every_error_has_its_section() -> None:
    found = sections((ROOT / "docs/errors.md").read_text(encoding="utf-8"))
    assert list(found) == list(CODES)
    for code, body in found.items():
        meaning, example = re.fullmatch(r"\n(.*?)\n\n```text\n(.+)\n```\n.*", body, re.DOTALL).groups()
        assert meaning.lower() == f"{CODES[code]}.".lower()
        assert "\n" not in example


# Files that bring about an error, and the command that meets it: what the page shows is what people see.
PROVOKED = {
    "config.unknown_key": ("\n\ntrain:\n  epoch: 3", "data show data/trian.jsonl -C my-model"),
    "config.bad_value": ("\n\n\n\n\ntrain:\n  epochs: 0", "data show data/trian.jsonl -C my-model"),
    "config.bad_yaml": ("\n\nmodel: a: b", "data show data/trian.jsonl -C my-model"),
    "config.exists": ("", "new my-model"),
    "data.not_found": ("", "data show data/trian.jsonl -C my-model"),
    "data.empty": ("", "data show data/train.csv"),
    "data.bad_row": ("", "data show data/train.jsonl -n 20"),
    "data.unknown_format": ("", "data show data/fragen.csv"),
    "data.bad_encoding": ("\ndata: {encoding: utf-8}", "data show data/old.csv -n 20 -C my-model"),
    "model.unknown": ("", "models info smollm-135m"),
    "model.broken_file": ("", "chat tiny.gguf"),
}
TURN = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'
UNANSWERED = TURN.replace("}]}", '}, {"role": "user", "content": "And you?"}]}')
FILES = {
    "my-model/data/train.jsonl": TURN.encode(),
    "data/train.jsonl": (TURN * 16 + UNANSWERED).encode(),
    "data/train.csv": b"question,answer\n",
    "data/fragen.csv": b"Begriff,Bedeutung\na,b\n",
    "data/old.csv": b"question,answer\n" + b"a,b\n" * 7 + b"a,\xe4\n",
    "tiny.gguf": b"tiny",
}


@pytest.mark.parametrize("code", PROVOKED)
def test_an_error_reads_as_the_page_says(tmp_path: Path, code: str, starter_gguf: Path) -> None:
    knobs, command = PROVOKED[code]
    for name, content in ({"my-model/fledge.yaml": knobs.encode()} | FILES).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AssertionError) as met:
        run(f"fledge {command}", tmp_path)
    example = sections((ROOT / "docs/errors.md").read_text(encoding="utf-8"))[code].split("```")[1]
    told = " ".join(str(met.value).split("error: ")[1].split("\nassert")[0].split())
    assert told == " ".join(example.removeprefix("text").split())


def test_every_code_is_raised_somewhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    assert [code for code in CODES if text.count(f'"{code}"') < 2] == []


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_every_example_loads(folder: Path) -> None:
    rows = read_project(folder, load_config(folder))
    assert len(rows.train) >= 20
    assert len(rows.held_out) >= 6


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()] == []
