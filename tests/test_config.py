"""fledge.yaml: every knob once, every mistake with its line and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from fledge.config import Config, knobs
from fledge.config_file import load_config
from fledge.errors import ConfigError


def load(folder: Path, text: str, *overrides: str) -> Config:
    (folder / "fledge.yaml").write_text(text, encoding="utf-8")
    return load_config(folder, overrides)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()
    assert load(tmp_path, "train:\n  # epochs: 3\ndata:\n") == Config(), "a group whose keys are commented out"
    assert load(tmp_path, "\ufefftrain: {lr: 0.1}\n").train.lr == 0.1


def test_every_knob_is_described_and_can_be_set() -> None:
    names = dict(knobs())
    assert len(names) == len(list(knobs()))
    assert all(names.values())
    assert {"model", "train.lr", "data.columns", "release.quant"} <= set(names)
    defaults = Config().model_dump()
    for name in names:
        section, _, key = name.rpartition(".")
        assert key in (defaults[section] if section else defaults)


MISTAKES = [
    ("modle: x\n", "config.unknown_key", ":1", "'modle' is not a knob; did you mean 'model'?"),
    ("model: x\ntrain:\n  lr: 0.1\n  epoch: 3\n", "config.unknown_key", ":4", "did you mean 'train.epochs'?"),
    ("train:\n  xyzzy: 3\n", "config.unknown_key", ":2", "Known: train.epochs, train.lr"),
    ("train: {lr: 7}\n", "config.bad_value", ":1", "train.lr is 7: input should be less than 1 (peak learning rate"),
    ("train:\n\n  dtype: fp16\n", "config.bad_value", ":3", "'auto', 'bfloat16' or 'float32'"),
    ("train: 3\n", "config.bad_value", ":1", "train is 3"),
    ("train: {lr: .nan}\n", "config.bad_value", ":1", "train.lr is nan"),
    ("data: {train: [1, {}]}\n", "config.bad_value", ":1", "data.train is"),
    ("- a\n", "config.bad_yaml", "", "expected `key: value` lines"),
    ("1: a\n", "config.bad_yaml", "", "expected `key: value` lines"),
    ("null: a\n", "config.bad_yaml", "", "expected `key: value` lines"),
    ("model: x\ntrain: [\n", "config.bad_yaml", ":3", "not valid YAML"),
    ("x: !!python/object/apply:os.getcwd []\n", "config.bad_yaml", ":1", "not valid YAML"),
    ("train: {lr: 0.1}\nmodel: x\ntrain: {epochs: 3}\n", "config.bad_yaml", ":3", "'train' stands twice"),
    ("train:\n  lr: 0.1\n  lr: 0.2\n", "config.bad_yaml", ":3", "'lr' stands twice"),
]


@pytest.mark.parametrize(("text", "code", "line", "words"), MISTAKES)
def test_a_mistake_has_its_line_and_says_what_is_meant(
    tmp_path: Path, text: str, code: str, line: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert (caught.value.code, caught.value.where) == (code, f"{tmp_path / 'fledge.yaml'}{line}")
    assert words in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "modle: x\ntrain:\n  lr: fast\n  epochs: many\n")
    assert "3 problems." in str(caught.value)
    for line in (1, 3, 4):
        assert f"fledge.yaml:{line}: " in str(caught.value)


def test_a_folder_without_a_project_and_a_file_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no fledge\.yaml here") as caught:
        load_config(tmp_path)
    assert caught.value.code == "config.not_a_project"
    (tmp_path / "fledge.yaml").write_bytes(b"model: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.lr=1e-3", "train", "lr", 0.001),
        ("train.epochs=auto", "train", "epochs", "auto"),
        ("data.system=Note: be brief", "data", "system", "Note: be brief"),
        ("data.system=Use # marks", "data", "system", "Use # marks"),
        ('data.system=say "it\'s": [', "data", "system", 'say "it\'s": ['),
        ("data.system='42'", "data", "system", "42"),
        ("data.system=null", "data", "system", None),
        ("data.train=[a.jsonl, b.csv]", "data", "train", ["a.jsonl", "b.csv"]),
        ("data.columns={question: Frage}", "data", "columns", {"question": "Frage"}),
        ("release.quant=q4_k_m", "release", "quant", ["q4_k_m"]),
        ("release.adapter=false", "release", "adapter", False),
        ("generate.stop=a=b", "generate", "stop", ["a=b"]),
    ],
)
def test_overrides(tmp_path: Path, override: str, section: str, key: str, value: object) -> None:
    config = load(tmp_path, "train: {seed: 5}\n", override)
    assert config.model_dump()[section][key] == value
    assert config.train.seed == 5


def test_wrong_overrides(tmp_path: Path) -> None:
    for override, words in [
        ("train.lrr=1", "did you mean 'train.lr'?"),
        ("train.lr", "not key=value"),
        ("=3", "not key="),
    ]:
        with pytest.raises(ConfigError, match="command line: ") as caught:
            load(tmp_path, "", override)
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="'train' must be a group of keys"):
        load(tmp_path, "train: 3\n", "train.lr=0.1")


def test_the_model_from_env_file_environment_and_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("# FLEDGE_MODEL=no\nOTHER=1\nFLEDGE_MODEL = 'from-env-file'\n", encoding="utf-8")
    assert load(tmp_path, "model: from-yaml\n").model == "from-env-file"
    monkeypatch.setenv("FLEDGE_MODEL", "from-environment")
    assert load(tmp_path, "model: from-yaml\n").model == "from-environment"
    assert load(tmp_path, "model: from-yaml\n", "model=from-command-line").model == "from-command-line"


def test_a_bad_value_on_the_command_line_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    (tmp_path / "fledge.yaml").write_text("train:\n  epochs: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path, ["train.epochs=abc"])
    assert caught.value.where == "command line"
