"""The knobs of fledge.yaml, each declared once. The command line, the docs and the checks are derived from here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

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


def _checked_tokens(texts: list[str]) -> list[str]:
    """Refuse what can be no token of its own, whatever the model."""
    for text in texts:
        shown = repr(text if len(text) <= 40 else text[:39] + "…")
        if not text.strip():
            raise ValueError("a token without a text; leave it out")
        if text != text.strip() or not text.isprintable():
            raise ValueError(
                f"{shown} begins or ends with a blank, or holds a line break; the text around it has those"
            )
        if texts.count(text) > 1:
            raise ValueError(f"{shown} stands twice; leave one out")
    return texts


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
    add_tokens: Annotated[list[str], BeforeValidator(_as_list), AfterValidator(_checked_tokens)] = Field(
        default_factory=list, description="texts that become one token each, such as <cv>; their rows are trained too"
    )

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


def layer_range(text: str) -> range:
    """Return the layers that "10-19" or "7" names. Raises ValueError."""
    first, dash, last = text.partition("-")
    if not (first.strip().isdecimal() and (not dash or last.strip().isdecimal())):
        raise ValueError("expected a layer or two with a dash between them, such as 10-19")
    found = range(int(first), int(last if dash else first) + 1)
    if not found:
        raise ValueError(f"layer {last} stands before layer {first}")
    return found


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
    layers: str | None = Field(
        None, description="train only these layers, counted from 0, such as 10-19; the others stay frozen"
    )
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = Field(
        "adamw", description="full: how much an optimizer keeps of each weight, 8 bytes, 2, or next to nothing"
    )
    masters: Literal["float32", "bfloat16"] = Field(
        "float32", description="full: the weights that steps are added to; bfloat16 goes with adamw8bit"
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

    @field_validator("layers", mode="before")
    @classmethod
    def _are_layers(cls, value: object) -> object:
        if value is None:
            return value
        layer_range(str(value))
        return str(value)

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
    margin: float = Field(0.0, ge=0, le=10, description="reward: by how much a chosen answer has to be ahead")
    centre_weight: float = Field(0.01, ge=0, le=100, description="reward: how much scores are kept around 0")
    good_weight: Annotated[float, Field(gt=0, le=100)] | Auto = Field("auto", description="kto: of a good answer")
    bad_weight: Annotated[float, Field(gt=0, le=100)] | Auto = Field("auto", description="kto: of a bad answer")


MOST_WEIGHT = 1000


def _checked_rewards(value: object) -> object:
    """Refuse what names no reward, or gives one a weight that is none."""
    if isinstance(value, dict):
        for name, weight in value.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < abs(weight) <= MOST_WEIGHT:
                raise ValueError(f"the weight of '{name}' must be a number other than 0, at most {MOST_WEIGHT}")
    if value in ("", [], {}):
        raise ValueError("it names no reward")
    return value


class RlConfig(_Section):
    rewards: Annotated[str | list[str] | dict[str, float], BeforeValidator(_checked_rewards)] = Field(
        "auto",
        description="what replies are judged by, summed: a Python file or a name of docs/rewards.md, a list, or {name: "
        "weight}; auto: number, where all answers are numbers",
    )
    group: int = Field(8, ge=2, le=256, description="replies sampled for each prompt, which are compared")
    max_tokens: Annotated[int, Field(ge=1)] | Auto = Field(
        "auto", description="longest reply; auto: generate.max_tokens"
    )
    temperature: float = Field(1.0, gt=0, le=5, description="replies are sampled at; 1 is the model as it is")
    updates: int = Field(1, ge=1, le=64, description="optimizer steps on each batch of replies")
    clip_low: float = Field(0.2, gt=0, lt=1, description="a token's likelihood counts down to 1 - this times the old")
    clip_high: float = Field(0.28, gt=0, le=10, description="and up to 1 + this times (only with more than one update)")
    kl_weight: float = Field(0.0, ge=0, le=10, description="how closely to stay by the model as it was; 0: not told")
    loss: Literal["dapo", "dr_grpo", "grpo"] = Field(
        "dapo",
        description="grpo: mean over tokens of a step (dapo), over rl.max_tokens (dr_grpo), of each reply (grpo)",
    )
    scale_rewards: bool | Auto = Field(
        "auto", description="grpo: divide by the spread of a group's rewards; auto: yes, but for dr_grpo"
    )
    max_ratio: float = Field(
        2.0, ge=1, le=100, description="what a token counts at most where the sampler found it less likely"
    )
    discount: float = Field(1.0, gt=0, le=1, description="ppo: what a token later counts less")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="ppo: 1 believes what came of a reply, 0 the critic alone")
    value_clip: float = Field(0.2, gt=0, le=100, description="ppo: how far the critic moves in one batch at most")
    value_weight: float = Field(0.1, ge=0, le=100, description="ppo: how much the critic's error counts")
    sampler: Literal["auto", "torch", "llama"] = Field(
        "auto", description="who samples: torch in batches, llama.cpp with the adapter, or the faster of both (auto)"
    )


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
    objective: Literal["sft", "text", "dpo", "ipo", "orpo", "simpo", "kto", "reward", "grpo", "rloo", "ppo"] = Field(
        "sft",
        description="sft: answers; text: documents, every token (continued pre-training); dpo, ipo, orpo, simpo: pairs "
        "of a better and a worse answer; kto: answers judged good or bad; reward: pairs, to score answers; grpo, rloo, "
        "ppo: its own replies by their rewards",
    )
    method: Literal["lora", "qlora", "full"] = Field(
        "lora",
        description="lora: an adapter; qlora: the same over a .gguf base whose weights stay quantised: far less "
        "memory; full: all weights themselves",
    )
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    preference: PreferenceConfig = PreferenceConfig()
    rl: RlConfig = RlConfig()
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
