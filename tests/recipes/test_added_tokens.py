"""Runs that add tokens: from rows that spell them to files in which each of them is one token and means what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from test_rollouts import save_rl
from transformers import AutoModelForCausalLM, AutoTokenizer

from fledge.config_file import load_config
from fledge.data.template import ChatTemplate
from fledge.errors import ConfigError, ExportError, ModelError, ParityError, RunError
from fledge.model.adapter import CONFIG_NAME, TENSORS_NAME
from fledge.model.combine import Recipe
from fledge.model.safetensors_file import map_safetensors, write_safetensors
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.project import list_runs
from fledge.recipes.combine import combine_runs
from fledge.recipes.forecast import forecast
from fledge.recipes.setup import prepare
from fledge.recipes.ship import export, merge_folder, open_run
from fledge.recipes.tune import Listener, resume, tune
from fledge.release.adapter_gguf import write_adapter_gguf
from fledge.release.gguf import write_gguf
from fledge.runtime.gguf_check import read_header
from fledge.runtime.llama import Llama
from fledge.training import log
from tiny import save_project
from tiny_llama import save_tiny, tiny_config, tiny_model

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TOKENS = ["<cv>", "Grüße!"]
KNOBS = ["data.add_tokens=['<cv>', 'Grüße!']", "data.eval=data/train.jsonl"]
FULL = ["method=full", "train.rank=auto", "train.lr=3e-3"]


def rows(project: Path) -> None:
    """Half of the rows spell the first token in what is asked, the others both in what is answered."""
    path = project / "data" / "train.jsonl"
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(found):
        if number % 2:
            row["question"] = f"<cv>{row['question']}"
        else:
            row["answer"] = f"{row['answer']} <cv>Grüße!<cv>"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model has rows to spare, the same model without as `tight`, and both as files."""
    project = save_project(tmp_path_factory.mktemp("added") / "project", epochs=4)
    rows(project)
    size = load_tokenizer(open_weights(project / "model")).size
    tight = save_tiny(
        project / "tight",
        tiny_model(tiny_config(vocab_size=size, hidden_size=32, intermediate_size=64, tie_word_embeddings=False)),
    )
    (tight / "chat_template.jinja").write_text((project / "model" / "chat_template.jinja").read_text())
    for name in ("model", "tight"):
        write_gguf(project / f"{name}.gguf", open_weights(project / name), None, "f16")
    return project


def pairs(project: Path, name: str) -> None:
    rows = [{"prompt": f"<cv> {n}?", "chosen": f"fox {n} <cv>", "rejected": f"dog {n}"} for n in range(12)]
    (project / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def trained(project: Path, *knobs: str) -> Any:
    tune(project, load_config(project, [*KNOBS, *knobs]))
    return open_run(project, list_runs(project)[-1])


@pytest.mark.parametrize(
    ("base", "method"),
    [("model", "lora"), ("tight", "full"), ("model.gguf", "full"), ("model.gguf", "lora"), ("tight.gguf", "lora")],
)
def test_what_is_exported_spells_and_answers_as_trained(made: Path, base: str, method: str) -> None:
    finished = trained(made, f"model=./{base}", *(FULL if method == "full" else []))
    weights, own = finished.weights, open_weights(made / base)
    spare = base.startswith("model")
    assert weights.shape.vocab_size == own.shape.vocab_size + (0 if spare else 2)
    changed = weights.read("model.embed_tokens.weight")[list(weights.added.values())]
    start = prepare(made, load_config(made, [*KNOBS, f"model=./{base}"])).weights
    assert abs(changed - start.read("model.embed_tokens.weight")[list(weights.added.values())]).max() > 1e-3
    if method == "lora":
        first = min(weights.added.values())
        assert (
            weights.read("model.embed_tokens.weight")[:first] == own.read("model.embed_tokens.weight")[:first]
        ).all()
    told = export(finished, types=["f16", "q8_0"], with_adapter=True)
    assert [entry["kind"] for entry in told["files"]] == ["merged", "merged"]
    assert all(entry["parity"]["passed"] and entry["parity"]["prompt_ids_equal"] for entry in told["files"])
    path = Path(told["files"][0]["path"])
    kv = read_header(path).kv
    for text, number in weights.added.items():
        assert kv["tokenizer.ggml.tokens"][number] == text and kv["tokenizer.ggml.token_type"][number] == 4
    assert len(kv["tokenizer.ggml.tokens"]) == weights.shape.vocab_size
    with Llama(path) as llama:
        assert [llama.tokenize(text, parse_special=False) for text in TOKENS] == [[i] for i in weights.added.values()]
    # The file is a base like any other: its tokens are tokens of its own by now.
    again = load_tokenizer(open_weights(path))
    assert again.encode("a <cv>Grüße!") == load_tokenizer(weights).encode("a <cv>Grüße!")
    assert again.decode(again.encode("a <cv>Grüße!")) == "a <cv>Grüße!"
    with pytest.raises(ConfigError, match="'<cv>' is a token of the model already"):
        prepare(made, load_config(made, [*KNOBS, f"model={path}"]))


@pytest.mark.parametrize("base", ["model", "tight", "tight.gguf"])
def test_other_programs_open_what_was_saved(made: Path, tmp_path: Path, base: str) -> None:
    finished = trained(made, f"model=./{base}")
    merge_folder(finished, tmp_path / "out")
    ours = load_tokenizer(finished.weights)
    text = "the <cv>fox Grüße!<cv>"
    for folder in (tmp_path / "out", finished.run.adapter):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.encode(text, add_special_tokens=False) == ours.encode(text)
        # Of an added token with an umlaut transformers itself decodes the letters as bytes.
        assert tokenizer.decode(ours.encode("the <cv>fox<cv>")) == "the <cv>fox<cv>"
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    network: Any = AutoModelForCausalLM.from_pretrained(made / base.removesuffix(".gguf"), dtype=torch.float32)
    network.resize_token_embeddings(finished.weights.shape.vocab_size, mean_resizing=False)
    adapted = PeftModel.from_pretrained(network, finished.run.adapter).eval()
    ids = torch.tensor([ours.encode(text)])
    torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=0.02, rtol=0.02)
    if base.endswith(".gguf"):
        spec = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        numbers = list(spec["vocab"].values())
        assert len(set(numbers)) == len(numbers) and spec["vocab"][spec["unk_token"]] == ours.size
    # And fledge reads its own folder.
    assert load_tokenizer(open_weights(tmp_path / "out")).encode(text) == ours.encode(text)


@pytest.mark.parametrize("knobs", [["train.dtype=bfloat16"], FULL], ids=["lora", "full"])
def test_it_goes_on_bit_by_bit(made: Path, knobs: list[str]) -> None:
    whole = trained(made, *knobs)

    def stop(step: Any) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, load_config(made, [*KNOBS, *knobs]), listener=Listener(step=stop))
    run = list_runs(made)[-1]
    resume(made, run)
    name = "model/model.safetensors" if "method=full" in knobs else f"adapter/{TENSORS_NAME}"
    assert (run.path / name).read_bytes() == (whole.run.path / name).read_bytes()


def test_preferences_compare_with_the_model_as_it_was(made: Path) -> None:
    pairs(made, "pairs.jsonl")
    knobs = ["objective=dpo", "data.train=data/pairs.jsonl", "data.add_tokens=['<cv>']", "data.eval=none"]
    summary = tune(made, load_config(made, [*knobs, "train.epochs=6"]))
    assert summary["loss_first"] == pytest.approx(0.6931, abs=1e-4)
    assert summary["loss_last"] < 0.5


def test_replies_are_sampled_with_the_rows_of_the_moment(tmp_path: Path) -> None:
    reward = "def reward_mark(reply):\n    return min(reply.count('<cv>'), 4) / 4\n"
    project = save_rl(tmp_path / "project", reward)
    path = project / "data" / "train.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("The ", "<cv> The "), encoding="utf-8")
    summary = tune(project, load_config(project, ["data.add_tokens=['<cv>']", "rl.group=12"]))
    lines = list(log.read(list_runs(project)[0].metrics))
    assert lines[0]["metrics"]["sampler_gap"] < 1e-3 and lines[-1]["metrics"]["sampler_gap"] < 1e-2
    assert summary["reward_last"] > summary["reward_first"] + 0.3
    with pytest.raises(ConfigError, match="its base does not know the added tokens"):
        tune(project, load_config(project, ["data.add_tokens=['<cv>']", "rl.sampler=llama"]))


def test_a_token_that_no_row_holds_is_told(made: Path) -> None:
    notes = prepare(made, load_config(made, ["data.add_tokens=['<cv>', '<none>']"])).notes
    warning = next(note for note in notes if note.startswith("WARNING: data.add_tokens"))
    assert "<none>" in warning and "<cv>" not in warning
    assert any("2 tokens are added, ids" in note and "no token used" in note for note in notes)


def test_a_token_that_no_row_holds_makes_another_run(made: Path) -> None:
    knobs = [["train.ram=4GB", f"data.add_tokens={told}"] for told in ("[]", "['<none>']", "['<none>']")]
    found = [prepare(made, load_config(made, told)).identity for told in knobs]
    assert found[0] != found[1] == found[2]


def test_the_forecast_says_what_learns_and_counts_the_rows(made: Path) -> None:
    told = forecast(made, load_config(made, KNOBS), say=lambda _: None)
    assert all(check["ok"] for check in told["checks"])
    found = [check["found"] for check in told["checks"]]
    assert "adapters beside 14 layers and rows of 2 added tokens" in found


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        (["method=qlora", "model=./model.gguf"], "qlora is served on top of its base file"),
        (["objective=reward", "data.train=data/two.jsonl"], "objective reward hands over an adapter alone"),
        (["train.dora=true"], "on the fast path only, and DoRA"),
        (["train.top_layers=1"], "train.top_layers leaves the embedding as it is"),
        (["train.layers=1"], "train.layers leaves the embedding as it is"),
        (["train.after_prompt=true"], "train.after_prompt leaves"),
        ([*FULL, "train.layers=1"], "train.layers leaves"),
        (["data.add_tokens=['fox', '<|im_end|>']"], "'<|im_end|>' is a token of the model already"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_line(made: Path, knobs: list[str], words: str) -> None:
    pairs(made, "two.jsonl")
    before = len(list_runs(made))
    with pytest.raises(ConfigError, match=words.replace("|", r"\|")) as caught:
        prepare(made, load_config(made, [*KNOBS, "data.eval=none", *knobs]))
    assert "\n" not in str(caught.value) and len(list_runs(made)) == before


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("['']", "a token without a text"),
        ("['  ']", "a token without a text"),
        ("[' <cv>']", "begins or ends with a blank"),
        ('["a\\nb"]', "holds a line break"),
        ("['<cv>', '<b>', '<cv>']", "'<cv>' stands twice"),
    ],
)
def test_texts_that_are_no_tokens_are_refused(made: Path, told: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(made, [f"data.add_tokens={told}"])
    assert "data.add_tokens" in str(caught.value) and "\n" not in str(caught.value)


def test_rows_that_were_not_saved_are_missed(made: Path) -> None:
    finished = trained(made)
    path = finished.run.adapter / TENSORS_NAME
    tensors = {name: stored.read() for name, stored in map_safetensors(path).items() if ".lora_" in name}
    write_safetensors(path, tensors, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not all were saved"):
        open_run(made, finished.run)
    config = finished.run.adapter / CONFIG_NAME
    config.write_text(json.dumps(json.loads(config.read_text()) | {"trainable_token_indices": None}))
    with pytest.raises(ModelError, match="they were added, but not saved.*Train the run again"):
        open_run(made, finished.run)
    finished = trained(made, *FULL)
    path = finished.run.model / "model.safetensors"
    tensors = {n: stored.read() for n, stored in map_safetensors(path).items() if n != "model.embed_tokens.weight"}
    write_safetensors(path, tensors, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="added, but not saved"):
        open_run(made, finished.run)


def test_an_adapter_file_and_a_merge_of_runs_are_refused(made: Path, tmp_path: Path) -> None:
    finished = trained(made, "model=./model.gguf")
    with pytest.raises(ExportError, match=r"no place for added tokens.*--quant q8_0"):
        export(finished, types=[], with_adapter=True)
    with pytest.raises(ExportError, match="no place for added tokens"):
        write_adapter_gguf(tmp_path / "a.gguf", finished.adapter, finished.weights)
    assert not (tmp_path / "a.gguf").exists() and not finished.run.release.exists()
    with pytest.raises(RunError, match="tokens were added to it"):
        combine_runs(made, [finished.run, finished.run], Recipe("linear", (0.5, 0.5)))
    with pytest.raises(ModelError, match="rows for 2 added tokens, the model for 0"):
        write_gguf(tmp_path / "m.gguf", open_weights(made / "model.gguf"), finished.adapter, "f16")


def test_a_file_that_spells_a_token_otherwise_does_not_pass(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = trained(made, "model=./model.gguf")
    monkeypatch.setattr("fledge.release.metadata._grown", lambda kv, weights: {})
    with pytest.raises(ParityError, match="prompts have other token ids than in training"):
        export(finished, types=["f16"], with_adapter=False)


def test_what_is_shown_of_data_has_the_tokens(made: Path) -> None:
    setup = prepare(made, load_config(made, KNOBS))
    assert isinstance(setup.template, ChatTemplate)
    ids = {i for example in setup.lesson.examples for i in example.ids}
    assert set(setup.weights.added.values()) <= ids
