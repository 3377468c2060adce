"""Runs that train all weights: from rows to files that are what was trained, over folders, files and other models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from fledge.config_file import load_config
from fledge.errors import ConfigError, RunError
from fledge.model.combine import Recipe
from fledge.model.weights import open_weights
from fledge.project import find_run, list_runs, read_json
from fledge.recipes.combine import combine_runs
from fledge.recipes.forecast import forecast
from fledge.recipes.setup import prepare
from fledge.recipes.ship import export, merge_folder, open_run
from fledge.recipes.target import serve_target
from fledge.recipes.tune import Listener, resume, tune
from fledge.release.gguf import write_gguf
from tiny import save_project

FULL = ["method=full", "train.rank=auto", "train.lr=3e-3"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return save_project(tmp_path / "project", epochs=6)


def losses(project: Path) -> list[float]:
    text = list_runs(project)[-1].metrics.read_text(encoding="utf-8")
    return [json.loads(line)["loss"] for line in text.splitlines()]


def trained(project: Path, *knobs: str) -> dict[str, Any]:
    return tune(project, load_config(project, [*FULL, *knobs]))


@pytest.mark.parametrize("base", ["folder", "gguf"])
def test_what_is_exported_is_what_was_trained(project: Path, base: str) -> None:
    knobs = ["data.eval=data/train.jsonl"]
    if base == "gguf":
        write_gguf(project / "base.gguf", open_weights(project / "model"), None, "q8_0")
        knobs.append("model=base.gguf")
    summary = trained(project, *knobs)
    run = list_runs(project)[-1]
    assert summary["loss_last"] < 0.6 * summary["loss_first"]
    assert summary["eval_loss"] < summary["eval_before"]["loss"], "the base is measured before it changes"
    assert summary["adapter"] is None and Path(summary["model"]) == run.model.resolve()
    numbers = sum(open_weights(project / "model").read(name).size for name in open_weights(project / "model").names())
    assert summary["trainable_params"] == numbers
    finished = open_run(project, run)
    told = export(finished, types=["f16", "q8_0"], with_adapter=True)
    assert [entry["type"] for entry in told["files"]] == ["f16", "q8_0"]
    assert all(entry["parity"]["passed"] and entry["kind"] == "merged" for entry in told["files"])
    served = serve_target(project, str(run.number))
    assert served.adapter is None and served.path.name.endswith("q8_0.gguf")
    assert "model_sha256" in read_json(run.manifest)
    assert not run.checkpoints.exists(), "they are larger than the model"


def test_the_merged_folder_opens_in_transformers(project: Path, tmp_path: Path) -> None:
    trained(project)
    finished = open_run(project, list_runs(project)[-1])
    merge_folder(finished, tmp_path / "out")
    network: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), torch.from_numpy(finished.weights.read(name)), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "knobs",
    [
        [],
        ["train.optimizer=adamw8bit", "train.masters=bfloat16", "train.dtype=bfloat16"],
        ["train.optimizer=adafactor", "train.lr=2e-2"],
        ["train.layers=1", "train.dtype=bfloat16"],
        ["train.top_layers=1"],
    ],
    ids=" ".join,
)
def test_it_learns_and_goes_on_bit_by_bit(project: Path, knobs: list[str]) -> None:
    summary = trained(project, *knobs)
    assert summary["loss_last"] < 0.9 * summary["loss_first"]
    whole = (list_runs(project)[-1].model / "model.safetensors").read_bytes()

    def stop(step: Any) -> None:
        if step.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(project, load_config(project, [*FULL, *knobs]), listener=Listener(step=stop))
    run = list_runs(project)[-1]
    assert not run.finished
    again = resume(project, run)
    assert (run.model / "model.safetensors").read_bytes() == whole
    assert again["eval_before"] == summary["eval_before"] and again["loss_last"] == summary["loss_last"]


def test_pieces_change_nothing_but_rounding(project: Path) -> None:
    found = []
    for tokens in (64, 10_000):
        trained(project, f"train.tokens_per_piece={tokens}")
        found.append(losses(project))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_frozen_layers_stay_as_they_were(project: Path) -> None:
    trained(project, "train.layers=1")
    weights = open_run(project, list_runs(project)[-1]).weights
    base = open_weights(project / "model")
    changed = {name for name in base.names() if (weights.read(name) != base.read(name)).any()}
    assert changed == {name for name in base.names() if ".layers.1." in name}
    trained(project, "method=lora", "train.layers=0", "train.lr=1e-2")
    adapter = open_run(project, list_runs(project)[-1]).adapter
    assert adapter is not None and all(".layers.0." in name for name in adapter.tensors)


def test_a_model_without_a_fast_path_is_trained_whole(project: Path) -> None:
    config = GPT2Config(vocab_size=384, n_embd=32, n_layer=2, n_head=2, n_positions=256, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    folder = project / "other"
    GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (project / "model" / name).is_file():
            (folder / name).write_bytes((project / "model" / name).read_bytes())
    summary = trained(project, "model=./other")
    assert summary["loss_last"] < summary["loss_first"] and not summary["exportable"]
    network: Any = AutoModelForCausalLM.from_pretrained(summary["model"])
    assert not torch.equal(network.transformer.h[0].attn.c_attn.weight, GPT2LMHeadModel(config).transformer.h[0].attn.c_attn.weight)  # fmt: skip # noqa: E501
    with pytest.raises(ConfigError, match="float32"):
        prepare(project, load_config(project, [*FULL, "model=./other", "train.dtype=bfloat16"]))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        (["train.rank=8"], "it has no adapter, to which train.rank would belong"),
        (["train.dora=true", "train.lora_plus=4"], "train.dora, train.lora_plus"),
        (["train.masters=bfloat16"], "needs an optimizer that rounds by chance"),
        (["train.layers=1-5"], "the model has layers 0 to 1"),
        (["train.layers=1", "train.top_layers=1"], "exclude each other"),
        (["method=lora", "train.optimizer=adafactor"], "is of method full"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_line(project: Path, knobs: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        prepare(project, load_config(project, [*FULL, *knobs]))
    assert "\n" not in str(caught.value)
    assert not list_runs(project)


@pytest.mark.parametrize("layers", ["2-", "b", "5-2"])
def test_layers_that_are_none_are_refused(project: Path, layers: str) -> None:
    with pytest.raises(ConfigError, match="train.layers"):
        load_config(project, [f"train.layers='{layers}'"])


def test_the_forecast_counts_masters_gradients_and_state(project: Path) -> None:
    plans = {}
    for name, knobs in {
        "adamw": ["train.dtype=bfloat16"],
        "adamw8bit": ["train.dtype=bfloat16", "train.optimizer=adamw8bit"],
        "least": ["train.dtype=bfloat16", "train.optimizer=adamw8bit", "train.masters=bfloat16"],
        "one layer": ["train.dtype=bfloat16", "train.layers=0"],
    }.items():
        plans[name] = prepare(project, load_config(project, [*FULL, *knobs])).plan.parts["trained"]
    assert plans["adamw"] > plans["adamw8bit"] > plans["least"]
    assert plans["one layer"] < plans["adamw"]
    told = forecast(project, load_config(project, FULL), say=lambda _: None)
    assert all(check["ok"] for check in told["checks"])
    assert any("weights themselves" in check["found"] for check in told["checks"])


def test_adapters_alone_are_combined(project: Path) -> None:
    for _ in range(2):
        trained(project)
    runs = [find_run(project, str(number)) for number in (1, 2)]
    with pytest.raises(RunError, match="no adapter to combine"):
        combine_runs(project, runs, Recipe("linear", (0.5, 0.5)))
