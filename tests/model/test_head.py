"""Log-probabilities and losses are those of torch's own functions."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch.nn import functional

from fledge.model.engine import head as lm_head
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.kernels import Kernels
from fledge.model.engine.plain import PlainKernels
from fledge.objective import OBJECTIVES
from fledge.objective.scored import Scored
from fledge.objective.sft import sft

U, D, V = 37, 24, 211


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def _kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with the compiled kernels and with those in torch."""
    monkeypatch.setattr(sys.modules[__name__], "KIND", request.param)


KIND = ""


def token_logps(hidden: torch.Tensor, head: torch.Tensor, target: torch.Tensor, softcap: float = 0) -> torch.Tensor:
    kernels: Kernels = kernels_for(head.dtype) if KIND == "compiled" else PlainKernels("test", head.dtype)
    assert kernels.name == KIND
    return lm_head.token_logps(hidden, head, target, kernels=kernels, softcap=softcap)


def plain(hidden: torch.Tensor, head: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.log_softmax(hidden.float() @ head.float().t(), dim=-1).gather(-1, target[:, None])[:, 0]


def drawn(dtype: torch.dtype, *, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = (scale * torch.randn(U, D, generator=generator)).to(dtype)
    head = torch.randn(V, D, generator=generator).to(dtype)
    return hidden, head, torch.randint(V, (U,), generator=generator)


@pytest.mark.parametrize("rows_per_tile", [1, 5, 36, 37, 38, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_log_softmaxs(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, rows_per_tile: int
) -> None:
    monkeypatch.setattr(lm_head, "tile_rows", lambda vocab: rows_per_tile)
    hidden, head, target = drawn(dtype)
    scale = torch.linspace(-1, 1, U)
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    found, expected = token_logps(ours, head, target), plain(theirs, head, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6)
    (found * scale).sum().backward()
    (expected * scale).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert ours.grad.dtype == dtype
    error = (ours.grad.float() - theirs.grad.float()).norm() / theirs.grad.float().norm()
    assert error < tolerance


def test_float64_stays_float64_and_passes_gradcheck() -> None:
    hidden, head, target = drawn(torch.float64)
    assert token_logps(hidden, head, target).dtype == torch.float64
    few = hidden[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda h: token_logps(h, head, target[:5]), few)


def test_extreme_logits_stay_finite() -> None:
    hidden, head, target = drawn(torch.float32, scale=300.0)
    hidden.requires_grad_()
    logps = token_logps(hidden, head, target)
    logps.sum().backward()
    torch.testing.assert_close(logps, plain(hidden, head, target), rtol=1e-5, atol=1e-3)
    assert logps.isfinite().all()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_without_gradients_none_is_formed() -> None:
    hidden, head, target = drawn(torch.float32)
    assert token_logps(hidden, head, target).grad_fn is None
    with torch.no_grad():
        assert token_logps(hidden.requires_grad_(), head, target).grad_fn is None


def test_no_rows_and_a_trained_head() -> None:
    hidden, head, target = drawn(torch.float32)
    assert token_logps(hidden[:0], head, target[:0]).shape == (0,)
    with pytest.raises(AssertionError, match="told by"):
        token_logps(hidden, head.requires_grad_(), target)


def scored(logps: torch.Tensor, weight: torch.Tensor, step_weight: float) -> Scored:
    return Scored(logps, torch.zeros(len(logps), dtype=torch.int64), weight, {}, step_weight)


def test_sft_is_cross_entropy_over_the_taught_tokens() -> None:
    hidden, head, target = drawn(torch.float32)
    hidden.requires_grad_()
    loss = sft(scored(token_logps(hidden, head, target), torch.ones(U), float(U)))
    expected = functional.cross_entropy(hidden @ head.t(), target)
    torch.testing.assert_close(loss.value, expected, rtol=1e-6, atol=0)
    ours, theirs = (torch.autograd.grad(value, hidden)[0] for value in (loss.value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_sft_weights_tokens_and_its_shares_add_up() -> None:
    hidden, head, target = drawn(torch.float32)
    logps = token_logps(hidden, head, target)
    weight = torch.rand(U, generator=torch.Generator().manual_seed(1))
    whole = float(weight.sum())
    expected = -math.fsum((logps.double() * weight.double()).tolist()) / math.fsum(weight.tolist())
    assert float(sft(scored(logps, weight, whole)).value) == pytest.approx(expected, rel=1e-6)
    shares = [float(sft(scored(logps[part], weight[part], whole)).value) for part in (slice(0, 5), slice(5, U))]
    assert sum(shares) == pytest.approx(expected, rel=1e-6)


def test_every_objective_has_a_name() -> None:
    assert OBJECTIVES["sft"].function is sft
