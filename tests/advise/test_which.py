"""What a model's name and configuration say, and which model suits."""

from __future__ import annotations

from typing import Any

import pytest

from fledge.advise.which import Needs, identify, joined, misfits, needs_of, wanted
from fledge.model.catalog import MODELS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", ("SmolLM2", "instruct", 135_000_000, "", "apache-2.0")),
        ("HuggingFaceTB/SmolLM2-1.7B", ("SmolLM2", "base", 1_700_000_000, "", "apache-2.0")),
        ("Qwen/Qwen3-0.6B", ("Qwen3", "instruct", 600_000_000, "", "apache-2.0")),
        ("Qwen/Qwen3-0.6B-Base", ("Qwen3", "base", 600_000_000, "", "apache-2.0")),
        ("Qwen/Qwen2.5-3B-Instruct", ("Qwen2.5", "instruct", 3_000_000_000, "", "qwen-research")),
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", ("Qwen2.5", "code", 500_000_000, "", "apache-2.0")),
        ("Qwen/Qwen2.5-VL-3B-Instruct", ("Qwen2.5", "vision", 3_000_000_000, "", "qwen-research")),
        ("google/gemma-3-1b-it", ("Gemma 3", "instruct", 1_000_000_000, "", "gemma")),
        ("google/gemma-3-270m", ("Gemma 3", "base", 270_000_000, "", "gemma")),
        ("meta-llama/Llama-3.2-1B-Instruct", ("Llama 3.2", "instruct", 1_000_000_000, "", "llama3.2")),
        ("unsloth/Llama-3.2-1B-bnb-4bit", ("Llama 3.2", "base", 1_000_000_000, "bnb-4bit", "llama3.2")),
        ("bartowski/Llama-3.2-1B-Instruct-GGUF", ("Llama 3.2", "instruct", 1_000_000_000, "", "llama3.2")),
        ("SmolLM2-135M-Instruct.Q4_K_M.gguf", ("SmolLM2", "instruct", 135_000_000, "Q4_K_M", "apache-2.0")),
        ("mlx-community/Qwen3-0.6B-4bit-mlx", ("Qwen3", "instruct", 600_000_000, "mlx", "apache-2.0")),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", ("DeepSeek-R1 distilled", "reasoning", 1_500_000_000, "", "mit")),
        ("BAAI/bge-small-embedding", ("", "embedding", 0, "", "")),
        ("somebody/something", ("", "base", 0, "", "")),
    ],
)
def test_a_name_says_what_it_is(name: str, expected: tuple[Any, ...]) -> None:
    found = identify(name)
    assert (found.family, found.variant, found.params, found.stored, found.licence) == expected


def test_a_configuration_says_more_than_the_name() -> None:
    vision = identify("models/mine", {"vision_config": {}, "text_config": {"max_position_embeddings": 4096}})
    assert (vision.variant, vision.context_tokens) == ("vision", 4096)
    assert identify("mine", {"quantization_config": {"quant_method": "gptq"}}).stored == "gptq"
    assert identify("SmolLM2-135M", licence="mit").licence == "mit", "what stands beside the model counts"


def test_every_model_of_the_catalog_is_known_by_its_id() -> None:
    for model in MODELS.values():
        found = identify(model.hub_id)
        assert found.family and found.languages and found.licence == model.licence, model.name
        assert found.variant == "instruct" and found.params == pytest.approx(model.params, rel=0.35)


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ("answer questions about my product in German", Needs(("de",), hard="facts")),
        ("classify support mails", Needs(hard="form")),
        ("write SQL for our tables", Needs(code=True, hard="reasoning")),
        ("continue my novel", Needs(form="text", hard="facts")),
        ("describe photos in French", Needs(("fr",), images=True, hard="facts")),
        ("", Needs(hard="facts")),
    ],
)
def test_a_goal_says_what_is_needed(goal: str, expected: Needs) -> None:
    assert needs_of(goal) == expected


def test_what_does_not_suit_says_why() -> None:
    smol = identify("HuggingFaceTB/SmolLM2-135M-Instruct", {"max_position_embeddings": 8192})
    assert misfits(smol, Needs()) == []
    assert "not trained in de" in misfits(smol, Needs(("de",)))[0]
    assert "little code" in misfits(smol, Needs(code=True))[0]
    assert "300 million" in misfits(smol, Needs(hard="facts"))[0]
    assert "context 8,192" in misfits(smol, Needs(longest_tokens=9000))[0]
    assert "base model answers nobody" in misfits(identify("Qwen/Qwen3-0.6B-Base"), Needs(form="chat"))[0]
    assert "forget how to answer" in misfits(smol, Needs(form="text"))[0]
    assert "can't be trained" in misfits(identify("Qwen3-0.6B-AWQ"), Needs())[0]
    assert misfits(identify("Qwen/Qwen3-1.7B"), Needs(("de", "ja"), code=True, hard="reasoning")) == []


def test_the_variant_follows_from_the_rows() -> None:
    assert wanted(Needs(form="text")).startswith("base")
    assert wanted(Needs(form="chat", rows=300)).startswith("instruct") and "300 rows" in wanted(Needs(rows=300))
    assert wanted(Needs(images=True)).startswith("a vision model")


def test_a_goal_goes_before_the_data_and_the_data_fill_it_up() -> None:
    seen = Needs(("en",), code=True, form="chat", rows=50, longest_tokens=900)
    both = joined(Needs(("de",), hard="form"), seen)
    assert both == Needs(("de",), code=True, form="chat", hard="form", rows=50, longest_tokens=900)
