"""The parity gate on the real starter model with a random adapter; each fault is injected into a real file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from fledge.data.template import ChatTemplate
from fledge.errors import ParityError
from fledge.model.adapter import Adapter
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import Weights, open_weights
from fledge.recipes.ship import Reference
from fledge.records import Conversation, Message
from fledge.release import gguf as writer
from fledge.release import parity
from fledge.runtime.logits import logits

NUM_ROWS = 20
# What a fault does is far over any threshold; a few rows show it.
ENOUGH_ROWS = 5
TOPICS = ("files", "dates", "numbers", "words")


class Model:
    """What a finished run is to the gate: base weights and an adapter that moves every logit a little."""

    def __init__(self, path: Path) -> None:
        self.weights: Weights = open_weights(path)
        self.adapter = _adapter(self.weights)


def _adapter(weights: Weights) -> Adapter:
    rng = np.random.default_rng(0)
    rank = 4
    tensors = {}
    for name in weights.names():
        shape = weights.tensor_shape(name)
        if name.endswith("_proj.weight"):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = rng.normal(0, 0.05, (rank, shape[1])).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = rng.normal(0, 0.05, (shape[0], rank)).astype(np.float32)
    targets = tuple(sorted({key.split(".")[-3] for key in tensors}))
    return Adapter(rank=rank, alpha=8, use_rslora=False, target_modules=targets, base_name="starter", tensors=tensors)


@pytest.fixture(scope="module")
def model(starter_gguf: Path) -> Model:
    return Model(starter_gguf)


@pytest.fixture(scope="module")
def rows() -> list[Conversation]:
    awkward = "ways, DON'T!!! guess, to handle x=f(a_b)?\n\n\u6771\u4eac"
    questions = [f"What are the {n} best {awkward} {TOPICS[n % 4]}\t\tin {1990 + n}" for n in range(NUM_ROWS)]
    answer = "The first way is to read them slowly, the second way is to ask somebody who has done it before, twice."
    return [
        Conversation((Message("user", q), Message("assistant", f"{q} {answer}")), f"row {n}")
        for n, q in enumerate(questions)
    ]


@pytest.fixture(scope="module")
def template(model: Model) -> ChatTemplate:
    return ChatTemplate(load_tokenizer(model.weights))


@pytest.fixture(scope="module")
def trained(model: Model) -> Reference:
    return Reference(model.weights, model.adapter)


@pytest.fixture(scope="module")
def gate(rows: list[Conversation], template: ChatTemplate, trained: Reference) -> Callable[[Path, str], parity.Parity]:
    def check(path: Path, kind: str, num_rows: int = NUM_ROWS) -> parity.Parity:
        few = rows[:num_rows]
        return parity.check(
            path, kind=kind, rows=few, template=template, trained=trained, served=lambda text: logits(path, text)
        )

    return check


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_a_right_file_passes(
    kind: str, model: Model, gate: Callable[[Path, str], parity.Parity], tmp_path: Path
) -> None:
    out = tmp_path / "right.gguf"
    writer.write_gguf(out, model.weights, model.adapter, kind)
    found = gate(out, kind)
    assert found.passed, found.faults
    assert found.rows == NUM_ROWS and found.positions >= 20 * 32
    parity.require(found, out)


def _unpermuted(path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "permute_rows", lambda values, heads: values)
    writer.write_gguf(path, model.weights, model.adapter, "q8_0")


def _wrong_end_token(path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write_gguf(path, model.weights, model.adapter, "q8_0")
    field = gguf.GGUFReader(path, "r+").fields["tokenizer.ggml.eos_token_id"]
    field.parts[field.data[0]][0] = 0


def _stale_template(path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    writer.write_gguf(path, model.weights, model.adapter, "q8_0", overrides={"tokenizer.chat_template": stale})


def _wrong_pre_tokenizer(path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    # llama-bpe cuts at line ends and contractions otherwise than this vocabulary was made
    writer.write_gguf(path, model.weights, model.adapter, "q8_0", overrides={"tokenizer.ggml.pre": "llama-bpe"})


def _forgotten_adapter(path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write_gguf(path, model.weights, None, "q8_0")


def _doubled_scale(path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write_gguf(path, model.weights, replace(model.adapter, alpha=2 * model.adapter.alpha), "q8_0")


def _one_corrupted_block(path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write_gguf(path, model.weights, model.adapter, "q8_0")
    tensor = next(t for t in gguf.GGUFReader(path, "r+").tensors if t.name == "blk.12.ffn_down.weight")
    # the high byte of one block's float16 scale: 32 of 135 million weights are 100,000 times too large
    tensor.data[5, 1] = 0x58


@pytest.mark.parametrize(
    ("inject", "told"),
    [
        (_unpermuted, "KL divergence"),
        (_wrong_end_token, "does not end a turn"),
        (_stale_template, "other token ids"),
        (_wrong_pre_tokenizer, "other token ids"),
        (_forgotten_adapter, "KL divergence"),
        (_doubled_scale, "KL divergence"),
        (_one_corrupted_block, "KL divergence"),
    ],
)
def test_a_faulty_file_is_caught(
    inject: Callable[[Path, Model, pytest.MonkeyPatch], None],
    told: str,
    model: Model,
    gate: Callable[[Path, str, int], parity.Parity],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "faulty.gguf"
    inject(out, model, monkeypatch)
    found = gate(out, "q8_0", ENOUGH_ROWS)
    print(f"KL {found.kl:.4f}, of what is taught {found.kl_taught:.4f}")
    assert any(told in fault for fault in found.faults), found
    if told == "KL divergence":
        assert min(found.kl_taught / found.threshold.kl, found.kl / found.threshold.kl_all) > 1.5, "by far"
    with pytest.raises(ParityError, match=told):
        parity.require(found, out)


def test_every_type_that_is_written_has_a_threshold() -> None:
    from fledge.release.quantize import FILE_TYPES

    assert set(FILE_TYPES) <= set(parity.THRESHOLDS)


def test_nan_fails() -> None:
    broken = [np.full((2, 4), np.nan, np.float32)]
    found = parity.compare_logits([np.zeros((2, 4), np.float32)], broken, [[True, True]], tie_nats=0.0)
    assert not found.kl <= 1e9
    assert not found.kl_taught <= 1e9


def test_agreement_is_that_of_scipy() -> None:
    from scipy.special import log_softmax, rel_entr, softmax

    rng = np.random.default_rng(1)
    ours, theirs = (rng.normal(size=(7, 50)).astype(np.float32) for _ in range(2))
    found = parity.compare_logits(
        [ours[:3], ours[3:]], [theirs[:3], theirs[3:]], [[True] * 3, [False] * 4], tie_nats=0.0
    )
    assert found.kl == pytest.approx(rel_entr(softmax(ours, -1), softmax(theirs, -1)).sum(-1).mean(), rel=1e-5)
    apart = rel_entr(softmax(ours[:3], -1), softmax(theirs[:3], -1)).sum(-1).mean()
    assert found.kl_taught == pytest.approx(apart, rel=1e-5)
    assert found.top1 == (log_softmax(ours, -1).argmax(-1) == theirs.argmax(-1)).mean()
    assert found.top1_taught == (ours[:3].argmax(-1) == theirs[:3].argmax(-1)).mean()
    assert found.positions == 7


def test_a_tie_is_no_disagreement_and_more_than_a_tie_is() -> None:
    ours = np.array([[0.0, 1.0, 0.9]], np.float32)
    theirs = np.array([[0.0, 0.9, 1.0]], np.float32)
    for tie_nats, share in [(0.11, 1.0), (0.09, 0.0)]:
        found = parity.compare_logits([ours], [theirs], [[True]], tie_nats=tie_nats)
        assert (found.top1, found.top1_taught) == (0.0, share)
