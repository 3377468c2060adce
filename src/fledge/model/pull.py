"""From a model's name to a checked file on this machine, with or without a hub.

Order: the user's own folder (FLEDGE_MODELS), what was pulled before, then the catalog's sources one after the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.errors import ModelError, PullError, nearest
from fledge.model import cache, catalog, fetch
from fledge.model.catalog import CatalogModel, HubFiles, LocalFolder, Source

if TYPE_CHECKING:
    from fledge.model.download import Progress  # at run time that would load httpx

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Pulled:
    """A base model on this machine: a .gguf file or a folder with config.json, and where it came from.

    `bytes` and `sha256` are of the file, or of all files of the folder. `skipped` tells why sources that come first
    did not serve.
    """

    name: str
    path: Path
    sha256: str
    bytes: int
    source: str
    licence: str
    skipped: tuple[str, ...] = ()


def pull(model: str | CatalogModel, *, progress: Progress | None = None) -> Pulled:
    """Return the model's file, pulled now if it is not there yet. `progress` gets bytes done and bytes in all.

    A model that was pulled before costs no network and no hashing while its size and mtime are the old ones.
    Raises ModelError for an unknown name, PullError where no source serves, DiskError where it cannot be written.
    """
    entry = model if isinstance(model, CatalogModel) else catalog.get(model)
    return _pull(entry.name, entry.name, entry.sources, licence=entry.licence, progress=progress)


def pull_hub(hub_id: str, *, progress: Progress | None = None) -> Pulled:
    """Return the folder of any hub model, named `organisation/model`. Raises as `pull` does."""
    sources = (LocalFolder(), HubFiles(hub_id))
    return _pull(hub_id, hub_id.replace("/", "--"), sources, licence="unknown", progress=progress)


def _pull(
    name: str,
    key: str,
    sources: tuple[Source, ...],
    *,
    licence: str,
    progress: Progress | None,
) -> Pulled:
    pinned = catalog.pinned_sha256(sources)
    failures: list[tuple[Source, PullError]] = []

    def pulled(found: cache.Checked) -> Pulled:
        skipped = tuple(f"{source}: {error.message}" for source, error in failures if error.message != fetch.NOT_SET)
        return Pulled(name, found.path, found.sha256, found.bytes, found.source, licence, skipped)

    for source in sources:
        if isinstance(source, LocalFolder):
            try:
                path = fetch.find_local(key)
                return pulled(cache.check(path, wanted=_pin_of(path, pinned), source=f"{source}, used in place"))
            except PullError as error:
                failures.append((source, error))
    if found := cache.find(key, pinned=pinned):
        return pulled(found)
    with cache.staging(key) as staging:
        # Another process may have pulled it while this one waited.
        if found := cache.find(key, pinned=pinned):
            return pulled(found)
        for source in sources:
            if isinstance(source, LocalFolder):
                continue
            try:
                staged = fetch.fetch(source, key, staging, pinned=pinned, progress=progress)
            except PullError as error:
                failures.append((source, error))
                continue
            told = str(source) if _pin_of(staged.path, pinned) else f"{source}, not pinned"
            return pulled(cache.keep(staged.path, key, hashes=staged.hashes, source=told))
        raise _no_source(name, key, failures)


def _pin_of(path: Path, pinned: str | None) -> str | None:
    """The pinned sha256 is that of a GGUF file; a folder of safetensors has none."""
    return pinned if path.suffix == ".gguf" else None


def _no_source(name: str, key: str, failures: list[tuple[Source, PullError]]) -> PullError:
    tried = "; ".join(f"{source}: {error.message}" for source, error in failures)
    remedy = f"Copy {key}.gguf into a folder and name the folder in FLEDGE_MODELS, or set 'model:' to the file's path."
    if any(error.code == "model.bad_hash" for _, error in failures):
        message = f"a source has another file than the catalog knows; it is not used. {tried}."
        return PullError("model.bad_hash", message, where=name, remedy=remedy)
    return PullError("model.no_source", f"no source has it. {tried}.", where=name, remedy=remedy)


def resolve(spec: str, *, base_dir: Path) -> Path:
    """Return the file or folder that `spec` names: a catalog name, a path (from `base_dir`) or a hub id.

    A path is a .gguf file or a folder with config.json. Raises ModelError that names what is nearest, and what `pull`
    raises.
    """
    if spec.strip().lower() in catalog.MODELS:
        return pull(spec).path
    path = base_dir / Path(spec).expanduser()
    if path.exists():
        return _readable(path)
    if spec.endswith(".gguf") or spec.startswith((".", "/", "~")):
        folder = path.parent
        names = [p.name for p in sorted(folder.iterdir())] if folder.is_dir() else []
        raise ModelError(
            "model.unknown",
            f"there is no such file or folder{nearest(path.name, names) or '.'}",
            where=str(path),
            remedy="Give the path of a .gguf file, or a name from `fledge models list`.",
        )
    if HUB_ID.fullmatch(spec):
        return pull_hub(spec).path
    return pull(spec).path


def on_this_machine(spec: str, *, base_dir: Path) -> Path | None:
    """Return what `resolve` would, but only where it is here already; None where it would have to be fetched."""
    path = base_dir / Path(spec).expanduser()
    entry = catalog.MODELS.get(spec.strip().lower())
    if entry is None and path.exists():
        return _readable(path)
    key = entry.name if entry else spec.replace("/", "--")
    try:
        return fetch.find_local(key)
    except PullError:
        found = cache.find(key, pinned=catalog.pinned_sha256(entry.sources) if entry else None)
        return found.path if found else None


def _readable(path: Path) -> Path:
    if path.is_dir():
        if (path / "config.json").is_file():
            return path
        found = "the folder holds no config.json."
    else:
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return path
        found = "this is no GGUF file: it does not begin with 'GGUF'."
    remedy = "Give a .gguf file, a folder with config.json, or a name from `fledge models list`."
    raise ModelError("model.broken_file", found, where=str(path), remedy=remedy)


def listing() -> list[dict[str, Any]]:
    """Return what `fledge models list` shows of every model; `bytes` is estimated where no source states it."""
    return [
        {
            "name": model.name,
            "title": model.title,
            "params": model.params,
            "bytes": catalog.bytes_of(model),
            "licence": model.licence,
            "context": model.context_tokens,
            "template": model.template_family,
            "sources": [str(source) for source in model.sources],
            "cached": cache.where(model.name) is not None,
        }
        for model in catalog.MODELS.values()
    ]
