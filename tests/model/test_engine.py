"""The engine gives the loss and the gradients of the plain computation, for every family, however a step is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from families import FAMILIES, VOCABULARY, Plain, plain_loop, save_family
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.decoder import read_decoder
from fledge.model.engine.passes import Engine
from fledge.model.engine.plain import PlainKernels
from fledge.model.lora import LoraSettings
from fledge.model.tokens import TreeTokens
from fledge.model.weights import open_weights
from fledge.records import Example
from fledge.training.batch import Batch, to_batch
from tiny import flat, loss_and_gradients, random_examples, tries, wake

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
KINDS = ("compiled", "torch")
Found = tuple[float, dict[str, torch.Tensor]]


def engine(folder: Path, *, dtype: torch.dtype, kind: str = "compiled", recompute: bool = False) -> Engine:
    """The model with adapters away from zero, through the compiled kernels or those in torch."""
    decoder = read_decoder(open_weights(folder), PlainKernels("", dtype), dtype=dtype)
    kernels = kernels_for(dtype) if kind == "compiled" else PlainKernels("test", dtype)
    assert kernels.name == kind, kernels.reason
    model = Engine(decoder, kernels)
    model.add_adapter(LoraSettings(rank=4, alpha=8.0), seed=7)
    model.recompute = recompute
    wake(model)
    return model


def check(ours: Found, theirs: Found, *, loss: float, gradient: float) -> None:
    """Loss and every single adapter gradient agree relatively, unless nothing but rounding is left of a gradient."""
    assert ours[0] == pytest.approx(theirs[0], rel=loss)
    whole = flat([theirs[1][name] for name in ours[1]]).norm()
    for name, own in ours[1].items():
        expected = theirs[1][name].double()
        error = (own.double() - expected).norm()
        assert error <= gradient * expected.norm() + gradient * 1e-4 * whole, name


EXACT = {"loss": 1e-10, "gradient": 1e-8}
ROUNDED = {"loss": 1e-5, "gradient": 1e-3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: save_family(root / name, name) for name in FAMILIES}


def deep_examples() -> list[Example]:
    """A tree four nodes deep: rows that branch, end inside others, stand twice, and are taught in shared parts."""
    rows = random_examples(7, seed=4, vocabulary=VOCABULARY, shared=5)
    longest = max(rows, key=lambda e: len(e.ids))
    cut = len(longest.ids) // 2
    tail = [7, 8, 9, 11, 12]
    rows.append(replace(longest, ids=[*longest.ids[:cut], *tail], weights=[0.0] * cut + [1.0] * 5))
    rows.append(
        replace(longest, ids=[*longest.ids[:cut], *tail[:3], 20, 21], weights=[0.0] * (cut + 2) + [1.0, 0.5, 1.0])
    )
    rows.append(replace(longest, ids=longest.ids[:cut], weights=[0.0, *[0.25] * (cut - 1)]))
    return [*rows, rows[0], replace(rows[1], weights=[0.0, *[1.0] * (len(rows[1].ids) - 1)])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "bounds"), [(torch.float64, EXACT), (torch.float32, ROUNDED)], ids=str)
def test_every_family_is_its_plain_computation(
    folders: dict[str, Path], family: str, kind: str, dtype: torch.dtype, bounds: dict[str, float]
) -> None:
    model = engine(folders[family], dtype=dtype, kind=kind)
    examples = deep_examples()
    expected = plain_loop(folders[family], model)(examples)
    for tokens in (10_000, 60, 30):
        batch = to_batch(examples, tokens_per_piece=tokens)
        check(loss_and_gradients(model, batch), expected, **bounds)


BOUNDS = {torch.float64: EXACT, torch.float32: ROUNDED}


@pytest.fixture(scope="module")
def both(folders: dict[str, Path]) -> dict[tuple[str, torch.dtype], tuple[Engine, Plain]]:
    """Engine and unshared loop, each in the numbers asked for."""
    found = {}
    for family in ("llama", "gemma3"):
        for dtype in BOUNDS:
            model = engine(folders[family], dtype=dtype)
            found[family, dtype] = (model, plain_loop(folders[family], model))
    return found


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(examples=tries(most=6, vocabulary=4, longest=10), tokens=st.sampled_from([1, 4, 9, 15, 10_000]))
def test_any_tree_split_anywhere_is_its_rows(
    both: dict[tuple[str, torch.dtype], tuple[Engine, Plain]],
    family: str,
    dtype: torch.dtype,
    examples: list[Example],
    tokens: int,
) -> None:
    model, plain = both[family, dtype]
    found = loss_and_gradients(model, to_batch(examples, tokens_per_piece=tokens))
    check(found, plain(examples), **BOUNDS[dtype])


def test_a_step_split_at_every_place_gives_the_same(folders: dict[str, Path]) -> None:
    model = engine(folders["qwen3"], dtype=torch.float64)
    examples = deep_examples()
    expected = loss_and_gradients(model, to_batch(examples, tokens_per_piece=10_000))
    seen = set()
    for tokens in range(5, 200):
        batch = to_batch(examples, tokens_per_piece=tokens)
        seen.add((len(batch.pieces), batch.trunk.num_tokens if batch.trunk else 0))
        check(loss_and_gradients(model, batch), expected, **EXACT)
    assert len(seen) > 8, "the step was cut in many ways"


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_recomputed_layers_give_the_same_bits(folders: dict[str, Path], family: str) -> None:
    batch = to_batch(deep_examples(), tokens_per_piece=60)
    kept, recomputed = (
        loss_and_gradients(engine(folders[family], dtype=torch.float32, recompute=r), batch) for r in (False, True)
    )
    assert kept[0] == recomputed[0]
    assert all(torch.equal(g, recomputed[1][name]) for name, g in kept[1].items())


def drops(model: Engine, settings: LoraSettings) -> Engine:
    """The same model with dropout, and the numbers drawn from a fixed seed in every call."""
    assert model.sites is not None
    model.sites.settings = settings
    model.train()
    return model


def test_dropout_recomputes_the_same_bits(folders: dict[str, Path]) -> None:
    batch = to_batch(deep_examples(), tokens_per_piece=60)
    settings = LoraSettings(rank=4, alpha=8.0, dropout=0.3)
    found = []
    for recompute in (False, True):
        model = drops(engine(folders["llama"], dtype=torch.float32, recompute=recompute), settings)
        torch.manual_seed(5)
        found.append(loss_and_gradients(model, batch))
    off = loss_and_gradients(engine(folders["llama"], dtype=torch.float32), batch)
    assert found[0][0] == found[1][0] != off[0]
    assert all(torch.equal(g, found[1][1][name]) for name, g in found[0][1].items())


def test_over_a_trunk_the_gradient_of_dropout_is_that_of_what_was_computed(folders: dict[str, Path]) -> None:
    """With the same draws the loss is a function, whose slope along its gradient is the length of that."""
    model = drops(engine(folders["gemma3"], dtype=torch.float64), LoraSettings(rank=4, alpha=8.0, dropout=0.3))
    batch = to_batch(deep_examples(), tokens_per_piece=40)
    assert batch.trunk is not None and len(batch.pieces) > 2

    def loss() -> tuple[float, dict[str, torch.Tensor]]:
        torch.manual_seed(5)
        return loss_and_gradients(model, batch)

    _, gradients = loss()
    tensors, values = model.adapter_tensors(), []
    for move in (1e-6, -2e-6):
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.add_(gradients[name], alpha=move)
        values.append(loss()[0])
    slope = (values[0] - values[1]) / 2e-6
    assert slope == pytest.approx(sum(float(g.pow(2).sum()) for g in gradients.values()), rel=1e-5)


def test_the_same_step_twice_gives_the_same_bits(folders: dict[str, Path]) -> None:
    batch = to_batch(deep_examples(), tokens_per_piece=60)
    for dtype in (torch.float32, torch.bfloat16):
        first, second = (loss_and_gradients(engine(folders["qwen2"], dtype=dtype), batch) for _ in range(2))
        assert first[0] == second[0]
        assert all(torch.equal(g, second[1][name]) for name, g in first[1].items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_bfloat16_is_close_to_float32(folders: dict[str, Path], family: str, kind: str) -> None:
    batch = to_batch(random_examples(6, vocabulary=VOCABULARY), tokens_per_piece=10_000)
    exact, rough = (
        loss_and_gradients(engine(folders[family], dtype=d, kind=kind), batch) for d in (torch.float32, torch.bfloat16)
    )
    assert rough[0] == pytest.approx(exact[0], rel=0.02)
    whole = flat(list(exact[1].values())).norm()
    for name, gradient in rough[1].items():
        assert gradient.dtype == torch.float32
        assert float((gradient - exact[1][name]).norm()) < 0.1 * float(exact[1][name].norm()) + 0.01 * float(whole), (
            name
        )


def _changed(
    tokens: TreeTokens, node_B5: torch.Tensor | None = None, span_S3: torch.Tensor | None = None
) -> TreeTokens:
    changed = replace(tokens, node_B5=tokens.node_B5 if node_B5 is None else node_B5)
    return changed if span_S3 is None else replace(changed, span_S3=span_S3)


def _with(batch: Batch, tokens: TreeTokens) -> Batch:
    (piece,) = batch.pieces
    return replace(batch, pieces=(replace(piece, tokens=tokens),))


def _wrong_position(batch: Batch) -> Batch:
    tokens = batch.pieces[0].tokens
    return _with(batch, replace(tokens, position_N=torch.arange(tokens.num_tokens)))


def _sibling_seen(batch: Batch) -> Batch:
    """The last branch sees the one before it instead of the last of its ancestors."""
    tokens = batch.pieces[0].tokens
    spans = tokens.span_S3.clone()
    start, end, position = tokens.node_B5[-2, :3].tolist()
    spans[-1] = torch.tensor([start, end - start, position])
    return _with(batch, replace(tokens, span_S3=spans))


def _boundary_token_missing(batch: Batch) -> Batch:
    tokens = batch.pieces[0].tokens
    spans = tokens.span_S3.clone()
    spans[-1, 1] -= 1
    return _with(batch, replace(tokens, span_S3=spans))


def _prefix_counted_once(batch: Batch) -> Batch:
    """A taught token that rows share counts for one of them only."""
    (piece,) = batch.pieces
    first = [i for i, pair in enumerate(piece.pair_M.tolist()) if pair not in piece.pair_M[:i].tolist()]
    kept = torch.tensor(first)
    shorter = replace(
        piece, pair_M=piece.pair_M[kept], sequence_M=piece.sequence_M[kept], weight_M=piece.weight_M[kept]
    )
    return replace(batch, pieces=(shorter,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [_wrong_position, _sibling_seen, _boundary_token_missing, _prefix_counted_once])
def test_negative_control_a_wrong_tree_is_noticed(
    folders: dict[str, Path], fault: Callable[[Batch], Batch], kind: str
) -> None:
    model = engine(folders["llama"], dtype=torch.float64, kind=kind)
    examples = deep_examples()
    batch = to_batch(examples, tokens_per_piece=10_000)
    expected = plain_loop(folders["llama"], model)(examples)
    check(loss_and_gradients(model, batch), expected, **EXACT)
    with pytest.raises(AssertionError):
        check(loss_and_gradients(model, fault(batch)), expected, loss=1e-4, gradient=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["mistral", "qwen2-window", "gemma3"])
def test_negative_control_a_window_that_is_a_token_wider_is_noticed(
    folders: dict[str, Path], family: str, kind: str
) -> None:
    model = engine(folders[family], dtype=torch.float64, kind=kind)
    examples = deep_examples()
    batch = to_batch(examples, tokens_per_piece=10_000)
    expected = plain_loop(folders[family], model)(examples)
    check(loss_and_gradients(model, batch), expected, **EXACT)
    widened = [
        replace(block, heads=replace(block.heads, window=block.heads.window + 1)) if block.heads.window else block
        for block in model.decoder.blocks
    ]
    model.decoder = replace(model.decoder, blocks=widened)
    with pytest.raises(AssertionError):
        check(loss_and_gradients(model, batch), expected, loss=1e-4, gradient=1e-3)


def test_negative_control_a_trunk_whose_gradient_is_lost_is_noticed(folders: dict[str, Path]) -> None:
    model = engine(folders["llama"], dtype=torch.float64)
    examples = deep_examples()
    expected = loss_and_gradients(model, to_batch(examples, tokens_per_piece=10_000))
    batch = to_batch(examples, tokens_per_piece=30)
    assert batch.trunk is not None
    check(loss_and_gradients(model, batch), expected, **EXACT)
    own = model.on_trunk

    def forgetful(tokens: TreeTokens):  # type: ignore[no-untyped-def]
        context = own(tokens)
        kept = context.__enter__()
        kept.grads = torch.zeros_like(kept.grads)
        return _Once(context, kept)

    class _Once:
        def __init__(self, context, kept) -> None:  # type: ignore[no-untyped-def]
            self.context, self.kept, self.real = context, kept, kept.grads

        def __enter__(self):  # type: ignore[no-untyped-def]
            return self.kept

        def __exit__(self, *error: object) -> None:
            self.kept.grads.zero_()
            self.context.__exit__(None, None, None)

    model.on_trunk = forgetful  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        check(loss_and_gradients(model, batch), expected, loss=1e-4, gradient=1e-3)
