"""Weights -> a model ready for the token tree: the engine for the Llama family, transformers' own for all others.

The one door to transformers, which is loaded only where the plain path is taken.
"""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fledge.errors import ModelError
from fledge.model import attention
from fledge.model.causal import CausalModel
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.decoder import inverse_frequencies, read_decoder
from fledge.model.engine.passes import Engine
from fledge.model.plain_path import PlainModel, has_head
from fledge.model.weights import OtherWeights, Weights


def plain_reason(weights: Weights, *, dora: bool = False) -> str:
    """Return why the plain path has to be taken, in words, or "" where the fast one can."""
    if isinstance(weights, OtherWeights):
        return weights.why
    return "DoRA needs the length of every merged row" if dora else ""


def prepare_plain(weights: Weights) -> bool:
    """Load what the plain path needs of transformers, so that a forecast that begins here counts it.

    Return whether the model, as far as its build tells, has no LM head to call and gives the logits of all tokens.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if not isinstance(weights, OtherWeights):
        importlib.import_module("transformers.models.llama.modeling_llama")
        return False
    try:
        config = AutoConfig.from_pretrained(weights.path, local_files_only=True)
        with torch.device("meta"):
            return not has_head(AutoModelForCausalLM.from_config(config))
    except (OSError, ValueError, KeyError, ImportError, NotImplementedError, RuntimeError):
        # Loading it will say what is wrong, if anything is.
        return False


def load_model(
    weights: Weights, *, dtype: torch.dtype, plain: str = "", recompute: bool = False, stay: bool = False
) -> CausalModel:
    """Return the model of `weights` in `dtype`, frozen, without an adapter.

    It is the engine where the architecture is one of its own; `plain` is a reason, in words, to take the plain path.
    With `recompute` only the inputs of layers are kept for the backward pass. With `stay` quantised weights stay in the
    blocks of their file, which the engine alone can do.
    """
    plain = plain or plain_reason(weights)
    if not plain:
        kernels = kernels_for(dtype)
        return Engine(read_decoder(weights, kernels, dtype=dtype, stay=stay), kernels, recompute=recompute)
    assert not stay, "the plain path keeps no blocks"
    network = _from_folder(weights.path, dtype) if weights.path.is_dir() else _llama(weights, dtype)
    if recompute:
        _recompute_layers(network)
    return PlainModel(network, weights.shape, dtype, kernels_for(dtype), reason=plain)


def _recompute_layers(network: Any) -> None:
    """Keep the inputs of layers only; what they compute is computed again in the backward pass."""
    layers = max((m for m in network.modules() if isinstance(m, nn.ModuleList)), key=len)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def _from_folder(folder: Path, dtype: torch.dtype) -> Any:
    """Return whatever causal language model transformers makes of a folder. No code of the folder is run."""
    from transformers import AttentionInterface, AutoModelForCausalLM
    from transformers.utils import logging

    # Its bar would run through ours.
    logging.disable_progress_bar()
    AttentionInterface.register(attention.NAME, attention.tree_attention)
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            "model.unsupported",
            f"transformers cannot load it as a causal language model: {str(error).splitlines()[0]}",
            where=str(folder),
            remedy="Choose another model.",
        ) from error
    return network


def _llama(weights: Weights, dtype: torch.dtype) -> Any:
    """Return transformers' LlamaForCausalLM with `weights`, tensor by tensor so that float32 is never held whole."""
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    AttentionInterface.register(attention.NAME, attention.tree_attention)
    shape = weights.shape
    if shape.architecture != "llama":
        raise ModelError(
            "model.unsupported",
            f"a '{shape.architecture}' model can be built from a GGUF file on the fast path only.",
            where=str(weights.path),
            remedy="Use its Hugging Face folder, or leave train.dora off.",
        )
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.context_tokens,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        network: Any = LlamaForCausalLM(config)
    state = {name: torch.from_numpy(weights.read(name)).to(dtype) for name in weights.names()}
    missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    assert not unexpected, f"tensors that the model does not know: {unexpected}"
    if shape.tied:
        network.tie_weights()
        missing = [name for name in missing if name != "lm_head.weight"]
    assert not missing, f"tensors that were not read: {missing}"
    network.model.rotary_emb.inv_freq = inverse_frequencies(shape).float()
    return network
