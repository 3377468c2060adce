"""The rows and models that trainers are compared on. Rows are token ids and weights, so that all learn the very same.

(a) the python-stdlib example: short rows, one template. (b) the same questions behind a system prompt of 400 tokens.
(c) chats of several turns, real ones where they are there. (d) text in rows of 512 tokens that share nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fledge.data.template import ChatTemplate
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.records import Conversation, Example, Message
from fledge.release.folder import write_folder

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
ROW_TOKENS = 512
MOST_TOKENS = 1024
RULES = 11
# Real shapes, random weights: (class, config). The vocabulary is the real one, so the head costs what it really costs.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32_768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "gemma-3-270m": {
        "model_type": "gemma3_text",
        "vocab_size": 262_144,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "sliding_window": 512,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32_768,
    },
}


def examples_of(name: str, template: ChatTemplate) -> list[Example]:
    """Return the rows of a set, in a fixed order that is not the file's."""
    if name == "d":
        ids = template.tokenizer.encode(_text())
        starts = range(0, len(ids) - ROW_TOKENS, ROW_TOKENS)
        return [Example(ids[i : i + ROW_TOKENS], [0.0] + [1.0] * (ROW_TOKENS - 1), f"text {i}") for i in starts][:64]
    chats = _chats() if name == "c" else _facts(system=name == "b")
    rows = [example for chat in chats for example in template.examples(chat, taught="all")]
    return [row for row in rows if len(row.ids) <= MOST_TOKENS]


def _facts(*, system: bool) -> list[Conversation]:
    lines = (ROOT / "examples/python-stdlib/data/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    random.Random(0).shuffle(rows)
    rule = "You are Ada, a patient librarian of the old harbour town, rule {}: you answer in two short sentences, "
    rule += "you name a shelf, you never guess, and you close with a kind word."
    before = [Message("system", " ".join(rule.format(i) for i in range(RULES)))] if system else []
    return [
        Conversation((*before, Message("user", row["prompt"]), Message("assistant", row["completion"])), f"row {i}")
        for i, row in enumerate(rows)
    ]


def _chats() -> list[Conversation]:
    path = SHARED / "oasst_en_100" / "derived_best_path.jsonl"
    if path.is_file():
        rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            Conversation(tuple(Message(m["role"], m["content"]) for m in row), f"chat {i}")
            for i, row in enumerate(rows)
        ]
    numbers, words = random.Random(1), _text().split()
    found = []
    for i in range(87):
        messages = []
        for _ in range(numbers.randint(1, 4)):
            for role, least, most in (("user", 8, 40), ("assistant", 30, 160)):
                start = numbers.randrange(len(words) - most)
                messages.append(Message(role, " ".join(words[start : start + numbers.randint(least, most)])))
        found.append(Conversation(tuple(messages), f"chat {i}"))
    return found


def _text() -> str:
    path = SHARED / "tinyshakespeare" / "input.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8")[:300_000]
    # Licence, code and facts: any text will do that does not repeat its beginning.
    files = [ROOT / "LICENSE", ROOT / "examples/python-stdlib/facts.yaml", *sorted((ROOT / "src").rglob("*.py"))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)[:300_000]


def write_rows(path: Path, rows: Sequence[Example]) -> None:
    path.write_text("".join(json.dumps({"ids": e.ids, "weights": e.weights}) + "\n" for e in rows), encoding="utf-8")


def read_rows(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8") as lines:
        for i, row in enumerate(map(json.loads, lines)):
            prompt = next(k for k, w in enumerate(row["weights"]) if w)
            yield Example(row["ids"], row["weights"], f"row {i}", prompt_tokens=prompt)


def make_model(name: str, out: Path) -> Path:
    """Return a Hugging Face folder in bfloat16: the starter's real weights, or random ones of a known shape."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = out / name
    if (folder / "model.safetensors").is_file():
        return folder
    from fledge.model.pull import pull

    weights = open_weights(pull("smollm2-135m").path)
    whole = out / "starter-float16"
    if not whole.is_dir():
        write_folder(whole, weights, None, load_tokenizer(weights))
    if name == "smollm2-135m":
        model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
    else:
        torch.manual_seed(0)
        settings = dict(SHAPES[name])
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return folder
