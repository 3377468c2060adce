"""Tiny random models of every family the engine knows, and the plain computation they are held against.

The plain computation is transformers' own model with PEFT's adapters on padded rows: a mask, all logits, nothing is
shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.masking_utils import eager_mask

from fledge.model import lora
from fledge.model.causal import CausalModel
from fledge.records import Example

VOCABULARY = 97
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False, "rope_parameters": _LLAMA3, "head_dim": 8},
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1,
                "hidden_size": 36, "head_dim": 12},
    "mistral": {"model_type": "mistral", "sliding_window": 4},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {"model_type": "qwen2", **_WINDOWS},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "gemma3": {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 12,
               "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gemma3-caps": {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 100, "attn_logit_softcapping": 3.0,
                    "final_logit_softcapping": 4.0, "num_key_value_heads": 1},
}  # fmt: skip

EXACT_ATTENTION = "plain_exact"


def exact_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **options: Any
) -> tuple[torch.Tensor, None]:
    """transformers' eager attention, without its detour through float32 in the soft-max."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * options["scaling"]
    if cap := getattr(module, "attn_logit_softcapping", None):
        scores = cap * torch.tanh(scores / cap)
    assert mask is not None
    weights = (scores + mask[..., : key.shape[2]]).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2), None


AttentionInterface.register(EXACT_ATTENTION, exact_attention)
AttentionMaskInterface.register(EXACT_ATTENTION, eager_mask)

Plain = Callable[[Sequence[Example]], tuple[float, dict[str, torch.Tensor]]]


def save_family(folder: Path, name: str, **changes: Any) -> Path:
    """Save a random model of a family, with weights large enough for its answers to differ by token and position."""
    torch.manual_seed(3)
    settings = _SMALL | FAMILIES[name] | changes
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            around = 0.0 if name.startswith("gemma") else 1.0
            parameter.copy_(around + 0.1 * noise if "norm" in key else 0.2 * noise)
    model.save_pretrained(folder)
    return folder


def plain_loop(folder: Path, ours: CausalModel) -> Plain:
    """Return loss and gradients by transformers and PEFT alone, with the adapter of `ours`."""
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=ours.dtype, attn_implementation=EXACT_ATTENTION)
    if ours.dtype == torch.float64:
        _in_float64(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(lora.ALL_LINEAR), task_type="CAUSAL_LM")
    network: Any = get_peft_model(base, config, autocast_adapter_dtype=False).eval()
    parameters = {name.replace(".default", ""): p for name, p in network.named_parameters()}
    with torch.no_grad():
        for name, tensor in ours.adapter_tensors().items():
            parameters[name].copy_(tensor)

    return _compute(network, {name: parameters[name] for name in ours.adapter_tensors()}, ours.dtype)


def plain_weights(folder: Path, ours: CausalModel) -> Plain:
    """Return loss and gradients by transformers alone, of the weights that `ours` trains."""
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=ours.dtype, attn_implementation=EXACT_ATTENTION)
    if ours.dtype == torch.float64:
        _in_float64(base)
    # torch leaves the gradient of a padding token out, which a tree without padding knows nothing of.
    base.get_input_embeddings().padding_idx = None
    parameters = dict(base.eval().named_parameters())
    return _compute(base, {name: parameters[name] for name in ours.trained_tensors()}, ours.dtype)


def _compute(network: Any, wanted: dict[str, torch.Tensor], dtype: torch.dtype) -> Plain:
    def compute(examples: Sequence[Example]) -> tuple[float, dict[str, torch.Tensor]]:
        network.zero_grad(set_to_none=True)
        longest = max(len(e.ids) for e in examples)
        ids = torch.tensor([e.ids + [0] * (longest - len(e.ids)) for e in examples])
        weights = torch.tensor([e.weights + [0.0] * (longest - len(e.ids)) for e in examples], dtype=dtype)
        mask = torch.tensor([[1] * len(e.ids) + [0] * (longest - len(e.ids)) for e in examples])
        logits = network(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        logps = functional.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
        loss = -(logps * weights[:, 1:]).sum() / weights.sum()
        loss.backward()
        return float(loss.detach()), {name: parameter.grad for name, parameter in wanted.items()}

    return compute


def plain_pairs(folder: Path, ours: CausalModel) -> Plain:
    """Return the loss of pairs (chosen, rejected, chosen, ...) and its gradients by transformers' sequence classifier
    and PEFT alone, with the adapter and the head of `ours`; -log of the chance that the chosen one wins, in the mean.
    """
    base: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=ours.dtype, attn_implementation=EXACT_ATTENTION
    )
    if ours.dtype == torch.float64:
        _in_float64(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(lora.ALL_LINEAR), task_type="SEQ_CLS")
    network: Any = get_peft_model(base, config, autocast_adapter_dtype=False).eval()
    parameters = {name.replace(".default", ""): p for name, p in network.named_parameters()}
    head = parameters["base_model.model.score.modules_to_save.weight"]
    assert ours.scalar_head is not None
    with torch.no_grad():
        for name, tensor in ours.adapter_tensors().items():
            parameters[name].copy_(tensor)
        head[0].copy_(ours.scalar_head.weight)

    def compute(examples: Sequence[Example]) -> tuple[float, dict[str, torch.Tensor]]:
        network.zero_grad(set_to_none=True)
        longest = max(len(e.ids) for e in examples)
        ids = torch.tensor([e.ids + [0] * (longest - len(e.ids)) for e in examples])
        scores = network(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 0]
        loss = torch.log1p(torch.exp(scores[1::2] - scores[0::2])).mean()
        loss.backward()
        assert head.grad is not None
        found = {name: parameters[name].grad for name in ours.adapter_tensors()} | {"score": head.grad[0]}
        return float(loss.detach()), found

    return compute


def _in_float64(network: Any) -> None:
    """transformers' norms, soft-max and rotary embedding go through float32, whatever they are given.

    Here they are written out anew from the config alone; nothing is taken from the engine that is held against it.
    """
    config = network.config
    gemma = config.model_type.startswith("gemma")
    for module in network.modules():
        if type(module).__name__.endswith("RMSNorm"):
            eps = getattr(module, "variance_epsilon", None) or module.eps

            def norm(x: torch.Tensor, *, own: Any = module, eps: float = eps) -> torch.Tensor:
                scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
                return scaled * (1.0 + own.weight if gemma else own.weight)

            module.forward = norm
        elif type(module).__name__.endswith("ScaledWordEmbedding"):
            scale = config.hidden_size**0.5
            module.forward = lambda ids, own=module, scale=scale: functional.embedding(ids, own.weight) * scale

    def rotation(x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Any:
        told = config.rope_parameters
        frequencies = _frequencies(told[layer_type] if layer_type else told, network.model.layers[0].self_attn.head_dim)
        angles = position_ids[..., None].double() * frequencies
        both = torch.cat([angles, angles], dim=-1)
        return both.cos(), both.sin()

    network.model.rotary_emb.forward = rotation


def _frequencies(rope: dict[str, Any], width: int) -> torch.Tensor:
    """Rotary frequencies (Su et al. 2021), rounded to float32 as transformers does; stretched as Llama 3.1's are."""
    exponents = torch.arange(0, width, 2) / width
    plain = (1.0 / rope["rope_theta"] ** exponents).double()
    if rope["rope_type"] == "default":
        return plain
    assert rope["rope_type"] == "llama3"
    turns = rope["original_max_position_embeddings"] / rope["rope_theta"] ** exponents.double() / (2 * math.pi)
    kept = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    kept = kept.clamp(0.0, 1.0)
    return kept * plain + (1 - kept) * plain / rope["factor"]
