"""Training over the blocks of a quantised file: the very same numbers in less memory, served on the untouched base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.config_file import load_config
from fledge.errors import ConfigError
from fledge.model.engine.compiled import kernels_for
from fledge.model.engine.decoder import held_bytes, read_decoder
from fledge.model.engine.plain import PlainKernels
from fledge.model.weights import GgufWeights, open_weights
from fledge.project import list_runs, read_json
from fledge.recipes.setup import prepare
from fledge.recipes.ship import export, open_run
from fledge.recipes.target import serve_target
from fledge.recipes.tune import tune
from fledge.release.gguf import write_gguf
from tiny import save_project, save_tiny_model

METHODS = ("lora", "qlora")


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("q4_0", "q5_k_m", "q6_k")]


@pytest.fixture(scope="module", params=["q8_0", "q4_k_m", *SLOW])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project over a small model with an own head, in a file of this type."""
    folder = save_project(tmp_path_factory.mktemp("qlora") / request.param, epochs=2)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "tie_word_embeddings": False}
    base = open_weights(save_tiny_model(folder / "large", **shape))
    write_gguf(folder / "base.gguf", base, None, request.param)
    return folder


def trained(project: Path, method: str, *knobs: str) -> dict[str, Any]:
    return tune(project, load_config(project, ["model=base.gguf", f"method={method}", *knobs]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_is_learnt_to_the_last_bit(project: Path, dtype: str) -> None:
    losses, adapters = [], []
    for method in METHODS:
        summary = trained(project, method, f"train.dtype={dtype}", "train.recompute=false")
        run = list_runs(project)[-1]
        assert (summary["method"], read_json(run.manifest)["summary"]["method"]) == (method, method)
        losses.append([json.loads(line)["loss"] for line in run.metrics.read_text(encoding="utf-8").splitlines()])
        adapters.append((run.adapter / "adapter_model.safetensors").read_bytes())
    assert losses[0] == losses[1]
    assert adapters[0] == adapters[1]
    assert trained(project, "qlora", f"train.dtype={dtype}", "train.recompute=true")["loss_last"] == losses[0][-1]


def test_weights_stay_in_their_blocks(project: Path) -> None:
    weights = open_weights(project / "base.gguf")
    for kernels in (kernels_for(torch.float32), PlainKernels("", torch.float32)):
        whole = read_decoder(weights, kernels, dtype=torch.float32)
        stays = read_decoder(weights, kernels, dtype=torch.float32, stay=True)
        assert not isinstance(stays.embedding_VD, torch.Tensor)
        places = set()
        for one, other in zip(whole.blocks, stays.blocks, strict=True):
            for site, weight in one.weights.items():
                made = other.weights[site]
                assert torch.equal(made, weight)
                places.add(made.data_ptr())
        assert len(places) == 4, "one buffer for each kind of product, whatever the layers"
    dense = sum(weights.tensor_shape(name)[0] * weights.tensor_shape(name)[-1] for name in weights.names()) * 4
    assert isinstance(weights, GgufWeights) and held_bytes(weights, torch.float32) < dense


@pytest.mark.slow
def test_the_adapter_is_served_on_the_untouched_base(tmp_path: Path, starter_gguf: Path) -> None:
    """With the real starter: what llama.cpp answers with base and adapter is what was trained."""
    project = save_project(tmp_path / "project", epochs=1)
    knobs = [f"model={starter_gguf}", "method=qlora", "train.dtype=auto", "train.lr=1e-3"]
    tune(project, load_config(project, knobs))
    run = list_runs(project)[-1]
    finished = open_run(project, run)
    said: list[str] = []
    files = export(finished, types=finished.usual_types, with_adapter=False, say=said.append)["files"]
    assert [file["kind"] for file in files] == ["adapter"] and files[0]["parity"]["passed"]
    assert any("untouched base" in words for words in said)
    served = serve_target(project, str(run.number))
    assert served.path == starter_gguf.resolve() and served.adapter is not None


def test_a_base_without_blocks_is_refused(project: Path, tmp_path: Path) -> None:
    for model in ("./model", "./large"):
        with pytest.raises(ConfigError, match="its weights are not quantised"):
            prepare(project, load_config(project, [f"model={model}", "method=qlora"]))
    with pytest.raises(ConfigError, match="DoRA"):
        prepare(project, load_config(project, ["model=base.gguf", "method=qlora", "train.dora=true"]))


def test_the_forecast_counts_the_blocks(project: Path) -> None:
    plans = {m: prepare(project, load_config(project, ["model=base.gguf", f"method={m}"])).plan for m in METHODS}
    assert plans["qlora"].parts["weights"] < plans["lora"].parts["weights"]
