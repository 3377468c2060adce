"""All weights trained: the gradients of the plain computation over any tree; what is saved is what was learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engine import BOUNDS, EXACT, KINDS, ROUNDED, check, deep_examples

from families import FAMILIES, VOCABULARY, Plain, plain_weights, save_family
from fledge.errors import ModelError
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.decoder import read_decoder
from fledge.model.engine.passes import Engine
from fledge.model.engine.plain import PlainKernels
from fledge.model.load import load_model
from fledge.model.replaced import Replaced
from fledge.model.weights import open_weights
from fledge.records import Example
from fledge.training.batch import to_batch
from tiny import loss_and_gradients, random_examples, tries


def whole(
    folder: Path,
    *,
    dtype: torch.dtype,
    kind: str = "compiled",
    span: range | None = None,
    masters: torch.dtype = torch.float32,
) -> Engine:
    weights = open_weights(folder)
    kernels = kernels_for(dtype) if kind == "compiled" else PlainKernels("test", dtype)
    assert kernels.name == kind, kernels.reason
    model = Engine(read_decoder(weights, PlainKernels("", dtype), dtype=dtype), kernels)
    model.train_weights(weights, span, masters=masters)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: save_family(root / name, name) for name in FAMILIES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "bounds"), [(torch.float64, EXACT), (torch.float32, ROUNDED)], ids=str)
def test_every_weight_of_every_family_gets_the_gradient_of_the_plain_computation(
    folders: dict[str, Path], family: str, kind: str, dtype: torch.dtype, bounds: dict[str, float]
) -> None:
    model = whole(folders[family], dtype=dtype, kind=kind)
    assert set(model.trained_tensors()) == set(open_weights(folders[family]).names())
    examples = deep_examples()
    expected = plain_weights(folders[family], model)(examples)
    for tokens in (10_000, 60, 30):
        check(loss_and_gradients(model, to_batch(examples, tokens_per_piece=tokens)), expected, **bounds)


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
@pytest.mark.parametrize("span", [range(1, 2), range(2), range(2, 3)], ids=str)
def test_only_the_layers_named_learn(folders: dict[str, Path], family: str, span: range) -> None:
    model = whole(folders[family], dtype=torch.float64, span=span)
    assert {int(name.split(".")[2]) for name in model.trained_tensors()} == set(span)
    expected = plain_weights(folders[family], model)(deep_examples())
    check(loss_and_gradients(model, to_batch(deep_examples(), tokens_per_piece=60)), expected, **EXACT)


@pytest.fixture(scope="module")
def both(folders: dict[str, Path]) -> dict[torch.dtype, tuple[Engine, Plain]]:
    models = {dtype: whole(folders["qwen3"], dtype=dtype) for dtype in BOUNDS}
    return {dtype: (model, plain_weights(folders["qwen3"], model)) for dtype, model in models.items()}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(examples=tries(most=6, vocabulary=4, longest=10), tokens=st.sampled_from([1, 4, 9, 15, 10_000]))
def test_any_tree_split_anywhere_is_its_rows(
    both: dict[torch.dtype, tuple[Engine, Plain]], dtype: torch.dtype, examples: list[Example], tokens: int
) -> None:
    model, plain = both[dtype]
    check(loss_and_gradients(model, to_batch(examples, tokens_per_piece=tokens)), plain(examples), **BOUNDS[dtype])


@pytest.mark.parametrize("fault", ["norm", "embedding", "head", "bias"])
def test_a_gradient_that_is_forgotten_is_seen(
    folders: dict[str, Path], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = whole(folders["qwen2"], dtype=torch.float64)
    expected = plain_weights(folders["qwen2"], model)(deep_examples())
    assert model.trained is not None
    if fault == "norm":
        monkeypatch.setattr("fledge.model.engine.block.norm_weight_grad", lambda *_: None)
    elif fault == "bias":
        model.trained.own[1] = {k: v for k, v in model.trained.own[1].items() if k != "qkv_bias"}
    else:
        monkeypatch.setattr(type(model.trained), f"{fault}_grad", property(lambda self: torch.zeros(VOCABULARY, 32).double()))  # fmt: skip # noqa: E501
    with pytest.raises(AssertionError):
        check(loss_and_gradients(model, to_batch(deep_examples(), tokens_per_piece=60)), expected, **EXACT)


@pytest.mark.parametrize("masters", [torch.float32, torch.bfloat16], ids=str)
def test_in_bfloat16_the_gradients_are_near_and_kept_in_float32(folders: dict[str, Path], masters: torch.dtype) -> None:
    folder = folders["smollm2"]
    model, exact = (whole(folder, dtype=d, masters=masters) for d in (torch.bfloat16, torch.float32))
    batch = to_batch(random_examples(6, vocabulary=VOCABULARY), tokens_per_piece=10_000)
    (loss, found), (expected_loss, expected) = loss_and_gradients(model, batch), loss_and_gradients(exact, batch)
    assert loss == pytest.approx(expected_loss, rel=0.02)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0) > 0.98, name
    kept = {p.dtype for p in model.parameters().values() if p.dim() == 2}
    assert kept == {masters}
    if masters == torch.float32:
        stored = open_weights(folder)
        for name, tensor in model.trained_tensors().items():
            assert np.array_equal(tensor.numpy(), stored.read(name)), "masters begin with the file's own numbers"


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_what_is_saved_is_what_was_learnt(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    model = whole(folders[family], dtype=torch.float32, span=range(1, 3))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    batch = to_batch(random_examples(4, vocabulary=VOCABULARY), tokens_per_piece=10_000)
    loss, _ = loss_and_gradients(model, batch)
    model.save_weights(tmp_path)
    weights = Replaced(open_weights(folders[family]), tmp_path)
    again = load_model(weights, dtype=torch.float32)
    again.train_weights(weights, None)
    assert loss_and_gradients(again, batch)[0] == pytest.approx(loss, rel=1e-6)
    assert not weights.is_stored("model.layers.1.mlp.up_proj.weight")
    assert weights.is_stored("model.layers.0.mlp.up_proj.weight")


def test_weights_of_another_model_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    whole(folders["llama"], dtype=torch.float32).save_weights(tmp_path)
    with pytest.raises(ModelError, match="does not fit its base"):
        Replaced(open_weights(folders["smollm2"]), tmp_path)
