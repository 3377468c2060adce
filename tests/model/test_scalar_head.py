"""The head that scores answers: its gradient and the adapter's behind it, whichever way and in whatever pieces."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from families import VOCABULARY, plain_pairs, save_family
from fledge.data.ends import read_at_end
from fledge.errors import ModelError
from fledge.model.adapter import Adapter, load_adapter, save_adapter
from fledge.model.causal import CausalModel
from fledge.model.load import load_model
from fledge.model.lora import LoraSettings
from fledge.model.scalar_head import ScalarHead
from fledge.model.weights import open_weights
from fledge.objective.reward import reward
from fledge.objective.scored import Scored
from fledge.records import Example
from fledge.training.batch import to_batch
from fledge.training.score import of_sequences, scored_pieces
from tiny import wake

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
BOUNDS = {torch.float64: 1e-8, torch.float32: 1e-3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: save_family(root / name, name) for name in ("llama", "qwen3", "gemma3")}


def answers(pairs: int) -> list[Example]:
    """Chosen and rejected answers to questions that begin alike; one answer is the beginning of the other."""
    numbers = random.Random(11)
    found = []
    for pair in range(pairs):
        prompt = [3, 4, 5, *(numbers.randrange(1, VOCABULARY) for _ in range(numbers.randint(1, 6)))]
        chosen = [numbers.randrange(1, VOCABULARY) for _ in range(numbers.randint(2, 9))]
        rejected = chosen[:-1] if pair == 0 else [numbers.randrange(1, VOCABULARY) for _ in range(3)]
        for answer in (chosen, rejected):
            found.append(Example(prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer), f"pair {pair}"))
    return found


def with_head(folder: Path, *, dtype: torch.dtype, plain: str = "") -> CausalModel:
    """A model with adapter and head away from zero."""
    model = load_model(open_weights(folder), dtype=dtype, plain=plain)
    model.add_adapter(LoraSettings(rank=4, alpha=8.0), seed=7)
    wake(model)
    torch.nn.init.normal_(model.add_scalar_head(), generator=torch.Generator().manual_seed(5))
    return model


# transformers' own layers go through float32 whatever they are given, so the plain path is compared in float32.
WAYS = [(torch.float64, ""), (torch.float32, ""), (torch.float32, "a test")]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize(("dtype", "plain"), WAYS, ids=["exact", "rounded", "plain"])
def test_loss_and_gradients_are_those_of_transformers(
    folders: dict[str, Path], family: str, dtype: torch.dtype, plain: str
) -> None:
    model = with_head(folders[family], dtype=dtype, plain=plain)
    examples = answers(5)
    loss, expected = plain_pairs(folders[family], model)(examples)
    assert model.scalar_head is not None
    for tokens in (10_000, 40, 12):
        batch = to_batch([read_at_end(e) for e in examples], tokens_per_piece=tokens, trunk=model.has_trunks, unit=2)
        for parameter in (*model.parameters().values(), model.scalar_head.weight):
            parameter.grad = None
        found = 0.0
        for scored in scored_pieces(model, batch):
            value = reward(scored).value
            value.backward()  # type: ignore[no-untyped-call]
            found += float(value.detach())
        assert found == pytest.approx(loss, rel=BOUNDS[dtype])
        assert model.scalar_head.weight.grad is not None
        whole = torch.cat([g.reshape(-1) for g in expected.values()]).norm()
        for name, own in {**model.gradients(), "score": model.scalar_head.weight.grad}.items():
            error = (own - expected[name]).norm()
            assert error <= BOUNDS[dtype] * (expected[name].norm() + 1e-4 * whole), (name, tokens)


def test_values_are_those_of_the_answers_one_by_one(folders: dict[str, Path]) -> None:
    model = with_head(folders["llama"], dtype=torch.float64)
    examples = [read_at_end(e) for e in answers(7)]
    found = of_sequences(model, examples, Scored.last_values_S, tokens_per_piece=30)
    for example, value in zip(examples, found, strict=True):
        [alone] = scored_pieces(model, to_batch([example], tokens_per_piece=1000))
        assert value == pytest.approx(float(alone.last_values_S().detach()), rel=1e-10)
    assert max(found) - min(found) > 0.1


def test_it_is_read_behind_the_last_taught_token() -> None:
    example = Example([5, 6, 7, 8, 9], [0.0, 0.0, 1.0, 1.0, 0.0], "")
    marked = read_at_end(example)
    assert (marked.ids, marked.weights) == ([5, 6, 7, 8, 8], [0.0, 0.0, 0.0, 0.0, 1.0])
    [piece] = to_batch([marked], tokens_per_piece=100).pieces
    assert piece.tokens.ids_N.tolist() == [5, 6, 7, 8]
    assert piece.predictor_U.tolist() == [3], "the state behind the token that ends the turn"


def test_it_begins_at_zero_in_numbers_that_can_be_trained() -> None:
    head = ScalarHead(8, torch.bfloat16)
    assert not head.weight.any() and head.weight.dtype == torch.float32 and head.weight.requires_grad


def test_the_head_goes_with_the_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    model = with_head(folders["llama"], dtype=torch.float32)
    settings = LoraSettings(rank=4, alpha=8.0)
    save_adapter(model.adapter(settings, base_name="tiny"), tmp_path / "adapter")
    fresh = load_model(open_weights(folders["llama"]), dtype=torch.float32)
    fresh.add_adapter(settings, seed=1)
    fresh.load_adapter(load_adapter(tmp_path / "adapter"))
    examples = [read_at_end(e) for e in answers(3)]
    values = [of_sequences(each, examples, Scored.last_values_S, tokens_per_piece=100) for each in (model, fresh)]
    assert values[0] == values[1]
    other = load_model(open_weights(folders["gemma3"]), dtype=torch.float32)
    other.add_adapter(settings, seed=1)
    adapter = other.adapter(settings, base_name="tiny")
    assert adapter.score is None
    wrong = Adapter(4, 8.0, False, (), "tiny", adapter.tensors, score=model.adapter(settings, base_name="").score[:-1])
    with pytest.raises(ModelError, match="31 numbers, the model's hidden states 32"):
        other.load_adapter(wrong)
