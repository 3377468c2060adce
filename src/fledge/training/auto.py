"""Every knob that says `auto`, resolved from model, rows and machine, each with its reason in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fledge.config import Config, TrainConfig
from fledge.model.hardware import Machine
from fledge.model.shape import Shape
from fledge.records import Example

# Row visits after which a 135M model with rank 16 had learnt tens to hundreds of facts by heart (benchmarks/README.md).
ROW_VISITS = 1300
MIN_EPOCHS, MAX_EPOCHS = 1, 15
ROWS_PER_STEP = 8
# Share of the free memory that the activations of one piece may take.
ACTIVATION_SHARE = 0.25
PIECE_TOKENS = (256, 512)


@dataclass(frozen=True)
class Choice:
    """A knob that was chosen for the user."""

    knob: str
    value: float | int | str
    reason: str

    def __str__(self) -> str:
        return f"{self.knob} = {self.value}: {self.reason}"


def resolve(
    config: Config, *, examples: Sequence[Example], num_params: int, shape: Shape, machine: Machine
) -> tuple[Config, list[Choice]]:
    """Return the config without any `auto` under `train`, and what was chosen."""
    longest = max(len(example.ids) for example in examples)
    rules: dict[str, tuple[float | int | str, str]] = {
        "epochs": _epochs(len(examples)),
        "lr": _lr(num_params),
        "rank": (16, "enough for hundreds of facts in a small model; more costs time, not quality"),
        "rows_per_step": _rows_per_step(len(examples)),
        "tokens_per_piece": _tokens_per_piece(shape, longest, machine),
        "dtype": (machine.dtype, machine.dtype_reason),
    }
    chosen = {knob: rule for knob, rule in rules.items() if getattr(config.train, knob) == "auto"}
    train = config.train.model_dump() | {knob: value for knob, (value, _) in chosen.items()}
    choices = [Choice(f"train.{knob}", value, reason) for knob, (value, reason) in chosen.items()]
    return config.model_copy(update={"train": TrainConfig.model_validate(train)}), choices


def _epochs(num_rows: int) -> tuple[int, str]:
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, round(ROW_VISITS / num_rows)))
    return epochs, f"{num_rows} rows are seen about {ROW_VISITS} times in all, {MIN_EPOCHS} to {MAX_EPOCHS} times each"


def _lr(num_params: int) -> tuple[float, str]:
    lr = 1e-3 if num_params < 200e6 else 5e-4 if num_params < 800e6 else 2e-4
    size = f"{num_params / 1e6:.0f}M"
    return (
        lr,
        f"LoRA wants about ten times the rate of full training, and less the larger the model ({size} parameters)",
    )


def _rows_per_step(num_rows: int) -> tuple[int, str]:
    rows = max(1, min(ROWS_PER_STEP, num_rows // 4))
    return rows, "small steps learn more per row; this many share their prefix and keep the processor busy"


def _tokens_per_piece(shape: Shape, longest: int, machine: Machine) -> tuple[int, str]:
    """Bound the activations kept for the backward pass.

    Per token and layer they are about 14 vectors of the model's width and 6 of the feed-forward's (inputs of every
    projection, norms, residuals, queries, keys, values, attention output; gate, up and their product, saved and
    formed).
    """
    bytes_each = 2 if machine.dtype == "bfloat16" else 4
    per_token = shape.num_layers * (14 * shape.width + 6 * shape.ffn_width) * bytes_each
    affordable = int(machine.ram_free_bytes * ACTIVATION_SHARE / per_token)
    tokens = max(longest, min(max(PIECE_TOKENS[0], affordable), PIECE_TOKENS[1]))
    return tokens, f"about {tokens * per_token / 1e6:.0f} MB of activations at once; changes memory, not the result"
