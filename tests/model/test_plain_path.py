"""Any causal model that transformers can load trains, slower but right: against its own rows, one by one, and PEFT."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from families import FAMILIES, save_family
from fledge.errors import ModelError
from fledge.model import attention, plain_path
from fledge.model.load import PlainModel, load_model, plain_reason, prepare_plain
from fledge.model.lora import LoraSettings
from fledge.model.tokens import TreeTokens, single
from fledge.model.weights import open_weights
from fledge.records import Example
from fledge.training.batch import to_batch
from tiny import flat, loss_and_gradients, random_examples, wake

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # Compiling it takes a minute; its mask is the same.
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False.*:UserWarning"),
]

_SIZES = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_USUAL = _SIZES | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
# model type: (settings, whether shared prefixes are computed once)
OTHERS: dict[str, tuple[dict[str, Any], bool]] = {
    "gpt2": (_SIZES | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}, True),
    "gpt_neox": (_USUAL, True),
    "phi": (_USUAL, True),
    "olmo2": (_USUAL, True),
    "gemma2": (_USUAL | {"head_dim": 8, "sliding_window": 5, "num_key_value_heads": 2}, True),
    "granite": (_USUAL | {"logits_scaling": 3.0, "num_key_value_heads": 2}, True),
    "mamba": (_SIZES | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, False),
}  # fmt: skip


def save_other(folder: Path, kind: str) -> Path:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **OTHERS[kind][0]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "conv" not in name and "A_log" not in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(OTHERS))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, PlainModel]:
    folder = save_other(tmp_path_factory.mktemp("others") / request.param, request.param)
    model = load_model(open_weights(folder), dtype=torch.float32)
    assert isinstance(model, PlainModel)
    # PEFT refuses to adapt Mamba's out_proj.
    targets = ("in_proj", "x_proj") if request.param == "mamba" else None
    model.add_adapter(LoraSettings(rank=4, alpha=8.0, targets=targets), seed=7)
    wake(model)
    return request.param, folder, model


def test_where_memory_is_short_layers_are_recomputed_to_the_same(loaded: tuple[str, Path, PlainModel]) -> None:
    kind, folder, model = loaded
    again = load_model(open_weights(folder), dtype=torch.float32, recompute=True)
    targets = ("in_proj", "x_proj") if kind == "mamba" else None
    again.add_adapter(LoraSettings(rank=4, alpha=8.0, targets=targets), seed=7)
    wake(again)
    batch = to_batch(random_examples(5, seed=5, vocabulary=97), tokens_per_piece=10_000, trunk=False)
    kept, recomputed = loss_and_gradients(model, batch), loss_and_gradients(again, batch)
    assert recomputed[0] == pytest.approx(kept[0], rel=1e-6)
    for name, gradient in kept[1].items():
        torch.testing.assert_close(recomputed[1][name], gradient, rtol=1e-4, atol=1e-6)


# Windows that only rows of more than 88 tokens show: told to attention, or hidden in a mask of the model's own.
_MORE = _USUAL | {"num_key_value_heads": 2, "max_position_embeddings": 512, "sliding_window": 100}
WINDOWED: dict[str, tuple[dict[str, Any], bool]] = {
    "phi3": (_MORE, True),
    "olmo3": (_MORE, True),
    "mixtral": (_MORE | {"num_local_experts": 2}, True),
    "phimoe": (_MORE | {"num_local_experts": 2}, False),
    "doge": (_MORE, False),
    "llama4_text": (
        _MORE | {"intermediate_size_mlp": 48, "head_dim": 8, "moe_layers": [], "num_local_experts": 2,
                 "attention_chunk_size": 100, "no_rope_layers": [1, 1], "layer_types": ["chunked_attention"] * 2},
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_window_that_is_wider_than_what_was_tried_is_kept(tmp_path: Path, kind: str) -> None:
    settings, shares = WINDOWED[kind]
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(tmp_path)
    model = load_model(open_weights(tmp_path), dtype=torch.float32)
    assert isinstance(model, PlainModel)
    assert ("shared prefixes once" if shares else "row by row") in model.path
    targets = None if kind == "phi3" else ("q_proj", "v_proj")
    model.add_adapter(LoraSettings(rank=4, alpha=8.0, targets=targets), seed=7)
    wake(model)
    numbers = random.Random(0)
    head, *tails = ([numbers.randrange(3, 97) for _ in range(count)] for count in (40, 130, 140))
    rows = [Example([*head, *tail], [0.0] * 100 + [1.0] * (len(tail) - 60), "r") for tail in tails]
    batch = to_batch(rows, tokens_per_piece=10_000, trunk=False)
    found = loss_and_gradients(model, batch)
    model._by_tree = False
    expected = loss_and_gradients(model, batch)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    ours, theirs = (flat(list(gradients.values())) for _, gradients in (found, expected))
    assert (ours - theirs).norm() <= 1e-4 * theirs.norm()
    if kind == "phimoe":
        model._by_tree = True
        assert (flat(list(loss_and_gradients(model, batch)[1].values())) - theirs).norm() > 0.1 * theirs.norm()


@pytest.mark.parametrize("window", [40, 55])
def test_the_tree_that_is_tried_is_long_enough_to_show_a_hidden_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """One that neither a config nor attention tells of, in a mask of the model's own."""
    settings = WINDOWED["phimoe"][0] | {"sliding_window": window}
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model("phimoe", **settings))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(tmp_path)
    monkeypatch.setattr(plain_path, "_windows", lambda config: set())
    assert "row by row" in load_model(open_weights(tmp_path), dtype=torch.float32).path


def test_only_supervised_tokens_reach_the_head(loaded: tuple[str, Path, PlainModel]) -> None:
    kind, _, model = loaded
    assert model.hidden(single(torch.arange(5))).shape[1] == model.shape.width != 97
    assert model._head.kind == ("module" if kind in ("granite", "phi") else "product")


def test_an_attention_that_needs_more_than_is_known_is_not_taken_for_granted() -> None:
    tree = single(torch.arange(4))
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(NotImplementedError, match="s_aux"):
        attention.tree_attention(torch.nn.Identity(), q, q, q, None, tree=tree, s_aux=torch.zeros(2))


def test_it_trains_as_peft_does_row_by_row(loaded: tuple[str, Path, PlainModel]) -> None:
    kind, folder, model = loaded
    examples = random_examples(5, seed=5, vocabulary=97)
    batch = to_batch(examples, tokens_per_piece=10_000, trunk=model.has_trunks)
    loss, gradients = loss_and_gradients(model, batch)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    targets = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in gradients})
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=kind == "gpt2")
    theirs: Any = get_peft_model(base, config).eval()
    named = {name.replace(".default", ""): p for name, p in theirs.named_parameters()}
    with torch.no_grad():
        for name, tensor in model.adapter_tensors().items():
            named[name].copy_(tensor)
    total = 0.0
    for example in examples:
        ids, weights = torch.tensor([example.ids]), torch.tensor(example.weights)[1:]
        logps = functional.log_softmax(theirs(input_ids=ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
        share = -(logps * weights).sum() / batch.weight
        share.backward()
        total += float(share.detach())
    assert loss == pytest.approx(total, rel=1e-5)
    whole = flat([p.grad for p in named.values() if p.grad is not None]).norm()
    for name, gradient in gradients.items():
        expected = named[name].grad
        assert expected is not None, name
        assert (gradient - expected).norm() <= 2e-3 * expected.norm() + 1e-6 * whole, name


def test_it_says_which_way_it_goes(loaded: tuple[str, Path, PlainModel]) -> None:
    kind, folder, model = loaded
    assert kind in plain_reason(open_weights(folder))
    assert f"there is no fast path for '{kind}' models" in model.path
    assert ("shared prefixes once" if OTHERS[kind][1] else "row by row") in model.path


# A model that sees as well; its text part alone is adapted.
_SEES = {
    "text_config": _USUAL | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6},
    "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "image_size": 28, "patch_size": 14},
    "mm_tokens_per_image": 4,
}  # fmt: skip


def test_of_a_model_that_sees_only_what_reads_is_adapted(tmp_path: Path) -> None:
    AutoModelForImageTextToText.from_config(AutoConfig.for_model("gemma3", **_SEES)).save_pretrained(tmp_path)
    for layers, expected in ((None, {"0", "1"}), (range(1, 2), {"1"}), (range(1), {"0"})):
        model = load_model(open_weights(tmp_path), dtype=torch.float32)
        model.add_adapter(LoraSettings(rank=4, alpha=8.0, layers=layers), seed=7)
        names = list(model.adapter_tensors())
        assert all(".language_model.layers." in name for name in names), names
        assert {name.split(".layers.")[1].split(".")[0] for name in names} == expected
        assert len(names) == 14 * len(expected)


def test_a_router_that_is_made_from_a_linear_layer_is_none(tmp_path: Path) -> None:
    """Llama 4's returns two things; an adapter beside it would break the model."""
    settings, _ = WINDOWED["llama4_text"]
    torch.manual_seed(1)
    sparse = settings | {"moe_layers": [0, 1], "interleave_moe_layer_step": 1, "num_experts_per_tok": 1}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama4_text", **sparse)).save_pretrained(tmp_path)
    model = load_model(open_weights(tmp_path), dtype=torch.float32)
    model.add_adapter(LoraSettings(rank=4, alpha=8.0), seed=7)
    wake(model)
    names = list(model.adapter_tensors())
    assert any("shared_expert" in name for name in names)
    assert not any("router" in name for name in names)
    _, gradients = loss_and_gradients(
        model, to_batch(random_examples(3, vocabulary=97), tokens_per_piece=99, trunk=False)
    )
    assert any(bool(g.any()) for g in gradients.values())


@pytest.mark.parametrize("kind", OTHERS)
def test_what_the_build_tells_of_the_head_is_what_is_found(tmp_path: Path, kind: str) -> None:
    """A forecast has to know before the weights are read."""
    weights = open_weights(save_other(tmp_path / kind, kind))
    model = load_model(weights, dtype=torch.float32)
    assert isinstance(model, PlainModel)
    assert prepare_plain(weights) == (model._head.kind == "all")
    if model._head.kind == "all":
        with pytest.raises(ModelError, match="gives no hidden states"):
            model.add_scalar_head()
    else:
        assert model.add_scalar_head().shape == model.hidden(single(torch.tensor([3, 4, 5]))).shape[1:]


def test_an_adapter_that_the_model_goes_past_is_withdrawn_and_named(tmp_path: Path) -> None:
    """Mamba multiplies with dt_proj's weight by itself: an adapter beside it would learn nothing."""
    model = load_model(open_weights(save_other(tmp_path / "mamba", "mamba")), dtype=torch.float32)
    model.add_adapter(LoraSettings(rank=4, alpha=8.0), seed=7)
    wake(model)
    assert "no adapter beside dt_proj" in model.path
    _, gradients = loss_and_gradients(
        model, to_batch(random_examples(3, vocabulary=97), tokens_per_piece=99, trunk=False)
    )
    assert gradients
    assert all(bool(g.any()) for g in gradients.values())


def test_a_model_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save_other(tmp_path / "m", "gpt2")
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"model_type": "gpt2"', '"model_type": "nonesuch"'), "utf-8")
    with pytest.raises(ModelError, match="transformers cannot load it") as caught:
        load_model(open_weights(folder), dtype=torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma3-caps"])
def test_both_paths_agree(tmp_path: Path, family: str) -> None:
    folder = save_family(tmp_path / family, family)
    batch = to_batch(random_examples(6, vocabulary=97), tokens_per_piece=10_000)
    found = []
    for plain in ("", "a test wants it"):
        model = load_model(open_weights(folder), dtype=torch.float32, plain=plain)
        model.add_adapter(LoraSettings(rank=4, alpha=8.0), seed=7)
        wake(model)
        found.append(loss_and_gradients(model, batch))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    whole = flat(list(found[1][1].values())).norm()
    for name, gradient in found[0][1].items():
        assert (gradient - found[1][1][name]).norm() <= 2e-3 * found[1][1][name].norm() + 1e-6 * whole, name


@pytest.mark.parametrize("window", [None, 7])
def test_flex_attention_sees_what_the_nodes_see(window: int | None) -> None:
    """Only its forward pass exists on a CPU; the mask is what matters."""
    (piece,) = to_batch(random_examples(7, seed=4), tokens_per_piece=10_000).pieces
    tree: TreeTokens = piece.tokens
    assert len(tree.node_B5) > 5
    q, k, v = (torch.randn(1, heads, tree.num_tokens, 16) for heads in (4, 2, 2))
    found = attention.flex_attention(q, k, v, tree, scaling=0.3, window=window)
    expected, _ = attention.tree_attention(
        torch.nn.Identity(), q, k, v, None, tree=tree, scaling=0.3, sliding_window=window
    )
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=1e-4, atol=1e-5)
    wrong, _ = attention.tree_attention(
        torch.nn.Identity(), q, k, v, None, tree=single(tree.ids_N), scaling=0.3, sliding_window=window
    )
    assert (wrong - expected).abs().max() > 0.01


def test_a_real_model_in_bfloat16_shares_prefixes_and_a_fault_in_it_is_found(
    starter_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = open_weights(starter_gguf)
    assert "shared prefixes once" in load_model(weights, dtype=torch.bfloat16, plain="a test wants it").path
    right = attention.tree_attention

    def wrong(*arguments: Any, scaling: float, **options: Any) -> Any:
        return right(*arguments, scaling=0.9 * scaling, **options)

    monkeypatch.setattr(attention, "tree_attention", wrong)
    assert "row by row" in load_model(weights, dtype=torch.bfloat16, plain="a test wants it").path
