"""Small random llama models and adapters, made by transformers and PEFT: the independent side of the format tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fledge.model.adapter import Adapter
from fledge.model.weights import Weights

CORPUS = [
    "The quick brown fox jumps over 13 lazy dogs.\n",
    "def add(a, b):\n    return a + b  # 42\n",
    "Grüße, 東京!\n",
]
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def tiny_tokenizer(*, vocab_size: int = 320, pre_tokenizer: Any = None) -> Tokenizer:
    """A byte-level BPE tokenizer of SmolLM2's build, trained on a few lines."""
    tokenizer = Tokenizer(models.BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<note>", normalized=False)])
    return tokenizer


def tiny_config(**changes: Any) -> LlamaConfig:
    numbers = {
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    return LlamaConfig(**(numbers | changes))


def tiny_model(config: LlamaConfig | None = None, *, seed: int = 0) -> LlamaForCausalLM:
    """A model with weights large enough for its answers to differ by token and position."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config or tiny_config()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.2 * noise)
    return model


def save_tiny(folder: Path, model: LlamaForCausalLM, *, tokenizer: Tokenizer | None = None, **options: Any) -> Path:
    """Save model and tokenizer as a Hugging Face folder, as transformers does it."""
    model.save_pretrained(folder, **options)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer or tiny_tokenizer(),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return folder


def random_adapter(weights: Weights, *, rank: int = 4, use_rslora: bool = False, seed: int = 1) -> Adapter:
    """An adapter on every linear layer, strong enough to change what the model answers."""
    numbers = np.random.default_rng(seed)
    tensors = {}
    for name in weights.names():
        if name.split(".")[-2] in TARGETS:
            rows, columns = weights.tensor_shape(name)
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = numbers.normal(0, 0.2, (rank, columns)).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = numbers.normal(0, 0.2, (rows, rank)).astype(np.float32)
    return Adapter(rank, 8.0, use_rslora, TARGETS, "tiny", tensors)
