"""A token tree gives the loss and the gradients of its rows, computed one beside the other with padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from fledge.model import lora
from fledge.model.attention import Branch
from fledge.model.load import CausalModel
from fledge.records import Example
from fledge.training.batch import Batch, to_batch
from tiny import flat, load_tiny, loss_and_gradients, random_examples, save_tiny_model, tries

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

Padded = Callable[[Sequence[Example]], tuple[float, dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, four heads over two key heads, an untied head and Llama 3's rotary scaling."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return save_tiny_model(
        tmp_path_factory.mktemp("attention") / "model", tie_word_embeddings=False, rope_parameters=rope, head_dim=8
    )


def padded_loop(
    folder: Path,
    ours: CausalModel,
    *,
    attention: str,
    prepare: Callable[[torch.nn.Module], None] = lambda network: None,
) -> Padded:
    """Return loss and gradients by transformers and PEFT alone: rows padded to the longest, a mask, all logits."""
    base = LlamaForCausalLM.from_pretrained(folder, dtype=ours.dtype, attn_implementation=attention)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(lora.ALL_LINEAR), task_type="CAUSAL_LM")
    network: Any = get_peft_model(base, config, autocast_adapter_dtype=False).eval()
    prepare(network)
    parameters = dict(network.named_parameters())
    names: dict[str, str] = {}
    with torch.no_grad():
        for name, parameter in lora.trainable(ours.network).items():
            module, _, side = name.rpartition(".")
            names[name] = f"base_model.model.{module}.{side}.default.weight"
            parameters[names[name]].copy_(parameter)

    def compute(examples: Sequence[Example]) -> tuple[float, dict[str, torch.Tensor]]:
        network.zero_grad(set_to_none=True)
        longest = max(len(e.ids) for e in examples)
        ids = torch.tensor([e.ids + [0] * (longest - len(e.ids)) for e in examples])
        weights = torch.tensor([e.weights + [0.0] * (longest - len(e.ids)) for e in examples], dtype=ours.dtype)
        mask = torch.tensor([[1] * len(e.ids) + [0] * (longest - len(e.ids)) for e in examples])
        logits = network(input_ids=ids, attention_mask=mask).logits[:, :-1]
        logps = functional.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
        loss = -(logps * weights[:, 1:]).sum() / weights.sum()
        loss.backward()
        found = {name: parameters[other].grad for name, other in names.items()}
        return float(loss.detach()), {name: g for name, g in found.items() if g is not None}

    return compute


def check(ours: tuple[float, dict[str, torch.Tensor]], theirs: tuple[float, dict[str, torch.Tensor]]) -> None:
    loss, gradients = ours
    expected_loss, expected = theirs
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert set(gradients) == set(expected)
    mine, other = flat(list(gradients.values())), flat([expected[name] for name in gradients])
    assert float((mine - other).norm() / other.norm()) < 1e-5
    for name, gradient in gradients.items():
        # Where nothing but rounding is left (a query with a single key to look at) there is no direction to compare.
        if expected[name].norm() > 1e-5 * other.norm():
            cosine = functional.cosine_similarity(flat([gradient]), flat([expected[name]]), dim=0)
            assert cosine > 1 - 1e-6, name


@pytest.fixture(
    scope="module", params=[(torch.float32, "eager"), (torch.float32, "sdpa"), (torch.float64, "sdpa")], ids=str
)
def pair(request: pytest.FixtureRequest, folder: Path) -> tuple[CausalModel, Padded]:
    dtype, attention = request.param
    model = load_tiny(folder, dtype=dtype)
    return model, padded_loop(folder, model, attention=attention)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(examples=tries(most=6, vocabulary=4, longest=10))
def test_any_tree_is_its_rows(pair: tuple[CausalModel, Padded], examples: list[Example]) -> None:
    model, padded = pair
    check(loss_and_gradients(model, to_batch(examples, tokens_per_piece=10_000)), padded(examples))


def test_a_tree_of_longer_rows_is_its_rows(pair: tuple[CausalModel, Padded]) -> None:
    model, padded = pair
    examples = random_examples(8)
    examples += [
        replace(e, ids=[*e.ids[:20], 7, 8, 9], weights=[*e.weights[:20], 1, 0, 1])
        for e in examples[:4]
        if len(e.ids) > 20
    ]
    batch = to_batch(examples, tokens_per_piece=10_000)
    assert len(batch.pieces[0].branches) > 8
    check(loss_and_gradients(model, batch), padded(examples))


def _norms_in_float64(network: torch.nn.Module) -> None:
    """transformers' own norm goes through float32, whatever it is given."""
    for module in network.modules():
        if isinstance(module, LlamaRMSNorm):

            def forward(x: torch.Tensor, *, own: LlamaRMSNorm = module) -> torch.Tensor:
                return own.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + own.variance_epsilon)

            module.forward = forward  # type: ignore[method-assign,assignment]


def test_in_float64_the_equality_holds_to_the_last_digits(folder: Path) -> None:
    model = load_tiny(folder, dtype=torch.float64)
    padded = padded_loop(folder, model, attention="sdpa", prepare=_norms_in_float64)
    _norms_in_float64(model.network)
    examples = random_examples(6, seed=2)
    loss, gradients = loss_and_gradients(model, to_batch(examples, tokens_per_piece=10_000))
    expected_loss, expected = padded(examples)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-13)


def _siblings_seen(batch: Batch) -> Batch:
    """Let every branch but the first two see the one before it as if it were an ancestor."""
    (piece,) = batch.pieces
    branches = list(piece.branches)
    for i in range(2, len(branches)):
        before = branches[i - 1]
        branches[i] = Branch.of(
            branches[i].start, branches[i].end, [*branches[i].ancestors, (before.start, before.end)]
        )
    return replace(batch, pieces=(replace(piece, branches=tuple(branches)),))


def _positions_counted_flat(batch: Batch) -> Batch:
    (piece,) = batch.pieces
    return replace(batch, pieces=(replace(piece, position_1N=torch.arange(piece.num_tokens)[None]),))


def _future_seen(batch: Batch) -> Batch:
    (piece,) = batch.pieces
    branches = [
        replace(b, visible=torch.ones(b.end - b.start, sum(y - x for x, y in b.ancestors) + b.end - b.start).bool())
        for b in piece.branches
    ]
    return replace(batch, pieces=(replace(piece, branches=tuple(branches)),))


@pytest.mark.parametrize("fault", [_siblings_seen, _positions_counted_flat, _future_seen])
def test_negative_control_a_wrong_tree_is_noticed(folder: Path, fault: Callable[[Batch], Batch]) -> None:
    model = load_tiny(folder)
    padded = padded_loop(folder, model, attention="eager")
    examples = random_examples(4)
    batch = to_batch(examples, tokens_per_piece=10_000)
    expected = padded(examples)
    check(loss_and_gradients(model, batch), expected)
    with pytest.raises(AssertionError):
        check(loss_and_gradients(model, fault(batch)), expected)


def test_a_mask_of_somebody_else_is_refused(folder: Path) -> None:
    """The tree is the mask; padding or a cache would silently mean something else."""
    model = load_tiny(folder)
    (piece,) = to_batch(random_examples(2), tokens_per_piece=10_000).pieces
    body: Any = model.network.model
    with pytest.raises(AssertionError, match="the tree is the mask"):
        body.layers[0].self_attn(
            hidden_states=torch.zeros(1, piece.num_tokens, model.shape.width),
            position_embeddings=body.rotary_emb(torch.zeros(1, 1), piece.position_1N),
            attention_mask=torch.zeros(1, 1, 1, 1),
            tree=piece.branches,
        )
