"""Project and run folders: the name of every file in them, and writes that are whole or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fledge.errors import DiskError, RunError, nearest, writing

RUN_NAME = re.compile(r"(\d{4,})-[a-z0-9._-]+")


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that `path` is either the old file or the whole new one, whatever happens in between."""
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Mapping[str, Any]) -> None:
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def making(final: Path) -> Iterator[None]:
    """Turn whatever the system says of a new name in a folder the user gave (/proc takes none) into one DiskError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskError):
            raise
        raise DiskError(
            "setup.disk",
            f"cannot be made: {error.strerror or error}.",
            where=str(final),
            remedy="Free some room, choose another folder or a shorter name.",
        ) from error


@contextmanager
def staged_file(final: Path) -> Iterator[IO[str]]:
    """Give a hidden file beside `final` that becomes `final`, fsynced, when the block ends well; else it is removed."""
    with writing(final):
        folder = final.absolute().parent
        with making(final):
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=f".{final.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, final)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        fsync_folder(folder)


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Give a hidden folder beside `final` that becomes `final`, fsynced and by rename, when the block ends well.

    An older `final` is moved aside first and removed last, so a crash leaves one whole version. A failure removes the
    staging folder and leaves `final` untouched.
    """
    with writing(final):
        with making(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            made = tempfile.mkdtemp(dir=final.parent, prefix=f".staging-{final.name}-")
        staging = Path(made)
        os.chmod(staging, 0o777 & ~_umask())
        try:
            yield staging
            for file in sorted(staging.rglob("*")):
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            fsync_folder(staging)
            old = staging.with_name(f".old-{staging.name[9:]}")
            if final.exists():
                os.replace(final, old)
            os.replace(staging, final)
            fsync_folder(final.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # There is no way to read the umask without setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Keep a second process out of a folder. Raises RunError with `busy`; the lock dies with whoever holds it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError("run.busy", busy, where=str(folder)) from error
        yield


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file that fledge wrote. Raises RunError where it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError("run.not_found", f"cannot be read ({error}).", where=str(path)) from error


@dataclass(frozen=True)
class RunFolder:
    """The names of every file a run writes. The manifest comes last: a run without it was interrupted."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name.split("-")[0])

    @property
    def knobs(self) -> Path:
        return self.path / "run.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """Weights that were trained themselves."""
        return self.path / "model"

    @property
    def release(self) -> Path:
        return self.path / "release"

    @property
    def verdict(self) -> Path:
        return self.path / "verdict.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def finished(self) -> bool:
        return self.manifest.is_file()


def list_runs(project: Path) -> list[RunFolder]:
    """Return the runs of a project, oldest first."""
    root = project / "runs"
    found = [RunFolder(p) for p in root.iterdir() if p.is_dir() and RUN_NAME.fullmatch(p.name)] if root.is_dir() else []
    return sorted(found, key=lambda run: run.number)


def new_run(project: Path, label: str) -> RunFolder:
    """Make the next numbered run folder; two processes never get the same number."""
    root = project / "runs"
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".lock").open("w") as lock:
            # Two folders with one number and different labels would both be made without complaint.
            fcntl.flock(lock, fcntl.LOCK_EX)
            number = max((run.number for run in list_runs(project)), default=0) + 1
            path = root / f"{number:04d}-{label}"
            path.mkdir()
            return RunFolder(path)


def find_run(project: Path, spec: str) -> RunFolder:
    """Return the run named by a number, `latest`, a folder name or a path. Raises RunError that names what there is."""
    runs = list_runs(project)
    if spec == "latest" and runs:
        return runs[-1]
    for run in runs:
        if spec == run.path.name or (spec.isdecimal() and int(spec) == run.number):
            return run
    path = Path(spec)
    for candidate in (path, project / path):
        if candidate.is_dir() and RUN_NAME.fullmatch(candidate.resolve().name):
            return RunFolder(candidate.resolve())
    names = [run.path.name for run in runs]
    raise RunError(
        "run.not_found",
        f"there is no run '{spec}'{nearest(spec, names) or '.'}",
        where=str(project / "runs"),
        remedy=f"There are: {', '.join(names[-5:])}." if names else "No run yet: `fledge train` makes one.",
    )
