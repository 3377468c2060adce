"""Our adapters are PEFT's: same start, same answers, same gradients, same files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from fledge.errors import ModelError
from fledge.model import lora
from fledge.model.adapter import load_adapter, save_adapter
from fledge.model.load import CausalModel, load_model
from fledge.model.weights import open_weights
from fledge.records import Example
from fledge.training.batch import to_batch
from tiny import load_tiny, loss_and_gradients, random_examples, save_tiny_model

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.randint(0, 384, (1, 23), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("lora") / "model")


def answer(model: CausalModel) -> torch.Tensor:
    """The hidden states of one sequence."""
    ids = IDS[0].tolist()
    weights = [0.0, *[1.0] * (len(ids) - 1)]
    (piece,) = to_batch([Example([*ids, 0], [*weights, 1.0], "row")], tokens_per_piece=10_000).pieces
    return model.hidden(piece.ids_1N, piece.position_1N, piece.branches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_adapter_changes_no_bit(folder: Path, dtype: torch.dtype) -> None:
    model = load_model(open_weights(folder), dtype=dtype)
    with torch.no_grad():
        before = answer(model)
        assert lora.inject(model.network, rank=4, alpha=8.0, seed=0) == 3 * 7
        assert torch.equal(answer(model), before)
        model.network.train()
        assert torch.equal(answer(model), before)


def test_what_is_trained_is_a_and_b_and_nothing_else(folder: Path) -> None:
    model = load_model(open_weights(folder), dtype=torch.bfloat16)
    linear = {n: m for n, m in model.network.named_modules() if n.rsplit(".", 1)[-1] in lora.ALL_LINEAR}
    expected = sum(5 * (m.in_features + m.out_features) for m in linear.values() if isinstance(m, nn.Linear))
    lora.inject(model.network, rank=5, alpha=10.0, seed=0)
    trainable = lora.trainable(model.network)
    assert sum(p.numel() for p in trainable.values()) == expected
    assert len(trainable) == 2 * len(linear)
    assert {p.dtype for p in trainable.values()} == {torch.float32}, "masters are float32"
    assert {n.rsplit(".", 1)[-1] for n in trainable} == {"lora_A", "lora_B"}


def test_the_start_depends_on_the_seed_alone_and_is_pefts_distribution(folder: Path) -> None:
    def start(seed: int) -> list[torch.Tensor]:
        model = load_model(open_weights(folder), dtype=torch.float32)
        lora.inject(model.network, rank=8, alpha=16.0, seed=seed)
        return [p.detach() for p in lora.trainable(model.network).values()]

    torch.manual_seed(1)
    first = start(0)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, start(0), strict=True))
    assert not torch.equal(first[0], start(1)[0])
    a = first[0]
    bound = 1 / math.sqrt(a.shape[1])
    assert float(a.abs().max()) <= bound
    assert float(a.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def as_peft(folder: Path, model: CausalModel, tmp_path: Path, **changes: Any) -> Any:
    """PEFT's model over transformers' own, with the adapter that we saved."""
    save_adapter(lora.to_adapter(model.network, alpha=8.0, base_name=str(folder)), tmp_path / "adapter")
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return PeftModel.from_pretrained(base, tmp_path / "adapter", **changes)


def test_peft_opens_what_we_save_and_gives_the_same_logits(folder: Path, tmp_path: Path) -> None:
    model = load_tiny(folder)
    theirs = as_peft(folder, model, tmp_path)
    with torch.no_grad():
        expected = theirs(input_ids=IDS).logits[0]
        torch.testing.assert_close(answer(model) @ model.head.t(), expected, rtol=1e-5, atol=2e-5)
        with theirs.disable_adapter():
            base = theirs(input_ids=IDS).logits[0]
    assert float((expected - base).abs().max()) > 0.1, "the adapter does something"


def test_a_saved_adapter_is_loaded_back_bit_by_bit(folder: Path, tmp_path: Path) -> None:
    model, other = load_tiny(folder, seed=1), load_tiny(folder, seed=2)
    save_adapter(lora.to_adapter(model.network, alpha=8.0, base_name="tiny"), tmp_path / "adapter")
    adapter = load_adapter(tmp_path / "adapter")
    assert (adapter.rank, adapter.scale, sorted(adapter.target_modules)) == (4, 2.0, sorted(lora.ALL_LINEAR))
    lora.load_into(other.network, adapter)
    for (name, ours), theirs in zip(
        lora.trainable(model.network).items(), lora.trainable(other.network).values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_an_adapter_of_other_layers_is_refused(folder: Path) -> None:
    model = load_model(open_weights(folder), dtype=torch.float32)
    lora.inject(model.network, rank=4, alpha=8.0, seed=0, targets=["q_proj"])
    with pytest.raises(ModelError, match="36 tensors do not match") as caught:
        lora.load_into(model.network, lora.to_adapter(load_tiny(folder).network, alpha=8.0, base_name="tiny"))
    assert caught.value.code == "model.bad_adapter"


def test_dropout_falls_where_pefts_does(folder: Path, tmp_path: Path) -> None:
    """Same random state, same dropped inputs: forward and gradients agree, and the mode decides."""
    model = load_tiny(folder, dropout=0.25)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.25, target_modules=list(lora.ALL_LINEAR))
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    theirs: Any = get_peft_model(base, config)
    parameters = dict(theirs.named_parameters())
    for name, parameter in lora.trainable(model.network).items():
        module, _, side = name.rpartition(".")
        parameters[f"base_model.model.{module}.{side}.default.weight"].data.copy_(parameter)
    model.network.train()
    theirs.train()
    torch.manual_seed(11)
    ours_hidden = answer(model)
    torch.manual_seed(11)
    their_hidden = theirs.base_model.model.model(input_ids=IDS).last_hidden_state[0]
    torch.testing.assert_close(ours_hidden, their_hidden, rtol=1e-4, atol=2e-5)
    ours_hidden.pow(2).sum().backward()
    their_hidden.pow(2).sum().backward()
    for name, parameter in lora.trainable(model.network).items():
        module, _, side = name.rpartition(".")
        expected = parameters[f"base_model.model.{module}.{side}.default.weight"].grad
        torch.testing.assert_close(parameter.grad, expected, rtol=2e-3, atol=1e-3)
    with torch.no_grad():
        assert not torch.equal(answer(model), answer(model))
        model.network.eval()
        assert torch.equal(answer(model), answer(model))


def test_disabled_is_the_base_model(folder: Path) -> None:
    model, base = load_tiny(folder), load_model(open_weights(folder), dtype=torch.float32)
    with torch.no_grad():
        with lora.disabled(model.network):
            assert torch.equal(answer(model), answer(base))
        assert not torch.equal(answer(model), answer(base))
        with pytest.raises(KeyError), lora.disabled(model.network):
            raise KeyError
        assert not torch.equal(answer(model), answer(base)), "on again after a failure too"


def test_bfloat16_gradients_are_close_to_float32s(folder: Path) -> None:
    batch = to_batch(random_examples(6), tokens_per_piece=10_000)
    exact, rough = (loss_and_gradients(load_tiny(folder, dtype=d), batch) for d in (torch.float32, torch.bfloat16))
    assert rough[0] == pytest.approx(exact[0], rel=0.02)
    for name, gradient in rough[1].items():
        assert gradient.dtype == torch.float32
        cosine = nn.functional.cosine_similarity(gradient.flatten(), exact[1][name].flatten(), dim=0)
        assert cosine > 0.98, name


def test_an_unknown_target_names_the_nearest(folder: Path) -> None:
    model = load_model(open_weights(folder), dtype=torch.float32)
    with pytest.raises(ModelError, match=r"'qproj'; did you mean 'q_proj'\?"):
        lora.inject(model.network, rank=4, alpha=8.0, seed=0, targets=["qproj"])
