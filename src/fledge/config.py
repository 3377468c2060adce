"""The knobs of fledge.yaml, each declared once. The command line, the docs and the checks are derived from here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from fledge.errors import ConfigError, nearest

FILE_NAME = "fledge.yaml"
Auto = Literal["auto"]


UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def size_bytes(text: str) -> int:
    """Return the bytes of a size such as 4GB, 3.5 GiB or 800MB. Raises ValueError where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise ValueError("expected a size such as 4GB, 3.5GiB or 800MB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


MOST_TIMES = 1000


def _checked_sources(value: object) -> object:
    """Refuse what names no source, one twice, or a weight that is none. A union would only say which arm fails."""
    if isinstance(value, dict):
        for path, weight in value.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MOST_TIMES:
                raise ValueError(f"the weight of '{path}' must be a number above 0, at most {MOST_TIMES}")
    if value in ([], {}):
        raise ValueError("it names no file")
    if isinstance(value, list) and (twice := [path for path in value if value.count(path) > 1]):
        raise ValueError(f"'{twice[0]}' stands twice; a weight says how often rows are seen: {{{twice[0]}: 2}}")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    train: Annotated[str | list[str] | dict[str, float], BeforeValidator(_checked_sources)] = Field(
        "data/train.jsonl",
        description="rows to learn from: a path, a list, or {path: weight}; an epoch sees each row weight times",
    )
    temperature: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        None, description="mixes tasks in place of weights: a task's share is rows^(1/T); the larger T, the more equal"
    )
    order: Literal["shuffle", "curriculum", "given"] = Field(
        "shuffle", description="of rows: drawn anew each epoch; first epoch from short to long; or as they stand"
    )
    eval: Annotated[str | list[str], BeforeValidator(_checked_sources)] = Field(
        "auto", description="held-out rows: a path, a list, 'auto' (a share of train by group) or 'none'"
    )
    system: str | None = Field(None, description="system prompt put before every row that has none")
    format: str = Field("auto", description="row form: auto, or one that `fledge data check` names")
    encoding: str = Field("auto", description="of text files: auto, or a name such as utf-8, cp1252, utf-16")
    me: str | None = Field(None, description="whose messages are taught where the rows are chats between people")
    columns: dict[str, str] = Field(default_factory=dict, description="renames: {question: 'Frage', answer: 'Antwort'}")

    @field_validator("temperature")
    @classmethod
    def _is_alone(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and isinstance(info.data.get("train"), dict):
            raise ValueError("data.train has weights already; take one of the two")
        return value

    @property
    def train_paths(self) -> list[str]:
        """The sources to learn from, in the order listed."""
        return [self.train] if isinstance(self.train, str) else list(self.train)

    @property
    def eval_paths(self) -> list[str]:
        """The sources of held-out rows; none where they are taken from the others or there are none."""
        if self.eval in ("auto", "none"):
            return []
        return [self.eval] if isinstance(self.eval, str) else list(self.eval)

    @property
    def weights(self) -> dict[str, float]:
        """How many times an epoch sees each row of a source, where data.train says so."""
        return dict(self.train) if isinstance(self.train, dict) else {}


class TrainConfig(_Section):
    epochs: Annotated[float, Field(gt=0, le=1000)] | Auto = Field("auto", description="passes over the rows")
    lr: Annotated[float, Field(gt=0, lt=1)] | Auto = Field("auto", description="peak learning rate of AdamW")
    rank: Annotated[int, Field(ge=1, le=512)] | Auto = Field("auto", description="LoRA rank r; alpha is 2 r")
    rows_per_step: Annotated[int, Field(ge=1)] | Auto = Field("auto", description="rows that share an optimizer step")
    tokens_per_piece: Annotated[int, Field(ge=1)] | Auto = Field(
        "auto", description="a step is computed in pieces of at most so many tokens: bounds memory, changes no gradient"
    )
    targets: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=list, description="linear layers with an adapter, by last name (q_proj, ...); none named: all"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank), so that large ranks learn as fast")
    dora: bool = Field(False, description="train the length of every row too (DoRA): better at low ranks, slower")
    top_layers: Annotated[int, Field(ge=1)] | None = Field(
        None, description="adapt only so many top layers; what the others make of the rows is computed once: faster"
    )
    after_prompt: bool = Field(
        False,
        description="the adapter acts only after the prompt (aLoRA), which is computed once; it cannot be merged",
    )
    lora_plus: float = Field(1.0, ge=1, le=64, description="LoRA+: B learns at so many times the rate of A")
    ram: str = Field("auto", description="memory that training may take: auto, or a size such as 4GB")
    recompute: bool | Auto = Field(
        "auto", description="keep only each layer's input and compute the rest again: a third slower, far less memory"
    )
    weight_decay: float = Field(0.0, ge=0, lt=1, description="decoupled weight decay of AdamW")
    clip_norm: float = Field(1.0, gt=0, description="gradients are clipped to this global norm")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    taught: Literal["all", "last"] = Field("all", description="which assistant turns are taught")
    max_tokens: int = Field(2048, ge=8, description="a row longer than this is left out and counted, never cut")
    dtype: Literal["auto", "bfloat16", "float32"] = Field("auto", description="of frozen weights and activations")
    checkpoint_s: float = Field(60.0, ge=0, description="seconds between checkpoints; 0 writes one after every step")
    eval_every: Annotated[float, Field(ge=0, le=1000)] | Auto = Field(
        "auto", description="epochs from one look at the held-out rows to the next; 0 looks at the end alone"
    )
    patience: Annotated[int, Field(ge=1)] | Auto | None = Field(
        "auto", description="ends the run after so many looks at held-out rows without a lower loss; null never does"
    )
    keep: Literal["auto", "best", "last"] = Field(
        "auto",
        description="hand over the state with the lowest held-out loss that was seen, or that of the last step",
    )
    seed: int = Field(0, ge=0, description="seed of the adapter, the split and the order of rows")

    @field_validator("ram")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        if value != "auto":
            size_bytes(value)
        return value


class PreferenceConfig(_Section):
    beta: Annotated[float, Field(gt=0, le=100)] | Auto = Field(
        "auto",
        description="how closely to stay by the model as it was (orpo: how much the odds count)",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs that may be the wrong way round")
    gamma: float = Field(0.5, ge=0, le=10, description="simpo: by how much a chosen answer has to be ahead")
    sft_weight: float = Field(0.0, ge=0, le=100, description="adds so many times the loss of the chosen answers")
    good_weight: Annotated[float, Field(gt=0, le=100)] | Auto = Field("auto", description="kto: of a good answer")
    bad_weight: Annotated[float, Field(gt=0, le=100)] | Auto = Field("auto", description="kto: of a bad answer")


class GenerateConfig(_Section):
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    max_tokens: int = Field(256, ge=1, description="longest answer")
    stop: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=list, description="texts that end it")


class EvaluateConfig(_Section):
    score: str = Field("auto", description="auto, exact, contains, number or regex")
    template: str | None = Field(
        None, description="regular expression that every answer must match in full; {prompt} is the question"
    )


class ReleaseConfig(_Section):
    quant: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: ["q8_0"], description="GGUF types to write: f16, q8_0, q4_k_m, ..."
    )
    adapter: bool = Field(True, description="also write the adapter as its own GGUF file")


class Config(_Section):
    """Everything a project can be told. An unknown key is an error that names the nearest known one."""

    model: str = Field("smollm2-135m", description="catalog name, hub id, folder or .gguf")
    objective: Literal["sft", "text", "dpo", "ipo", "orpo", "simpo", "kto"] = Field(
        "sft",
        description="sft: answers; text: documents, every token (continued pre-training); dpo, ipo, orpo, simpo: pairs "
        "of a better and a worse answer; kto: answers judged good or bad",
    )
    method: Literal["lora", "qlora"] = Field(
        "lora",
        description="lora: an adapter; qlora: the same over a .gguf base whose weights stay quantised: far less memory",
    )
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    preference: PreferenceConfig = PreferenceConfig()
    generate: GenerateConfig = GenerateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    release: ReleaseConfig = ReleaseConfig()


def knobs() -> Iterator[tuple[str, str]]:
    """Yield every knob as (dotted name, description), in the order of fledge.yaml."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from ((f"{name}.{sub}", inner.description or "") for sub, inner in section.model_fields.items())
        else:
            yield name, field.description or ""


def load_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the project's knobs: fledge.yaml, then FLEDGE_MODEL (environment or .env), then key.sub=value overrides.

    Raises ConfigError with file:line, the nearest known key and what is taken.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ConfigError(
            "config.not_a_project",
            f"no {FILE_NAME} here.",
            where=str(folder),
            remedy="Go to a project folder, name one with -C DIR, or make one with `fledge new DIR --kind template`.",
        )
    text = _read_text(path)
    values = _parse_yaml(text, path)
    if model := os.environ.get("FLEDGE_MODEL") or _dotenv(folder).get("FLEDGE_MODEL"):
        values["model"] = model
    for override in overrides:
        _apply_override(values, override)
    return _validate(values, text, path, overridden={override.partition("=")[0] for override in overrides})


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("config.bad_yaml", "not UTF-8 text.", where=str(path), remedy="Save it as UTF-8.") from error


def _parse_yaml(text: str, path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(
            "config.bad_yaml", f"not valid YAML: {problem}.", where=where, remedy="Mend that line."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError("config.bad_yaml", "expected `key: value` lines.", where=str(path))
    if twice := _twice(yaml.compose(text)):
        line, key = twice
        raise ConfigError(
            "config.bad_yaml", f"'{key}' stands twice.", where=f"{path}:{line}", remedy="Keep one of the two."
        )
    # A group whose keys are all commented out says nothing.
    return {key: value for key, value in values.items() if value is not None}


def _twice(node: yaml.Node | None) -> tuple[int, str] | None:
    """Return the line and name of the first key that repeats one beside it."""
    if not isinstance(node, yaml.MappingNode):
        return None
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            return key.start_mark.line + 1, str(key.value)
        seen.add(key.value)
        if found := _twice(value):
            return found
    return None


def _dotenv(folder: Path) -> dict[str, str]:
    path = folder / ".env"
    if not path.is_file():
        return {}
    pairs = (line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("'\"") for key, value in pairs if not key.lstrip().startswith("#")}


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, separator, raw = override.partition("=")
    if not separator or not name:
        raise ConfigError(
            "config.bad_value",
            f"'{override}' is not key=value.",
            where="command line",
            remedy="For example: train.epochs=3",
        )
    known = [knob for knob, _ in knobs()]
    if name not in known:
        raise ConfigError(
            "config.unknown_key",
            f"'{name}' is not a knob{_guess(name) or '.'}",
            where="command line",
            remedy=f"Known: {', '.join(_siblings(name))}.",
        )
    section, _, key = name.rpartition(".")
    target = values.setdefault(section, {}) if section else values
    if not isinstance(target, dict):
        raise ConfigError("config.bad_value", f"'{section}' must be a group of keys.", where=FILE_NAME)
    target[key] = _parse_value(raw)


def _parse_value(raw: str) -> object:
    """Return a number, truth value or null as YAML reads it, and so lists, groups and texts that are marked as such.

    Any other text is meant as it stands, with what YAML would take for a group ("Note: be brief") or a comment.
    """
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw
    marked = raw.startswith(("{", "[", "'", '"'))
    return raw if isinstance(value, str | dict | list) and not marked else value


def _validate(values: Mapping[str, Any], text: str, path: Path, *, overridden: Set[str]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        # pydantic reports each arm of a union on its own ("auto" or a number): one line per knob is enough.
        by_knob: dict[tuple[str, ...], Any] = {}
        for item in error.errors():
            names = [str(part) for part in item["loc"] if isinstance(part, str)]
            by_knob.setdefault(tuple(names[:2] if names[0] in _sections() else names[:1]), item)
        places = {knob: _place(knob, text, path, overridden) for knob in by_knob}
        lines = [_complaint(knob, item, places[knob]) for knob, item in by_knob.items()]
        unknown = any(item["type"] == "extra_forbidden" for item in by_knob.values())
        where, message = lines[0]
        if len(lines) > 1:
            where, message = str(path), f"{len(lines)} problems.\n" + "\n".join(": ".join(line) for line in lines)
        raise ConfigError("config.unknown_key" if unknown else "config.bad_value", message, where=where) from error


def _sections() -> set[str]:
    return {name.split(".")[0] for name, _ in knobs() if "." in name}


def _place(knob: tuple[str, ...], text: str, path: Path, overridden: Set[str]) -> str:
    """Return where the value of a knob was given."""
    if ".".join(knob) in overridden:
        return "command line"
    return f"{path}:{line}" if (line := _line_of(text, knob)) else str(path)


def _complaint(knob: tuple[str, ...], item: Any, where: str) -> tuple[str, str]:
    dotted = ".".join(knob)
    if item["type"] == "extra_forbidden":
        guess = _guess(dotted) or f". Known: {', '.join(_siblings(dotted))}."
        return where, f"'{dotted}' is not a knob{guess}"
    meaning = dict(knobs()).get(dotted, "a group of keys")
    said = item["msg"].lower().removeprefix("value error, ")
    return where, f"{dotted} is {item['input']!r}: {said} ({meaning})."


def _guess(dotted: str) -> str:
    """Return "; did you mean 'train.lr'?", or "" where nothing is close.

    Inside a group only its keys are compared: the group's name would make any two of them look alike.
    """
    group, _, key = dotted.rpartition(".")
    names = [name for name, _ in knobs()]
    keys = [name.rpartition(".")[2] for name in names if group and name.startswith(f"{group}.")]
    if keys:
        return nearest(key, keys).replace("'", f"'{group}.", 1)
    return nearest(dotted, [*Config.model_fields, *names])


def _siblings(dotted: str) -> list[str]:
    """Return the knobs that stand beside `dotted`: those of its group, or the top keys where there is no such group."""
    group = dotted.split(".")[0] + "."
    return [name for name, _ in knobs() if name.startswith(group)] or list(Config.model_fields)


def _line_of(text: str, knob: tuple[str, ...]) -> int | None:
    node = yaml.compose(text)
    line = None
    for name in knob:
        if not isinstance(node, yaml.MappingNode):
            break
        match = next(((k, v) for k, v in node.value if k.value == name), None)
        if match is None:
            break
        line, node = match[0].start_mark.line + 1, match[1]
    return line
