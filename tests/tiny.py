"""Small models, rows and projects for the tests of training: seconds on two cores."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

from fledge.model.causal import CausalModel
from fledge.model.load import load_model
from fledge.model.lora import LoraSettings
from fledge.model.weights import open_weights
from fledge.objective.sft import sft
from fledge.records import Example
from fledge.training.batch import Batch
from fledge.training.score import scored_pieces
from tiny_llama import save_tiny, tiny_config, tiny_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@st.composite
def tries(draw: st.DrawFn, *, most: int = 9, vocabulary: int = 3, longest: int = 14) -> list[Example]:
    """Rows over few tokens, so that prefixes are shared, rows stand twice and one is the beginning of another."""
    ids = st.lists(st.integers(0, vocabulary - 1), min_size=2, max_size=longest)
    examples: list[Example] = []
    for number in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(["new", "again", "longer", "shorter"])) if examples else "new"
        base = draw(st.sampled_from(examples)).ids if examples else []
        if kind == "new":
            own = draw(ids)
        elif kind == "again":
            own = list(base)
        elif kind == "longer":
            own = base + draw(ids)
        else:
            own = base[: draw(st.integers(2, len(base)))]
        rest = len(own) - 1
        weights = [0.0, *draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.5]), min_size=rest, max_size=rest))]
        if not any(weights):
            weights[draw(st.integers(1, rest))] = 1.0
        examples.append(Example(own, weights, f"row {number}", {"label": float(number)}))
    return examples


def random_examples(count: int, *, seed: int = 0, vocabulary: int = 384, shared: int = 6) -> list[Example]:
    """Rows of 12 to 40 tokens that begin with the same `shared` tokens; the second half of each is taught."""
    numbers = random.Random(seed)
    head = [numbers.randrange(vocabulary) for _ in range(shared)]
    examples = []
    for number in range(count):
        ids = [*head, *(numbers.randrange(vocabulary) for _ in range(numbers.randint(6, 34)))]
        asked = len(ids) // 2
        examples.append(Example(ids, [0.0] * asked + [1.0] * (len(ids) - asked), f"row {number}"))
    return examples


def save_tiny_model(folder: Path, **changes: Any) -> Path:
    """Save a random model with tokenizer and chat template as a Hugging Face folder."""
    save_tiny(folder, tiny_model(tiny_config(**changes)))
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    return folder


def load_tiny(
    folder: Path, *, dtype: torch.dtype = torch.float32, dropout: float = 0.0, seed: int = 7, **settings: Any
) -> CausalModel:
    """Load the model with adapters on every linear layer that are already away from zero."""
    model = load_model(open_weights(folder), dtype=dtype)
    model.add_adapter(LoraSettings(rank=4, alpha=8.0, dropout=dropout, **settings), seed=seed)
    wake(model, seed=seed)
    return model


def wake(model: CausalModel, *, seed: int = 7) -> None:
    """Move the B matrices away from zero, the same for every model of one shape."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.adapter_tensors().items():
            if ".lora_B." in name:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))


def loss_and_gradients(model: CausalModel, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss of one optimizer step and the gradient of every adapter matrix."""
    for parameter in model.parameters().values():
        parameter.grad = None
    total = 0.0
    for scored in scored_pieces(model, batch):
        value = sft(scored).value
        value.backward()
        total += float(value.detach())
    return total, {name: gradient.clone() for name, gradient in model.gradients().items()}


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.reshape(-1).double() for t in tensors])


def save_project(folder: Path, *, rows: int = 24, **train: Any) -> Path:
    """Save a project over a tiny random model: `rows` short questions, everything set that 'auto' would choose."""
    (folder / "data").mkdir(parents=True)
    save_tiny_model(folder / "model", hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    names = ["fox", "dog", "add", "return", "Grüße", "13"]
    lines = [
        json.dumps({"question": f"The {names[n % 6]} {n}?", "answer": f"{names[n % 5]} {names[n % 4]} {n * 7}"})
        for n in range(rows)
    ]
    (folder / "data" / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    knobs = {
        "epochs": 4,
        "lr": 1e-2,
        "rank": 4,
        "rows_per_step": 8,
        "tokens_per_piece": 64,
        "dtype": "float32",
        "checkpoint_s": 0,
    }
    config = {"model": "./model", "data": {"eval": "none"}, "train": knobs | train}
    (folder / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder
