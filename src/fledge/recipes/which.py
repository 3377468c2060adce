"""Which model for the data at hand: names, folders and files held against a goal and a project's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fledge.advise.which import Identity, Needs, identify, joined, misfits, needs_of, wanted
from fledge.config import FILE_NAME
from fledge.config_file import load_config
from fledge.data.checks.language import language_of
from fledge.data.checks.view import view
from fledge.errors import ModelError
from fledge.model import catalog
from fledge.model.safetensors_file import read_object
from fledge.model.weights import GgufWeights, open_weights
from fledge.recipes.licence import licence_of_model
from fledge.recipes.prepare import read_project
from fledge.records import Text

# A language counts where so large a share of the rows is in it, code where so many hold some.
SHARE = 0.1
# A token has about so many letters.
TOKEN_CHARS = 4
CODE_MARKS = ("```", "def ", "SELECT ", "function ", "import ", "#include", "</", "});")


def needs_in(project: Path) -> Needs:
    """Return what a project's rows ask of a model; nothing where there is no project. Raises what its files raise."""
    if not (project / FILE_NAME).is_file():
        return Needs()
    rows = read_project(project, load_config(project)).train
    views = [view(row) for row in rows]
    spoken = Counter(filter(None, (language_of(v.answer) or language_of(v.question) for v in views)))
    told = spoken.total()
    coded = sum(any(mark in v.text for mark in CODE_MARKS) for v in views)
    texts = sum(isinstance(row, Text) for row in rows)
    return Needs(
        tuple(language for language, count in spoken.most_common() if count >= SHARE * told),
        code=coded >= SHARE * len(rows),
        form="text" if texts > len(rows) / 2 else "chat",
        rows=len(rows),
        longest_tokens=max(len(v.text) for v in views) // TOKEN_CHARS if texts < len(rows) else 0,
    )


def identity_of(name: str, project: Path) -> Identity:
    """Return what a catalog model, a hub id, a folder or a GGUF file is. Raises ModelError for anything else."""
    path = project / name
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError("model.not_found", "the folder holds no config.json.", where=str(path))
    if path.is_dir():
        return identify(name, read_object(path / "config.json"), licence=licence_of_model(name, project))
    if path.suffix == ".gguf":
        weights = open_weights(path)
        assert isinstance(weights, GgufWeights)
        said = str(weights.header.kv.get("general.name", "")).replace(" ", "-")
        config = {"max_position_embeddings": weights.shape.context_tokens}
        return identify(f"{said}-{path.name}" if said else path.name, config, licence=licence_of_model(name, project))
    try:
        known = catalog.get(name)
    except ModelError:
        if "/" not in name:
            raise
        return identify(name)
    config = {"max_position_embeddings": known.context_tokens}
    return identify(known.hub_id, config, licence=known.licence)


def which(project: Path, names: Sequence[str], goal: str) -> dict[str, Any]:
    """Return what each model is and why it does not suit, and which variant would."""
    needs = joined(needs_of(goal) if goal else Needs(), needs_in(project))
    models = []
    for name in names or catalog.MODELS:
        found = identity_of(name, project)
        models.append(
            {
                "name": name,
                "family": found.family,
                "variant": found.variant,
                "params": catalog.MODELS[name].params if name in catalog.MODELS else found.params,
                "stored": found.stored,
                "licence": found.licence or "unknown",
                "context": found.context_tokens,
                "languages": list(found.languages),
                "against": misfits(found, needs),
            }
        )
    return {
        "needs": {
            "languages": list(needs.languages), "code": needs.code, "form": needs.form, "task": needs.hard,
            "rows": needs.rows, "longest_tokens": needs.longest_tokens,
        },
        "models": models,
        "variant": wanted(needs),
    }  # fmt: skip
