"""Checkpoints from which training goes on bit by bit: parameters, optimizer, random state. No pickle.

A checkpoint is a folder that appears by rename, with a manifest of sizes and sha256 written last. The newest whole
one is taken; a damaged one is passed over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fledge.errors import RunError
from fledge.model.memory import forget_pages
from fledge.model.safetensors_file import StoredTensor, map_safetensors, write_safetensors
from fledge.project import sha256_of, staged_folder, write_json_atomic

STATE, MANIFEST, BEST = "state.safetensors", "manifest.json", "best-"
KEPT = 2
DTYPES = {"F64": torch.float64, "F32": torch.float32, "I64": torch.int64, "I16": torch.int16, "U8": torch.uint8}


def save(
    folder: Path, *, step: int, identity: str, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write the state after `step` steps and remove all but the newest KEPT checkpoints.

    `identity` names what the run depends on (model, rows, knobs): `load` takes a checkpoint of the same identity only.
    """
    tensors: dict[str, Tensor] = {"rng": torch.get_rng_state()}
    for name, parameter in parameters.items():
        tensors[f"parameter.{name}"] = _storable(parameter.detach())
        tensors |= {f"state.{name}.{key}": moment for key, moment in optimizer.state[parameter].items()}
    final = folder / f"step-{step:06d}"
    _write(final, tensors, step=step, identity=identity)
    # A later step can only be a damaged checkpoint that was passed over; a hidden folder is what a crash left of one.
    kept = sorted(path for path in folder.glob("step-*") if path.name <= final.name)[-KEPT:]
    for path in folder.iterdir():
        if path.name.startswith(("step-", ".staging-", ".old-")) and path not in kept:
            shutil.rmtree(path)


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint whose bytes are what its manifest says, or None."""
    return next(filter(_is_whole, sorted(folder.glob("step-*"), reverse=True)), None)


def save_best(folder: Path, *, step: int, identity: str, parameters: Mapping[str, nn.Parameter]) -> None:
    """Write what is trained as it is after `step` steps, and remove what was kept as the best before.

    It is no checkpoint from which training goes on, and no rotation of those takes it away.
    """
    final = folder / f"{BEST}{step:06d}"
    tensors = {f"parameter.{name}": _storable(parameter.detach()) for name, parameter in parameters.items()}
    _write(final, tensors, step=step, identity=identity)
    for path in folder.glob(f"{BEST}*"):
        if path != final:
            shutil.rmtree(path)


def remove_best(folder: Path) -> None:
    """Remove what was kept as the best, once it is handed over."""
    for path in folder.glob(f"{BEST}*"):
        shutil.rmtree(path)


def step_of(path: Path) -> int:
    """Return after which step a checkpoint was written."""
    return int(path.name.rpartition("-")[2])


def best_is_kept(folder: Path, *, step: int) -> bool:
    """Return whether the best state of a run that had its best after `step` steps can still be had.

    A later one took its place where a run was interrupted behind it; the run comes there again.
    """
    return any(step_of(path) >= step and _is_whole(path) for path in folder.glob(f"{BEST}*"))


def load_best(folder: Path, *, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put what was kept as the best, after `step` steps, into the parameters. Raises RunError where it is damaged."""
    path = folder / f"{BEST}{step:06d}"
    if not _is_whole(path):
        raise RunError(
            "run.not_resumable",
            "what was kept as the best is damaged.",
            where=str(path),
            remedy="`fledge train --resume` with this run makes it again.",
        )
    _fill(parameters, map_safetensors(path / STATE))


def _write(final: Path, tensors: Mapping[str, Tensor], *, step: int, identity: str) -> None:
    with staged_folder(final) as staged:
        # safetensors' own writer holds all of it twice more, which no forecast would forgive.
        write_safetensors(staged / STATE, {name: tensor.numpy(force=True) for name, tensor in tensors.items()})
        size, digest = (staged / STATE).stat().st_size, sha256_of(staged / STATE)
        write_json_atomic(staged / MANIFEST, {"step": step, "identity": identity, "bytes": size, "sha256": digest})


def _is_whole(path: Path) -> bool:
    manifest, state = _manifest(path), path / STATE
    if manifest is None or not state.is_file() or state.stat().st_size != manifest["bytes"]:
        return False
    return sha256_of(state) == manifest["sha256"]


def load(path: Path, *, identity: str, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Put the state of a checkpoint into parameters, optimizer and torch's generator; return its number of steps.

    Raises RunError where the checkpoint was made from other inputs.
    """
    manifest = _manifest(path)
    assert manifest is not None, "only what latest() returned is loaded"
    if manifest["identity"] != identity:
        raise RunError(
            "run.not_resumable",
            "the base model, the rows or the knobs have changed since this run was interrupted.",
            where=str(path.parent.parent),
            remedy="Put them back as they were, or start a new run with `fledge train`.",
        )
    tensors = map_safetensors(path / STATE)
    _fill(parameters, tensors)
    for name, parameter in parameters.items():
        prefix = f"state.{name}."
        moments = {key.removeprefix(prefix): _read(value) for key, value in tensors.items() if key.startswith(prefix)}
        if moments:
            optimizer.state[parameter] = moments
    torch.set_rng_state(_read(tensors["rng"]))
    return int(str(manifest["step"]))


@torch.no_grad()
def _fill(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, StoredTensor]) -> None:
    for name, parameter in parameters.items():
        stored = _read(tensors[f"parameter.{name}"])
        parameter.copy_(stored.view(parameter.dtype) if stored.dtype == torch.int16 else stored)


def _read(stored: StoredTensor) -> Tensor:
    """Return a tensor of a checkpoint. One at a time is held twice, as the file and as what is made of it."""
    copied = torch.frombuffer(bytearray(stored.raw.data), dtype=DTYPES[stored.dtype]).reshape(stored.shape)
    forget_pages(stored.raw)
    return copied


def _storable(tensor: Tensor) -> Tensor:
    """Return a tensor that numpy knows: bfloat16 by its bits."""
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


def _manifest(path: Path) -> dict[str, object] | None:
    try:
        value = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and {"step", "identity", "bytes", "sha256"} <= set(value) else None
