"""Sampling in batches: what is drawn has the probabilities of a whole forward pass, whoever else is under way."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from families import FAMILIES, save_family
from fledge.model.causal import CausalModel
from fledge.model.decode import Anew, Drawing, Drawn, draw, sample
from fledge.model.load import load_model
from fledge.model.lora import LoraSettings
from fledge.model.tokens import single
from fledge.model.weights import open_weights
from fledge.training.rollout import to_prompts
from tiny import load_tiny, save_tiny_model, wake

NEVER: frozenset[int] = frozenset()


def prompts_of(count: int = 4) -> list[list[int]]:
    """Prompts that begin alike, of which one stands twice and one is the beginning of another."""
    numbers = random.Random(1)
    head = [numbers.randrange(384) for _ in range(9)]
    own = [head + [numbers.randrange(384) for _ in range(numbers.randint(1, 12))] for _ in range(count)]
    return [*own, own[0], own[1][:-1]]


def asked_of(prompts: list[list[int]], group: int = 3) -> list[tuple[int, int]]:
    return [(place, 100 * place + turn) for place in range(len(prompts)) for turn in range(group)]


def by_hand(model: CausalModel, prompt: list[int], reply: Drawn, temperature: float) -> list[float]:
    """Return log p of each token of a reply by one pass over the whole sequence."""
    with torch.no_grad():
        hidden = model.hidden(single(torch.tensor(prompt + reply.ids)))
        logits = model.logits(hidden[len(prompt) - 1 : -1]).double() / temperature
    return [float(x) for x in logits.log_softmax(1).gather(1, torch.tensor(reply.ids)[:, None])[:, 0]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("decode") / "model")


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("at_once", [64, 5])
def test_drawn_log_probabilities_are_those_of_a_whole_pass(
    tiny: Path, dtype: torch.dtype, near: float, temperature: float, at_once: int
) -> None:
    model, prompts = load_tiny(tiny, dtype=dtype), prompts_of()
    asked = asked_of(prompts)
    drawing = Drawing(temperature, 11, frozenset(range(0, 384, 9)))
    told: list[int] = []
    # Small pieces: prompts stand on a trunk of their own.
    held = to_prompts(prompts, max_tokens=14)
    replies = sample(model, held, asked, drawing, at_once=at_once, done=told.append)
    assert held.trunk and told[-1] == len(asked)
    assert {reply.ended for reply in replies} == {True, False}
    for (place, _), reply in zip(asked, replies, strict=True):
        assert reply.logps == pytest.approx(by_hand(model, prompts[place], reply, temperature), abs=near)
        assert reply.ended == (reply.ids[-1] in drawing.ends) and not set(reply.ids[:-1]) & drawing.ends
        assert len(reply.ids) == 11 or reply.ended


def test_a_reply_is_what_its_seed_makes_it(tiny: Path) -> None:
    model, prompts = load_tiny(tiny, dtype=torch.float64), prompts_of()
    asked, drawing = asked_of(prompts), Drawing(1.0, 8, NEVER)
    together = sample(model, to_prompts(prompts, max_tokens=64), asked, drawing)
    assert len({tuple(reply.ids) for reply in together[:3]}) == 3, "seeds differ"
    for number, (place, seed) in enumerate(asked):
        (alone,) = sample(model, to_prompts([prompts[place]], max_tokens=64), [(0, seed)], drawing)
        assert alone.ids == together[number].ids


def test_temperature_zero_takes_the_likeliest_token(tiny: Path) -> None:
    model, (prompt, *_) = load_tiny(tiny), prompts_of()
    (reply,) = sample(model, to_prompts([prompt], max_tokens=64), [(0, 5)], Drawing(0.0, 8, NEVER))
    ids = list(prompt)
    for token in reply.ids:
        with torch.no_grad():
            assert token == int(model.logits(model.hidden(single(torch.tensor(ids)))[-1:]).argmax())
        ids.append(token)
    assert reply.logps == pytest.approx(by_hand(model, prompt, reply, 1.0), abs=2e-4)


def test_without_the_adapter_it_is_the_base_that_answers(tiny: Path) -> None:
    model, prompts = load_tiny(tiny, dtype=torch.float64), prompts_of()
    bare = load_model(open_weights(tiny), dtype=torch.float64)
    drawing, asked = Drawing(1.0, 8, NEVER), asked_of(prompts)
    held = to_prompts(prompts, max_tokens=64)
    with model.disabled():
        switched_off = sample(model, held, asked, drawing)
    assert [r.ids for r in switched_off] == [r.ids for r in sample(bare, held, asked, drawing)]
    assert [r.ids for r in switched_off] != [r.ids for r in sample(model, held, asked, drawing)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    """Windows, caps, norms of heads: the replies are longer than the smallest window."""
    weights = open_weights(save_family(tmp_path / "model", family))
    model = load_model(weights, dtype=torch.float64)
    model.add_adapter(LoraSettings(rank=4, alpha=8.0), seed=0)
    wake(model)
    prompts = [[1, 5, 9, 3], [1, 5, 9, 3, 7, 8, 2]]
    replies = sample(model, to_prompts(prompts, max_tokens=64), [(0, 1), (1, 2), (0, 3)], Drawing(1.0, 24, NEVER))
    for place, reply in zip((0, 1, 0), replies, strict=True):
        assert reply.logps == pytest.approx(by_hand(model, prompts[place], reply, 1.0), abs=1e-9)


def test_the_plain_path_draws_the_same(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = load_tiny(tiny, dtype=torch.float64), prompts_of()
    held, asked, drawing = to_prompts(prompts, max_tokens=64), asked_of(prompts), Drawing(1.0, 6, NEVER)
    fast = sample(model, held, asked, drawing)
    monkeypatch.setattr("fledge.model.decode.KeptKeys", lambda model, prompts, **_: Anew(model, prompts))
    slow = sample(model, held, asked, drawing)
    assert [reply.ids for reply in fast] == [reply.ids for reply in slow]
    for one, other in zip(fast, slow, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-11)


def test_draws_follow_the_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, 192, generator=generator)
    logits[:, 190:] = -torch.inf
    count = 200_000
    for temperature in (1.0, 0.5):
        p = (logits.double() / temperature).softmax(1)[0]
        # One draw from each of many equal slices: each token's share is its probability to 1 / count.
        uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        found = torch.zeros(192, dtype=torch.float64)
        for part in uniform.split(20_000):
            ids, logps = draw(logits.expand(len(part), -1).clone(), temperature, part)
            found += torch.bincount(ids, minlength=192)
            assert torch.allclose(logps, p.log()[ids], atol=1e-5)
        assert float((found / count - p).abs().max()) < 3 / count + 1e-6
        assert not found[190:].any(), "what has no probability is never drawn"


def test_the_ends_of_the_distribution() -> None:
    logits = torch.full((2, 128), -torch.inf)
    logits[:, [3, 70]] = 0.0
    ids, logps = draw(logits.clone(), 1.0, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ids.tolist() == [3, 70]
    assert logps.tolist() == pytest.approx([-0.6931471805599453] * 2)
    certain = torch.full((1, 64), -80.0)
    certain[0, 7] = 40.0
    for uniform in (0.0, 0.3, 1 - 2**-53):
        ids, _ = draw(certain.clone(), 1.0, torch.tensor([uniform], dtype=torch.float64))
        assert ids.tolist() == [7]


def test_prompts_share_what_they_begin_with() -> None:
    prompts = prompts_of()
    held = to_prompts(prompts, max_tokens=14)
    numbered = list(itertools.chain.from_iterable(tokens.ids_N.tolist() for tokens in held.trees))
    assert held.num_tokens == len({tuple(ids[: n + 1]) for ids in prompts for n in range(len(ids))})
    for ids, runs in zip(prompts, held.runs, strict=True):
        assert [numbered[first + i] for first, length, _ in runs for i in range(length)] == ids
        assert [position + i for _, length, position in runs for i in range(length)] == list(range(len(ids)))
