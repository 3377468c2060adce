"""AdamW in eight bits follows AdamW; rounding by chance is right in the mean; runs repeat and resume bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fledge.training import checkpoint, compact_adamw
from fledge.training.compact_adamw import BLOCK, CompactAdamW, stochastic_bfloat16
from fledge.training.optim import BETAS, optimizer_of


def parameter(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
    made.grad_dtype = torch.float32
    return made


def descend(optimizer: torch.optim.Optimizer, own: nn.Parameter, target: torch.Tensor, steps: int) -> list[float]:
    """Go down the noisy slope of a badly conditioned square; return the distance from its bottom at each step."""
    scales = torch.logspace(-3, 0, own.numel()).view(own.shape)
    generator = torch.Generator().manual_seed(5)
    found = []
    for _ in range(steps):
        noise = 0.1 * torch.randn(own.shape, generator=generator)
        own.grad = scales * (own.detach().float() - target + noise)
        optimizer.step()
        found.append(float((own.detach().float() - target).norm()))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_goes_where_adamw_goes(dtype: torch.dtype) -> None:
    target = torch.randn(37, 50, generator=torch.Generator().manual_seed(2))
    ways = {}
    for name in ("adamw", "adamw8bit"):
        own = parameter(37, 50, dtype=torch.float32 if name == "adamw" else dtype)
        optimizer = optimizer_of(name, {"w": own}, weight_decay=0.01)
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        ways[name] = descend(optimizer, own, target, 300)
    for step in (9, 49, 149, 299):
        assert ways["adamw8bit"][step] == pytest.approx(ways["adamw"][step], rel=0.06), step
    assert ways["adamw"][-1] < 0.2 * ways["adamw"][0]


def test_one_step_is_adamws_but_for_the_rounding_of_the_state() -> None:
    """The first step is taken with moments that were not rounded yet."""
    ways = []
    for name in ("adamw", "adamw8bit"):
        own = parameter(300)
        own.grad = torch.randn(300, generator=torch.Generator().manual_seed(1))
        optimizer = optimizer_of(name, {"w": own}, weight_decay=0.1)
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.step()
        ways.append(own.detach())
    torch.testing.assert_close(ways[1], ways[0], rtol=1e-6, atol=1e-7)


def test_the_moments_are_right_in_the_mean() -> None:
    """A gradient that stays the same: the moments that AdamW would have, in the mean over many places."""
    own = parameter(BLOCK * 64)
    own.grad = torch.rand(own.shape, generator=torch.Generator().manual_seed(3)) + 0.01
    optimizer = CompactAdamW([own], lr=0.0, betas=BETAS, weight_decay=0.0)
    for _ in range(40):
        optimizer.step()
    state = optimizer.state[own]
    m = ((state["first"].float() - 128) / 127).view(-1, BLOCK).square() * state["first_scale"][:, None]
    root = (state["second"].float() / 255).view(-1, BLOCK).square() * state["second_scale"][:, None]
    for found, exact in ((m, own.grad * (1 - BETAS[0] ** 40)), (root, own.grad * (1 - BETAS[1] ** 40) ** 0.5)):
        relative = found.flatten() / exact - 1
        assert float(relative.mean()) == pytest.approx(0, abs=0.01)
        assert float(relative.abs().mean()) < 0.1
    assert state["first"].dtype == state["second"].dtype == torch.uint8


def test_moments_of_what_gets_no_more_gradient_fade(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of an embedding that no token names must not drift on; with rounding to the nearest they would."""

    def left(steps: int) -> float:
        own = parameter(BLOCK * 8)
        optimizer = CompactAdamW([own], lr=1.0, betas=BETAS, weight_decay=0.0)
        own.grad = torch.randn(own.shape, generator=torch.Generator().manual_seed(4))
        # One large number keeps every block's scale where it is.
        for _ in range(steps):
            optimizer.step()
            own.grad = torch.zeros_like(own)
            own.grad[::BLOCK] = 1.0
        codes = optimizer.state[own]["first"].view(-1, BLOCK)[:, 1:].float()
        return float(((codes - 128).abs() > 1).float().mean())

    assert left(160) < 0.02
    monkeypatch.setattr(compact_adamw, "_chance", lambda g, seed: tuple(torch.full_like(g, 0.5) for _ in range(3)))
    assert left(160) > 0.2


def test_chance_is_even() -> None:
    for seed in range(3):
        for part in compact_adamw._chance(1 + 1e-3 * torch.randn(100_000), seed=seed * 1_000_003):
            counts = torch.histc(part, bins=16, min=0, max=1) / 6250
            assert float((counts - 1).abs().max()) < 0.08


def test_bfloat16_is_right_in_the_mean_and_leaves_what_fits_alone() -> None:
    chance = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    for value in (1.001, -3.14159, 1e-6, 123.4):
        rounded = stochastic_bfloat16(torch.full((100_000,), value), chance).float()
        assert float(rounded.mean()) == pytest.approx(value, rel=1e-4)
        assert len(rounded.unique()) == 2
    exact = torch.randn(1000).to(torch.bfloat16).float()
    assert torch.equal(stochastic_bfloat16(exact, chance[:1000]).float(), exact)


def test_small_steps_are_not_lost_in_bfloat16() -> None:
    """A step of a thousandth of a weight is too small for eight bits; a hundred of them are not."""
    own = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    own.grad_dtype = torch.float32
    optimizer = CompactAdamW([own], lr=1e-3, betas=BETAS, weight_decay=0.0)
    for _ in range(100):
        own.grad = torch.ones(4096) + 1e-3 * torch.randn(4096)
        optimizer.step()
    assert float(own.detach().float().mean()) == pytest.approx(0.9, abs=0.005)


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_goes_on_from_a_checkpoint_bit_by_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    if dtype == torch.bfloat16 and name != "adamw8bit":
        pytest.skip("refused: it would round steps away")
    target = torch.zeros(30, 20)

    def made() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        own = parameter(30, 20, dtype=dtype)
        optimizer = optimizer_of(name, {"w": own}, weight_decay=0.0)
        optimizer.param_groups[0]["lr"] = 0.01
        return own, optimizer

    own, optimizer = made()
    descend(optimizer, own, target, 7)
    checkpoint.save(tmp_path, step=7, identity="x", parameters={"w": own}, optimizer=optimizer)
    descend(optimizer, own, target, 5)
    other, again = made()
    found = checkpoint.latest(tmp_path)
    assert found is not None
    checkpoint.load(found, identity="x", parameters={"w": other}, optimizer=again)
    descend(again, other, target, 5)
    assert torch.equal(own, other)
