"""What of a run's rows is computed once and then remembered, because nothing that is trained can change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fledge.config import Config, TrainConfig, layer_range
from fledge.data.tree import Places, inputs_of, number_prefixes
from fledge.errors import ConfigError, nearest
from fledge.model.causal import CausalModel
from fledge.model.hardware import DTYPES
from fledge.model.lora import ALL_LINEAR
from fledge.model.shape import Shape
from fledge.model.weights import GgufWeights, OtherWeights, Weights
from fledge.records import Example
from fledge.training.aims import aim_of, rolls_out
from fledge.training.batch import Memory, to_tokens

TOKENS_AT_ONCE = 1024

# Knobs of `train` that only some methods hear.
OF_ADAPTERS = ("rank", "targets", "dropout", "rslora", "dora", "after_prompt", "lora_plus")
OF_FULL = ("optimizer", "masters")


def deaf_to(method: str) -> dict[str, object]:
    """Return the knobs that a method does not hear, by their dotted names, each as it has to be left."""
    names, usual = OF_ADAPTERS if method == "full" else OF_FULL, TrainConfig()
    return {f"train.{name}": getattr(usual, name) for name in names}


def check_options(config: Config, weights: Weights, *, plain: str) -> None:
    """Raise ConfigError where options cannot be had with this model or each other, before anything is written."""
    train, shape = config.train, weights.shape
    problem = ""
    unknown = [] if isinstance(weights, OtherWeights) else [name for name in train.targets if name not in ALL_LINEAR]
    if unknown:
        hint = nearest(unknown[0], ALL_LINEAR) or f". There are: {', '.join(ALL_LINEAR)}."
        raise ConfigError("config.bad_value", f"no linear layer is called '{unknown[0]}'{hint}", where="train.targets")
    if config.data.add_tokens:
        _check_added(config, plain)
    if config.method == "qlora":
        _check_stored(weights, plain)
    remedy = "Leave one of them out."
    if config.method == "full":
        _check_full(config, plain)
    elif told := [name for name in OF_FULL if getattr(train, name) != getattr(TrainConfig(), name)]:
        problem = f"train.{told[0]} is of method full: beside an adapter there is little to keep."
        raise ConfigError("config.bad_value", problem, where="train", remedy="Leave it out, or take method: full.")
    if train.layers is not None and layer_range(train.layers).stop > shape.num_layers:
        problem = f"train.layers is {train.layers}; the model has layers 0 to {shape.num_layers - 1}."
        remedy = "Give others, or leave it out for all."
    elif train.layers is not None and train.top_layers is not None:
        problem = "train.layers and train.top_layers exclude each other."
    elif train.top_layers is not None and train.top_layers > shape.num_layers:
        problem = f"train.top_layers is {train.top_layers}; the model has {shape.num_layers} layers."
        remedy = "Give fewer, or leave it out for all."
    elif train.top_layers is not None and train.after_prompt:
        problem = "train.top_layers and train.after_prompt exclude each other."
    elif train.after_prompt and (aim_of(config).facts or aim_of(config).judges):
        problem = f"objective {config.objective} and train.after_prompt exclude each other."
    elif problem := _odd_rollouts(config, shape):
        pass
    elif train.after_prompt and plain:
        problem = f"train.after_prompt needs the fast path, and {plain}."
    elif train.dora and isinstance(weights, GgufWeights) and shape.architecture != "llama":
        problem = f"train.dora takes the plain path, which builds no '{shape.architecture}' model from a GGUF file."
        remedy = "Leave it out, or train on the model's Hugging Face folder."
    if problem:
        raise ConfigError("config.bad_value", problem, where="train", remedy=remedy)


def _odd_rollouts(config: Config, shape: Shape) -> str:
    """Return what cannot be had where replies are sampled, or ""."""
    if not rolls_out(config):
        return ""
    if config.train.after_prompt:
        return f"objective {config.objective} and train.after_prompt exclude each other."
    if config.rl.temperature != 1 and shape.style.final_softcap:
        return "rl.temperature is not 1, and the model caps its logits: what was drawn could not be told."
    if config.method == "full" and config.rl.kl_weight:
        return "rl.kl_weight compares with the model as it was, which method full does not keep."
    return ""


def _check_full(config: Config, plain: str) -> None:
    """Raise ConfigError where a knob of adapters is set though all weights are trained, or what cannot be combined."""
    train, usual = config.train, TrainConfig()
    told = [f"train.{name}" for name in OF_ADAPTERS if getattr(train, name) != getattr(usual, name)]
    problem, remedy = "", "Leave it out, or take method: lora."
    if told:
        problem = f"it has no adapter, to which {', '.join(told)} would belong."
    elif aim_of(config).judges:
        problem = f"objective {config.objective} learns an adapter and a head beside it."
        remedy = "Take method: lora or qlora."
    elif train.masters == "bfloat16" and train.optimizer != "adamw8bit":
        problem = "train.masters=bfloat16 needs an optimizer that rounds by chance."
        remedy = "Add train.optimizer=adamw8bit."
    elif plain and "bfloat16" in (train.masters, train.dtype):
        problem, remedy = "on the plain path it computes in float32.", "Leave train.dtype and train.masters out."
    if problem:
        raise ConfigError("config.bad_value", f"full: {problem}", where="method", remedy=remedy)


def quantised(weights: Weights) -> bool:
    """Whether some of the weights are stored in blocks."""
    return any(weights.blocks(name) is not None for name in weights.names())


def _check_added(config: Config, plain: str) -> None:
    """Raise ConfigError where rows of added tokens cannot be trained, or could not be handed over."""
    frozen = next(
        (n for n in ("layers", "top_layers", "after_prompt") if getattr(config.train, n) not in (None, False)), ""
    )
    problem, remedy = "", "Leave one of the two out."
    if config.method == "qlora":
        problem = "qlora is served on top of its base file as it is, which has no rows for added tokens."
        remedy = "Take method: lora, or leave the tokens out."
    elif aim_of(config).judges:
        problem = f"objective {config.objective} hands over an adapter alone, whose base does not know added tokens."
    elif plain:
        problem = f"their rows are trained on the fast path only, and {plain}."
    elif frozen:
        problem = f"train.{frozen} leaves the embedding as it is, in which they would have to be learnt."
    if problem:
        raise ConfigError("config.bad_value", problem, where="data.add_tokens", remedy=remedy)


def _check_stored(weights: Weights, plain: str) -> None:
    """Raise ConfigError where there are no quantised weights that could stay as they are."""
    problem = f"it needs the fast path, and {plain}" if plain else ""
    problem = problem or ("" if quantised(weights) else "its weights are not quantised")
    if problem:
        raise ConfigError(
            "config.bad_value",
            f"qlora cannot be had with this base: {problem}.",
            where="method",
            remedy="Give a quantised .gguf file as the model, or take method: lora.",
        )


def places_of(train: TrainConfig, examples: Sequence[Example], *, plain: str = "") -> Places | None:
    """Return the numbers under which tokens are remembered, or None where nothing is, as on the plain path."""
    if plain:
        return None
    if train.after_prompt:
        prompts = [example.ids[: example.prompt_tokens] for example in examples]
        return number_prefixes(prompts, max_tokens=TOKENS_AT_ONCE) if any(prompts) else None
    if train.top_layers is not None:
        return number_prefixes(inputs_of(examples), max_tokens=TOKENS_AT_ONCE)
    return None


def remembered_bytes(train: TrainConfig, places: Places | None, shape: Shape, *, dtype: str) -> int:
    """Return what the memory of the whole run will take, where train.dtype: auto is `dtype`."""
    if places is None:
        return 0
    itemsize = DTYPES[dtype if train.dtype == "auto" else train.dtype].itemsize
    if train.after_prompt:
        return places.count * shape.num_layers * 2 * shape.key_width * itemsize
    return places.count * shape.width * max(4, itemsize)


def remember(
    model: CausalModel, train: TrainConfig, places: Places | None, say: Callable[[str], None] = lambda _: None
) -> Memory | None:
    """Let the model compute what stays the same over the run; return how steps name it, or None where nothing does."""
    if places is None:
        return None
    what = "the keys and values of all prompts" if train.after_prompt else "the layers below the adapter"
    say(f"computes {what} once, for {places.count:,} tokens")
    trunk = None if places.trunk is None else to_tokens(places.trunk)
    parts = [to_tokens(tree) for tree in places.parts if len(tree.ids_N)]
    (model.remember_prompts if train.after_prompt else model.remember_lower_layers)(trunk, parts)
    return Memory(places, prompts=train.after_prompt)
