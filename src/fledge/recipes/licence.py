"""Under which licences a project's parts are, and what may be done with what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fledge.advise.licence import OWN_WORDS, Part, uses_of
from fledge.config import FILE_NAME, Config
from fledge.config_file import load_config
from fledge.data.checks.licence import find_licences
from fledge.data.sources import files_in
from fledge.errors import DataError, ModelError
from fledge.model import catalog
from fledge.model.weights import GgufWeights, open_weights
from fledge.recipes.prepare import inside

LOCAL = "local:"


@dataclass(frozen=True)
class Asked:
    """What is looked at: a base model, data and teachers, each as the project names it where nothing is given.

    own: data beside which no licence stands are the user's own.
    """

    base: str | None = None
    data: Sequence[Path] = ()
    teachers: Sequence[str] = ()
    own: bool = False


def licence_of_model(name: str, project: Path) -> str:
    """Return the licence of a catalog model, a folder or a GGUF file; "" where nobody says it.

    Raises ModelError for a name that is none of these, and for a file that cannot be read.
    """
    path = project / name
    if path.is_dir():
        return next((one.name for one in find_licences([path]) if one.name), "")
    if path.suffix == ".gguf":
        weights = open_weights(path)
        assert isinstance(weights, GgufWeights)
        return str(weights.header.kv.get("general.license", ""))
    try:
        return catalog.get(name).licence
    except ModelError:
        if "/" in name:
            # An id on the hub: its card is not fetched for this.
            return ""
        raise


def look(project: Path, asked: Asked) -> dict[str, Any]:
    """Return what the contract says of `fledge advise licence`. Raises DataError where data are not there."""
    config = load_config(project) if (project / FILE_NAME).is_file() else None
    parts = [*_base(project, asked, config), *_data(project, asked, config), *_teachers(project, asked)]
    uses = uses_of(parts)
    return {
        "parts": [{"kind": part.kind, "what": part.what, "licence": part.licence or "unknown"} for part in parts],
        "uses": {use: {"verdict": found.verdict.name.lower(), "why": found.why} for use, found in uses.items()},
    }


def _base(project: Path, asked: Asked, config: Config | None) -> list[Part]:
    base = asked.base or (config.model if config is not None else None)
    return [] if base is None else [Part("base", base, licence_of_model(base, project))]


def _data(project: Path, asked: Asked, config: Config | None) -> list[Part]:
    given = [inside(project, path) for path in asked.data]
    given = given or [project / path for path in (config.data.train_paths if config is not None else ())]
    found: dict[Part, None] = {}
    for path in given:
        if not path.exists():
            raise DataError("data.not_found", "there is no such file or folder.", where=str(path))
        named = [one for one in find_licences(list(files_in(path))) if one.name]
        shown = str(path.relative_to(project)) if path.is_relative_to(project) else str(path)
        part = Part("data", shown, named[0].name if named else OWN_WORDS if asked.own else "")
        found[part] = None
    return list(found)


def _teachers(project: Path, asked: Asked) -> list[Part]:
    found = []
    for name in asked.teachers:
        part = Part("teacher", name, "")
        if name.startswith(LOCAL):
            part = replace(part, licence=licence_of_model(name.removeprefix(LOCAL), project))
        found.append(part)
    return found
