"""Our adapters are PEFT's, on the fast path and the plain one: same start, same answers, same gradients, same files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import LlamaForCausalLM

from fledge.errors import ModelError
from fledge.model.adapter import load_adapter, save_adapter
from fledge.model.causal import CausalModel
from fledge.model.load import load_model
from fledge.model.lora import ALL_LINEAR, LoraSettings, settings_of
from fledge.model.tokens import single
from fledge.model.weights import open_weights
from fledge.training.batch import to_batch
from tiny import flat, loss_and_gradients, random_examples, save_tiny_model, wake

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.randint(0, 384, (1, 23), generator=torch.Generator().manual_seed(3))
SETTINGS = LoraSettings(rank=4, alpha=8.0)
Load = Callable[..., CausalModel]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("lora") / "model")


def fast(folder: Path, dtype: torch.dtype = torch.float32) -> CausalModel:
    return load_model(open_weights(folder), dtype=dtype)


def plain(folder: Path, dtype: torch.dtype = torch.float32) -> CausalModel:
    return load_model(open_weights(folder), dtype=dtype, plain="a test wants it")


both = pytest.mark.parametrize("load", [fast, plain])


def answer(model: CausalModel) -> torch.Tensor:
    """The hidden states of one sequence."""
    return model.hidden(single(IDS[0]))


def ready(load: Load, folder: Path, settings: LoraSettings = SETTINGS, *, seed: int = 7) -> CausalModel:
    model = load(folder)
    model.add_adapter(settings, seed=seed)
    wake(model, seed=seed)
    return model


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
def test_a_new_adapter_changes_nothing(load: Load, folder: Path, dtype: torch.dtype, dora: bool) -> None:
    if dora and load is fast:
        pytest.skip("DoRA takes the plain path")
    model = load(folder, dtype)
    with torch.no_grad():
        before = answer(model)
        model.add_adapter(LoraSettings(rank=4, alpha=8.0, dora=dora), seed=0)
        for training in (False, True):
            model.train(training)
            # A magnitude that is one rounded number over another is not always exactly 1.
            close = (
                {"rtol": 0.05, "atol": 0.1} if dora and dtype == torch.bfloat16 else {"rtol": 0, "atol": 2e-5 * dora}
            )
            torch.testing.assert_close(answer(model), before, **close)


@both
def test_what_is_trained_is_a_and_b_and_nothing_else(load: Load, folder: Path) -> None:
    model = load(folder, torch.bfloat16)
    shape = model.shape
    widths = {
        "q_proj": shape.width + shape.query_width,
        "k_proj": shape.width + shape.key_width,
        "v_proj": shape.width + shape.key_width,
        "o_proj": shape.query_width + shape.width,
        "gate_proj": shape.width + shape.ffn_width,
        "up_proj": shape.width + shape.ffn_width,
        "down_proj": shape.ffn_width + shape.width,
    }
    model.add_adapter(LoraSettings(rank=5, alpha=10.0), seed=0)
    assert sum(p.numel() for p in model.parameters().values()) == 5 * sum(widths.values()) * shape.num_layers
    assert len(model.adapter_tensors()) == 2 * len(ALL_LINEAR) * shape.num_layers
    assert {p.dtype for p in model.parameters().values()} == {torch.float32}, "masters are float32"
    assert set(model.gradients()) == set(model.adapter_tensors())


def test_the_start_depends_on_the_seed_alone_and_is_pefts_distribution(folder: Path) -> None:
    def start(load: Load, seed: int) -> dict[str, torch.Tensor]:
        model = load(folder)
        model.add_adapter(LoraSettings(rank=8, alpha=16.0), seed=seed)
        return {name: tensor.detach().clone() for name, tensor in model.adapter_tensors().items()}

    torch.manual_seed(1)
    first = start(fast, 0)
    torch.manual_seed(2)
    for other in (start(fast, 0), start(plain, 0)):
        assert list(first) == list(other)
        assert all(torch.equal(first[name], other[name]) for name in first)
    name, a = next(iter(first.items()))
    assert not torch.equal(a, start(fast, 1)[name])
    bound = 1 / math.sqrt(a.shape[1])
    assert float(a.abs().max()) <= bound
    assert float(a.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def as_peft(folder: Path, model: CausalModel, settings: LoraSettings, tmp_path: Path) -> Any:
    """PEFT's model over transformers' own, with the adapter that we saved."""
    save_adapter(model.adapter(settings, base_name=str(folder)), tmp_path / "adapter")
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)


VARIANTS = [
    SETTINGS,
    LoraSettings(rank=4, alpha=8.0, rslora=True),
    LoraSettings(rank=5, alpha=3.0, targets=("q_proj", "v_proj")),
    LoraSettings(rank=4, alpha=8.0, targets=("k_proj", "up_proj", "down_proj"), layers=range(1, 3)),
    LoraSettings(rank=4, alpha=8.0, layers=range(2, 3)),
    LoraSettings(rank=4, alpha=8.0, layers=range(1, 2)),
]
DORA = LoraSettings(rank=4, alpha=8.0, dora=True)


@pytest.mark.parametrize(
    ("load", "settings"), [*((load, s) for load in (fast, plain) for s in VARIANTS), (plain, DORA)], ids=str
)
def test_peft_opens_what_we_save_and_gives_the_same_logits_and_gradients(
    load: Load, settings: LoraSettings, folder: Path, tmp_path: Path
) -> None:
    model = ready(load, folder, settings)
    theirs = as_peft(folder, model, settings, tmp_path)
    expected = theirs(input_ids=IDS).logits[0]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(answer(model)), expected, rtol=1e-4, atol=1e-4)
        with theirs.disable_adapter():
            base = theirs(input_ids=IDS).logits[0]
    assert float((expected.detach() - base).abs().max()) > 0.1, "the adapter does something"
    examples = random_examples(3, seed=5)
    batch = to_batch(examples, tokens_per_piece=10_000, trunk=model.has_trunks)
    _, gradients = loss_and_gradients(model, batch)
    theirs.zero_grad()
    for example in examples:
        ids, weights = torch.tensor([example.ids]), torch.tensor(example.weights)[1:]
        logps = functional.log_softmax(theirs(input_ids=ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
        (-(logps * weights).sum() / batch.weight).backward()
    found = {
        name.replace(".default", "").replace("_vector.weight", "_vector"): p.grad
        for name, p in theirs.named_parameters()
        if p.grad is not None
    }
    assert set(found) == set(gradients)
    for name, gradient in gradients.items():
        error = (gradient - found[name]).norm()
        assert error <= 1e-3 * found[name].norm() + 1e-6 * flat(list(found.values())).norm(), name


@both
def test_a_saved_adapter_is_loaded_back_bit_by_bit(load: Load, folder: Path, tmp_path: Path) -> None:
    model, other = ready(load, folder, seed=1), ready(load, folder, seed=2)
    save_adapter(model.adapter(SETTINGS, base_name="tiny"), tmp_path / "adapter")
    adapter = load_adapter(tmp_path / "adapter")
    assert (adapter.rank, adapter.scale, sorted(adapter.target_modules)) == (4, 2.0, sorted(ALL_LINEAR))
    assert settings_of(adapter).layers == range(model.shape.num_layers)
    with torch.no_grad():
        answer(other)
        other.load_adapter(adapter)
        assert torch.equal(answer(model), answer(other)), "what is computed with follows what was loaded"
    for (name, ours), theirs in zip(model.adapter_tensors().items(), other.adapter_tensors().values(), strict=True):
        assert torch.equal(ours, theirs), name


@both
def test_an_adapter_of_other_layers_is_refused(load: Load, folder: Path) -> None:
    model = load(folder)
    model.add_adapter(LoraSettings(rank=4, alpha=8.0, targets=["q_proj"]), seed=0)
    with pytest.raises(ModelError, match="36 tensors do not match") as caught:
        model.load_adapter(ready(load, folder).adapter(SETTINGS, base_name="tiny"))
    assert caught.value.code == "model.bad_adapter"


def test_on_the_plain_path_dropout_falls_where_pefts_does(folder: Path) -> None:
    """Same random state, same dropped inputs: forward and gradients agree, and the mode decides."""
    settings = LoraSettings(rank=4, alpha=8.0, dropout=0.25)
    model = ready(plain, folder, settings)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.25, target_modules=list(ALL_LINEAR))
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    theirs: Any = get_peft_model(base, config)
    parameters = {name.replace(".default", ""): p for name, p in theirs.named_parameters()}
    for name, tensor in model.adapter_tensors().items():
        parameters[name].data.copy_(tensor)
    model.train()
    theirs.train()
    torch.manual_seed(11)
    ours_hidden = answer(model)
    torch.manual_seed(11)
    their_hidden = theirs.base_model.model.model(input_ids=IDS).last_hidden_state[0]
    torch.testing.assert_close(ours_hidden, their_hidden, rtol=1e-4, atol=2e-5)
    ours_hidden.pow(2).sum().backward()
    their_hidden.pow(2).sum().backward()
    for name, gradient in model.gradients().items():
        torch.testing.assert_close(gradient, parameters[name].grad, rtol=2e-3, atol=1e-3)


def test_on_the_fast_path_dropout_is_unbiased_and_its_gradient_that_of_what_was_computed(folder: Path) -> None:
    """The same masks again give a function whose slope along the gradient is the gradient's own length."""
    settings = LoraSettings(rank=4, alpha=8.0, dropout=0.3, targets=("q_proj", "v_proj", "down_proj"))
    model = load_model(open_weights(folder), dtype=torch.float64)
    model.add_adapter(settings, seed=7)
    wake(model)
    weights = torch.randn(IDS.shape[1], model.shape.width, dtype=torch.float64)

    def value(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return (answer(model) * weights).sum()

    model.train()
    value(5).backward()
    gradients = {name: g.clone() for name, g in model.gradients().items()}
    step = 1e-6
    with torch.no_grad():
        assert float(value(5)) == float(value(5)) != float(value(6))
        moved = []
        for sign in (step, -2 * step):
            model.load_adapter(_moved(model, settings, {name: sign * g for name, g in gradients.items()}))
            moved.append(float(value(5)))
        slope = (moved[0] - moved[1]) / (2 * step)
        assert slope == pytest.approx(sum(float(g.pow(2).sum()) for g in gradients.values()), rel=1e-4)
        mean = torch.stack([answer(model) for _ in range(400)]).mean(0)
        model.train(False)
        off = answer(model)
        assert torch.equal(off, answer(model))
        base = load_model(open_weights(folder), dtype=torch.float64)
        assert (mean - off).norm() < 0.3 * (off - answer(base)).norm()


def _moved(model: CausalModel, settings: LoraSettings, by: dict[str, torch.Tensor]) -> Any:
    adapter = model.adapter(settings, base_name="tiny")
    for name, tensor in model.adapter_tensors().items():
        adapter.tensors[name] = (tensor + by[name]).numpy().copy()
    return adapter


@both
def test_disabled_is_the_base_model(load: Load, folder: Path) -> None:
    model, base = ready(load, folder), load(folder)
    with torch.no_grad():
        with model.disabled():
            assert torch.equal(answer(model), answer(base))
        assert not torch.equal(answer(model), answer(base))
        with pytest.raises(KeyError), model.disabled():
            raise KeyError
        assert not torch.equal(answer(model), answer(base)), "on again after a failure too"


@both
def test_an_unknown_target_names_the_nearest(load: Load, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"'qproj'; did you mean 'q_proj'\?"):
        load(folder).add_adapter(LoraSettings(rank=4, alpha=8.0, targets=["qproj"]), seed=0)
