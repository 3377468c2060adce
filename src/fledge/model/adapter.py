"""A LoRA adapter in the layout of the PEFT library, so that its files open there and the other way round.

Layout: `adapter_config.json` and `adapter_model.safetensors` with keys
`base_model.model.<module>.lora_A.weight` [rank, in] and `...lora_B.weight` [out, rank]. An adapter that scores has
`base_model.model.score.weight` [1, width] as well, the head of transformers' sequence classifiers with one label.
Rows of added tokens are PEFT's `trainable_token_indices`, their tensors called
`base_model.model.<module>.token_adapter.trainable_tokens_delta` [tokens, width]: the rows themselves, for all the name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.errors import ModelError
from fledge.model.safetensors_file import BYTES_PER_WEIGHT, map_safetensors, read_object, write_safetensors
from fledge.model.weights import Weights
from fledge.project import staged_folder

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapter_model.safetensors"
MAX_ALPHA = 1e6
PREFIX = "base_model.model."
SIDES = (".lora_A.weight", ".lora_B.weight")
# DoRA's length of every row of the merged weight
MAGNITUDE = ".lora_magnitude_vector"
TOKEN_ROWS, TOKEN_IDS = ".token_adapter.trainable_tokens_delta", "trainable_token_indices"
# What transformers calls the layer that scores, and so what an adapter file and a checkpoint call it.
SCORE = "score"
HEAD = f"{PREFIX}{SCORE}.weight"
# What else than matrices PEFT says that it saves of such an adapter; the other name is that of encoders.
HEADS = ([SCORE], ["classifier", SCORE])

# Features of PEFT that change what the two matrices mean: the value under which they are off.
_OFF: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
    "target_parameters": None,
}


@dataclass(frozen=True)
class Adapter:
    """Two thin matrices for each adapted weight W: the model runs with W + scale * B @ A.

    With `invocation_tokens` it does so only from where these ids stand for the last time (aLoRA, arXiv 2504.12397).
    token_rows: rows [tokens, width] that stand in the place of those of `token_ids`, by the Hugging Face name of their
    weight: the embedding, and the head where it is another one.
    score [width]: it gives an answer a number, h score, h the last hidden state where the answer has ended.
    """

    rank: int
    alpha: float
    use_rslora: bool
    target_modules: tuple[str, ...]
    base_name: str
    tensors: dict[str, NDArray[np.float32]]
    use_dora: bool = False
    invocation_tokens: tuple[int, ...] = ()
    score: NDArray[np.float32] | None = None
    token_ids: tuple[int, ...] = ()
    token_rows: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (Kalajdzievski 2023)."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def merge(self, name: str, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weight that the model runs with, made in place: W + scale B A, or DoRA's of its own length."""
        pairs = self.pairs()
        if name not in pairs:
            return weight
        a, b = pairs[name]
        delta = b @ a
        delta *= np.float32(self.scale)
        weight += delta
        if self.use_dora:
            length = self.tensors[PREFIX + name.removesuffix(".weight") + MAGNITUDE]
            weight *= (length / np.linalg.norm(weight, axis=1))[:, None]
        return weight

    def pairs(self) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return (A [rank, in], B [out, rank]) by the Hugging Face name of the weight they change."""
        return {
            f"{module}.weight": (self.tensors[PREFIX + module + SIDES[0]], self.tensors[PREFIX + module + SIDES[1]])
            for module in _modules(self.tensors)
        }


def save_adapter(adapter: Adapter, folder: Path, *, beside: Callable[[Path], None] = lambda _: None) -> None:
    """Write the adapter folder, whole or not at all, in place of an older one. Equal adapters give equal bytes.

    `beside` puts into the folder what else belongs there.
    """
    config = {
        "base_model_name_or_path": adapter.base_name,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha,
        "lora_dropout": 0.0,
        "r": adapter.rank,
        "target_modules": sorted(adapter.target_modules),
        "task_type": "CAUSAL_LM",
        "use_rslora": adapter.use_rslora,
        "use_dora": adapter.use_dora,
        "alora_invocation_tokens": list(adapter.invocation_tokens) or None,
        TOKEN_IDS: _token_ids(adapter),
        **_OFF,
    }
    layers = sorted({int(m.split(".")[2]) for m in _modules(adapter.tensors) if m.startswith("model.layers.")})
    if layers:
        # PEFT would adapt all other layers as well, with matrices that it makes up.
        config |= {"layers_to_transform": layers}
    rows = {token_rows_key(name): values for name, values in adapter.token_rows.items()}
    tensors = {name: np.ascontiguousarray(values) for name, values in sorted((adapter.tensors | rows).items())}
    if adapter.score is not None:
        config |= {"task_type": "SEQ_CLS", "modules_to_save": [SCORE]}
        tensors[HEAD] = adapter.score[None]
    with staged_folder(folder) as staging:
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (staging / CONFIG_NAME).write_text(text, encoding="utf-8")
        # PEFT insists on the format mark.
        write_safetensors(staging / TENSORS_NAME, tensors, metadata={"format": "pt"})
        beside(staging)


def token_rows_key(name: str) -> str:
    """Return PEFT's name for the rows of added tokens in the weight of a Hugging Face name."""
    return PREFIX + name.removesuffix(".weight") + TOKEN_ROWS


def _token_ids(adapter: Adapter) -> list[int] | dict[str, list[int]] | None:
    """Return which rows are replaced, as PEFT says it: a list where the head is the embedding, else by layer."""
    ids = list(adapter.token_ids)
    modules = [name.removesuffix(".weight").rsplit(".", 1)[-1] for name in adapter.token_rows]
    return None if not modules else ids if len(modules) == 1 else dict.fromkeys(modules, ids)


def load_adapter(folder: Path) -> Adapter:
    """Return the adapter in a folder that fledge or PEFT wrote.

    Raises one ModelError `model.bad_adapter` with everything that keeps it from being used.
    """
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    score = None
    if config.get("modules_to_save") in HEADS:
        score, config["modules_to_save"] = tensors.pop(HEAD, np.zeros(0, np.float32)), None
    problems = [
        f"{key} is {config[key]!r}, only {off!r} can be used"
        for key, off in _OFF.items()
        if config.get(key, off) != off and (config[key] or off)
    ]
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        problems.append(f"r is {rank!r}, not a positive whole number")
        rank = 0
    if not isinstance(alpha, int | float) or not abs(alpha) < MAX_ALPHA:
        problems.append(f"lora_alpha is {alpha!r}, not a number")
        alpha = 0.0
    rows = {name: tensors.pop(name) for name in list(tensors) if name.endswith(TOKEN_ROWS)}
    ids = _ids_of(config.get(TOKEN_IDS), rows, problems)
    if score is not None and (score.ndim != 2 or len(score) != 1 or not np.isfinite(score).all()):
        problems.append(f"'{HEAD}' is missing or not one finite row")
    problems += _misfits(tensors, rank, dora=config.get("use_dora") is True) if rank else []
    if problems:
        raise _bad(folder, problems)
    modules = sorted({module.rsplit(".", 1)[-1] for module in _modules(tensors)})
    return Adapter(
        rank=rank,
        alpha=float(alpha),
        use_rslora=config.get("use_rslora") is True,
        use_dora=config.get("use_dora") is True,
        invocation_tokens=tuple(int(token) for token in config.get("alora_invocation_tokens") or ()),
        target_modules=tuple(modules),
        base_name=str(config.get("base_model_name_or_path") or ""),
        tensors=tensors,
        token_ids=ids,
        token_rows={f"{name[len(PREFIX) :].removesuffix(TOKEN_ROWS)}.weight": held for name, held in rows.items()},
        score=None if score is None else score[0],
    )


def _ids_of(told: Any, rows: Mapping[str, NDArray[np.float32]], problems: list[str]) -> tuple[int, ...]:
    """Return the ids of the tokens whose rows are there; add to the problems where the two do not fit."""
    lists = list(told.values()) if isinstance(told, dict) else [told] if told else []
    if not lists and not rows:
        return ()
    ids: Sequence[Any] = lists[0] if lists and isinstance(lists[0], list) else []
    if not ids or any(other != ids for other in lists) or any(type(i) is not int or i < 0 for i in ids):
        problems.append(f"{TOKEN_IDS} is {told!r}, not the ids of its {TOKEN_ROWS[1:]}")
        return ()
    if len(rows) != len(lists):
        problems.append(
            f"it holds rows of added tokens for {len(rows)} weights, not for {len(lists)}: not all were saved"
        )
    for name, held in rows.items():
        if held.ndim != 2 or len(held) != len(ids) or not np.isfinite(held).all():
            problems.append(f"'{name}' is {list(held.shape)}, not {len(ids)} rows of finite numbers")
    return tuple(ids)


def check_fits(adapter: Adapter, weights: Weights) -> None:
    """Raise one ModelError `model.bad_adapter` with all adapted weights that the model lacks or shapes otherwise."""
    known = set(weights.names())
    problems = []
    if adapter.token_ids != tuple(weights.added.values()):
        problems.append(f"it has rows for {len(adapter.token_ids)} added tokens, the model for {len(weights.added)}")
    for name, (a, b) in adapter.pairs().items():
        if name not in known:
            problems.append(f"'{name}' is adapted, but the model has no such weight")
        elif (b.shape[0], a.shape[1]) != weights.tensor_shape(name):
            shape = weights.tensor_shape(name)
            problems.append(f"'{name}' is {list(shape)} in the model, but {[b.shape[0], a.shape[1]]} in the adapter")
    if problems:
        raise _bad(weights.path, _first_few(problems), f"The adapter was trained on '{adapter.base_name}'.")


def _misfits(tensors: Mapping[str, NDArray[np.float32]], rank: int, *, dora: bool) -> list[str]:
    known = (*SIDES, MAGNITUDE)
    strange = [name for name in tensors if not (name.startswith(PREFIX) and name.endswith(known))]
    problems = [f"'{name}' is no LoRA matrix" for name in strange]
    for module in _modules(tensors):
        names = [PREFIX + module + side for side in SIDES]
        problems += [f"'{name}' is missing" for name in names if name not in tensors]
        length = tensors.get(PREFIX + module + MAGNITUDE)
        outs = len(tensors[names[1]]) if names[1] in tensors else 0
        if (length is not None) != dora or (length is not None and length.shape != (outs,)):
            problems.append(
                f"'{PREFIX}{module}{MAGNITUDE}' is {'missing or misshapen' if dora else 'there without DoRA'}"
            )
        for name, axis in zip(names, (0, 1), strict=True):
            shape = tensors[name].shape if name in tensors else (rank, rank)
            if len(shape) != 2 or shape[axis] != rank:
                problems.append(f"'{name}' has shape {list(shape)}; its rank should be {rank}")
    problems += [f"'{name}' is not finite" for name, values in tensors.items() if not np.isfinite(values).all()]
    if not tensors:
        problems.append("it holds no tensors")
    return _first_few(problems)


def _first_few(problems: list[str]) -> list[str]:
    return problems if len(problems) <= 5 else [*problems[:5], f"{len(problems) - 5} more"]


def _modules(tensors: Mapping[str, Any]) -> list[str]:
    """Return the adapted modules, such as model.layers.0.self_attn.q_proj, in the order of their first matrix."""
    found = [name[len(PREFIX) :].removesuffix(side) for name in tensors for side in SIDES if name.endswith(side)]
    return list(dict.fromkeys(found))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return read_object(folder / CONFIG_NAME)
    except ModelError as error:
        raise _bad(folder, [f"{CONFIG_NAME} {error.message.rstrip('.')}"]) from error


def _read_tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    if not (folder / TENSORS_NAME).is_file() and (folder / "adapter_model.bin").is_file():
        raise _bad(folder, ["its weights are a pickle, which can run code when opened"], "Save it as safetensors.")
    try:
        stored = map_safetensors(folder / TENSORS_NAME)
    except ModelError as error:
        raise _bad(folder, [f"{TENSORS_NAME} {error.message.rstrip('.')}"]) from error
    odd = [f"'{name}' is of type {t.dtype}" for name, t in stored.items() if t.dtype not in BYTES_PER_WEIGHT]
    if odd:
        raise _bad(folder, _first_few(odd))
    return {name: stored[name].read() for name in sorted(stored)}


def _bad(folder: Path, problems: list[str], remedy: str = "Train or fetch the adapter again.") -> ModelError:
    return ModelError("model.bad_adapter", f"cannot be used: {'; '.join(problems)}.", where=str(folder), remedy=remedy)
