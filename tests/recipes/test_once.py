"""What a run computes once and remembers gives what would be computed anew: lower layers, and prompts (aLoRA)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM

from fledge.config import Config, TrainConfig
from fledge.config_file import load_config
from fledge.errors import ConfigError, DataError, ExportError
from fledge.model.adapter import load_adapter, save_adapter
from fledge.model.causal import CausalModel
from fledge.model.lora import LoraSettings
from fledge.model.weights import open_weights
from fledge.objective.sft import sft
from fledge.project import find_run
from fledge.recipes import once
from fledge.recipes.forecast import forecast
from fledge.recipes.prepare import after_prompt
from fledge.recipes.setup import prepare
from fledge.recipes.ship import export, merge_folder, open_run
from fledge.recipes.target import serve_target
from fledge.recipes.tune import Listener, resume, tune
from fledge.records import Example, Message
from fledge.release.adapter_gguf import write_adapter_gguf
from fledge.runtime.llama import Llama, Sampling
from fledge.runtime.logits import Scoring, logits
from fledge.training.batch import to_batch
from fledge.training.loop import Step
from fledge.training.score import measured
from tiny import load_tiny, loss_and_gradients, random_examples, save_project, save_tiny_model, tries

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
INVOCATION = (5, 9)
TOP = TrainConfig(top_layers=1)
ALORA = TrainConfig(after_prompt=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("once") / "model", num_hidden_layers=3)


def agree(found: tuple[float, Any], expected: tuple[float, Any], tolerance: float) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert set(found[1]) == set(expected[1])
    whole = max(float(g.norm()) for g in expected[1].values())
    for name, gradient in expected[1].items():
        assert float((found[1][name] - gradient).norm()) <= tolerance * float(gradient.norm()) + 1e-6 * whole, name


@pytest.fixture(scope="module")
def top(folder: Path) -> CausalModel:
    return load_tiny(folder, dtype=torch.float64, layers=range(2, 3))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(examples=tries(vocabulary=4), tokens=st.sampled_from([3, 8, 20, 10_000]), data=st.data())
def test_remembered_lower_layers_are_what_would_be_computed(
    top: CausalModel, examples: list[Example], tokens: int, data: st.DataObject
) -> None:
    memory = once.remember(top, TOP, once.places_of(TOP, examples))
    assert memory is not None
    numbers = data.draw(st.lists(st.integers(0, len(examples) - 1), min_size=1, max_size=6))
    rows = [examples[i] for i in numbers]
    anew = loss_and_gradients(top, to_batch(rows, tokens_per_piece=tokens))
    remembered = loss_and_gradients(top, to_batch(rows, tokens_per_piece=tokens, memory=memory, numbers=numbers))
    agree(remembered, anew, 1e-10)


def test_the_top_layers_alone_are_computed(folder: Path) -> None:
    """Nothing below the adapter is multiplied with any more: without those weights the step is the same."""
    model = load_tiny(folder, layers=range(2, 3))
    examples = random_examples(6)
    memory = once.remember(model, TOP, once.places_of(TOP, examples))
    batch = to_batch(examples, tokens_per_piece=60, memory=memory, numbers=range(6))
    expected = loss_and_gradients(model, batch)
    for block in model.decoder.blocks[:2]:  # type: ignore[attr-defined]
        block.weights["gate_up"].fill_(float("nan"))
    agree(loss_and_gradients(model, batch), expected, 1e-12)


def asked(count: int, *, seed: int = 0) -> list[Example]:
    """Rows as prompt, invocation, answer; prompts share beginnings, and some hold the invocation earlier too."""
    rows = []
    for number, example in enumerate(random_examples(count, seed=seed, shared=7)):
        middle = len(example.ids) // 2
        earlier = list(INVOCATION) if number % 3 == 0 else []
        ids = [*example.ids[:3], *earlier, *example.ids[3:middle], *INVOCATION, *example.ids[middle:]]
        answer = len(example.ids) - middle
        rows.append(replace(example, ids=ids, weights=[0.0] * (len(ids) - answer) + [1.0] * answer))
    # the same prompt twice, with answers that begin alike; and a prompt that is the beginning of another row's answer
    twin = rows[1]
    rows.append(replace(twin, ids=[*twin.ids[:-1], 17], weights=list(twin.weights)))
    return rows


def as_peft(folder: Path, model: CausalModel, tmp_path: Path) -> Any:
    adapter = replace(
        model.adapter(LoraSettings(rank=4, alpha=8.0), base_name=str(folder)), invocation_tokens=INVOCATION
    )
    save_adapter(adapter, tmp_path / "adapter")
    assert load_adapter(tmp_path / "adapter").invocation_tokens == INVOCATION
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)


@pytest.mark.parametrize("tokens", [10_000, 60, 10])
def test_after_the_prompt_alone_is_pefts_activated_lora(folder: Path, tmp_path: Path, tokens: int) -> None:
    model = load_tiny(folder)
    theirs = as_peft(folder, model, tmp_path)
    examples = [after_prompt(example, INVOCATION) for example in asked(8)]
    memory = once.remember(model, ALORA, once.places_of(ALORA, examples))
    numbers = [3, 0, 8, 1, 2, 7]
    rows = [examples[i] for i in numbers]
    batch = to_batch(rows, tokens_per_piece=tokens, memory=memory, numbers=numbers)
    total = 0.0
    for row in rows:
        ids, weights = torch.tensor([row.ids]), torch.tensor(row.weights)[1:]
        logps = functional.log_softmax(theirs(input_ids=ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
        loss = -(logps * weights).sum() / batch.weight
        loss.backward()
        total += float(loss.detach())
    expected = {n.replace(".default", ""): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    agree(loss_and_gradients(model, batch), (total, expected), 1e-3)
    again = to_batch(rows, tokens_per_piece=tokens, memory=remembered(model, rows), numbers=range(len(rows)))
    whole, _ = measured(model, again, sft)
    assert whole == pytest.approx(total, rel=1e-4)
    everywhere = loss_and_gradients(model, to_batch(rows, tokens_per_piece=tokens))
    assert abs(everywhere[0] - total) > 0.05, "an adapter that acts everywhere is another model"


def remembered(model: CausalModel, rows: Sequence[Example]) -> once.Memory:
    memory = once.remember(model, ALORA, once.places_of(ALORA, rows))
    assert memory is not None
    return memory


def test_the_prompt_ends_where_the_answer_opens_for_the_last_time() -> None:
    example = Example([1, 5, 9, 2, 5, 9, 7], [0, 0, 0, 1, 0, 0, 1], "row")
    marked = after_prompt(example, INVOCATION)
    assert (marked.prompt_tokens, marked.weights) == (4, [0, 0, 0, 0, 0, 0, 1])
    with pytest.raises(DataError, match="no answer begins"):
        after_prompt(example, (8, 8))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"top_layers": 9}, "the model has 2 layers"),
        ({"top_layers": 1, "after_prompt": True}, "exclude each other"),
        ({"targets": ["q_proj", "qproj"]}, r"'qproj'; did you mean 'q_proj'\?"),
    ],
)
def test_what_cannot_be_had_is_said_before_the_start(tmp_path: Path, knobs: dict[str, Any], told: str) -> None:
    project = save_project(tmp_path / "project", **knobs)
    with pytest.raises(ConfigError, match=told):
        tune(project, load_config(project))
    assert not (project / "runs").exists()


def test_after_prompt_needs_the_fast_path(tmp_path: Path) -> None:
    setup = prepare(project := save_project(tmp_path / "project"), load_config(project))
    with pytest.raises(ConfigError, match=r"needs the fast path, and a test wants none\."):
        once.check_options(Config(train=ALORA), setup.weights, plain="a test wants none")


@pytest.mark.parametrize("knobs", [{"top_layers": 1}, {"after_prompt": True}])
def test_a_run_learns_and_is_forecast(tmp_path: Path, knobs: dict[str, Any]) -> None:
    project = save_project(tmp_path / "project", epochs=8, **knobs)
    summary = tune(project, load_config(project))
    assert summary["loss_last"] < 0.8 * summary["loss_first"]
    told = forecast(project, load_config(project), say=lambda _: None)
    assert all(check["ok"] for check in told["checks"]), told["checks"]
    adapter = json.loads((find_run(project, "latest").adapter / "adapter_config.json").read_text())
    if "after_prompt" in knobs:
        assert adapter["alora_invocation_tokens"]
    else:
        assert adapter["layers_to_transform"] == [1]


class Stop(Exception):
    """What a test interrupts a run with."""


@pytest.mark.parametrize("knobs", [{"top_layers": 1}, {"after_prompt": True}])
def test_a_run_goes_on_bit_by_bit_with_what_it_remembers(tmp_path: Path, knobs: dict[str, Any]) -> None:
    whole, broken = (save_project(tmp_path / name, dropout=0.1, **knobs) for name in ("whole", "broken"))
    tune(whole, load_config(whole))

    def stop(step: Step) -> None:
        if step.step == 7:
            raise Stop

    with pytest.raises(Stop):
        tune(broken, load_config(broken), listener=Listener(step=stop))
    run = find_run(broken, "latest")
    assert resume(broken, run)["steps"] == 12
    saved = [r.adapter / "adapter_model.safetensors" for r in (find_run(whole, "latest"), run)]
    assert saved[0].read_bytes() == saved[1].read_bytes()


@pytest.fixture(scope="module")
def starter_run(starter_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project over the real starter model with an adapter that acts only after the prompt."""
    project = tmp_path_factory.mktemp("alora")
    (project / "data").mkdir()
    rows = [{"question": f"What is item {n}?", "answer": f"Item {n} is number {n} of my list."} for n in range(24)]
    (project / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (project / "fledge.yaml").write_text(
        "model: smollm2-135m\ndata: {eval: none}\ntrain: {after_prompt: true, epochs: 6, lr: 2e-3}\n", encoding="utf-8"
    )
    tune(project, load_config(project))
    return project


@pytest.mark.slow
def test_what_acts_after_the_prompt_is_exported_as_an_adapter_and_served(starter_run: Path, tmp_path: Path) -> None:
    run = find_run(starter_run, "latest")
    finished = open_run(starter_run, run)
    assert len(finished.adapter.invocation_tokens) > 1
    with pytest.raises(ExportError, match="cannot be merged"):
        merge_folder(finished, tmp_path / "merged")
    said: list[str] = []
    told = export(finished, types=["q8_0"], with_adapter=False, say=said.append)
    assert any("cannot be merged" in line for line in said)
    (entry,) = told["files"]
    assert entry["kind"] == "adapter" and entry["parity"]["passed"]
    served = serve_target(starter_run, run.path.name)
    assert served.path == finished.weights.path and served.adapter == Path(entry["path"])
    with Llama(served.path, adapter=served.adapter, parallel=4) as llama:
        questions = [[Message("user", f"What is item {n}?")] for n in range(6)]
        replies = llama.ask_all(questions, sampling=Sampling(temperature=0.0, max_tokens=16))
    assert all(f"Item {n} is number {n} of my list." in reply.text for n, reply in enumerate(replies)), replies
    # llama.cpp reads the same invocation tokens, and with them answers as trained: another than everywhere
    ids = [*range(100, 120), *finished.adapter.invocation_tokens, *range(200, 210)]
    path = tmp_path / "adapter.gguf"
    write_adapter_gguf(path, finished.adapter, open_weights(finished.weights.path))
    (behind,), (everywhere,), (nowhere,) = (
        list(logits(finished.weights.path, [Scoring(ids, [5, len(ids) - 1])], adapter=adapter, invocation=invocation))
        for adapter, invocation in ((path, finished.adapter.invocation_tokens), (path, ()), (None, ()))
    )
    assert (behind[0] == nowhere[0]).all() and abs(behind[1] - nowhere[1]).max() > 0.1
    assert abs(behind[0] - everywhere[0]).max() > 0.1
