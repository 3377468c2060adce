"""What may be swept, and what is said of everything else before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fledge.config import Config
from fledge.errors import ConfigError
from fledge.recipes.space import Choices, Range, as_record, from_record, read_space, value_of, with_values


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "fledge.yaml").write_text("train: {epochs: 3}\n")
    return tmp_path


def test_ranges_lists_and_what_is_set_for_all(project: Path) -> None:
    space, given, config = read_space(
        project,
        [
            "train.lr=1e-4..1e-2",
            "train.rank=8,16, 32",
            "train.epochs=2..8",
            "train.lora_plus=1.0..8",
            "train.dora=true,false",
            "train.top_layers=1,null",
            "method=lora,qlora",
            "train.dropout=0.1",
            "data.system=You are brief, and kind.",
            "train.targets=[q_proj, v_proj]",
        ],
    )
    assert space == [
        Range("train.lr", 1e-4, 1e-2, whole=False, log=True),
        Choices("train.rank", (8, 16, 32)),
        Range("train.epochs", 2, 8, whole=True, log=False),
        Range("train.lora_plus", 1, 8, whole=False, log=False),
        Choices("train.dora", (True, False)),
        Choices("train.top_layers", (1, None)),
        Choices("method", ("lora", "qlora")),
    ]
    assert given == ["train.dropout=0.1", "data.system=You are brief, and kind.", "train.targets=[q_proj, v_proj]"]
    assert (config.train.dropout, config.train.epochs) == (0.1, 3)
    assert config.data.system == "You are brief, and kind."
    assert config.train.targets == ["q_proj", "v_proj"]
    assert [from_record(as_record(one)) for one in space] == space
    assert str(space[0]) == "train.lr=0.0001..0.01"
    assert str(space[4]) == "train.dora=true,false"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train.lrr=1e-4..1e-2"], "'train.lrr' is not a knob; did you mean 'train.lr'?"),
        (["trian.lr=1,2"], "'trian.lr' is not a knob; did you mean 'train.lr'?"),
        (["train.lr=1e-2..1e-4"], "the range train.lr=1e-2..1e-4 does not go up"),
        (["train.lr=a..b"], "'train.lr=a..b' is no range of numbers"),
        (["train.lr=1..2..3"], "is no range of numbers"),
        (["train.lr=1e-4..7"], "train.lr is 7: input should be less than 1"),
        (["train.rank=0..8"], "train.rank is 0: input should be greater than or equal to 1"),
        (["train.rank=8..16.5"], "train.rank is"),
        (["train.rank=8,16,many"], "train.rank is 'many'"),
        (["train.rank=8,,16"], "is no list of values"),
        (["train.rank=8,16,8"], "'8' stands twice in train.rank=8,16,8"),
        (["train.rank=8,16", "train.rank=32"], "'train.rank' stands twice"),
        (["train.rank=8"], "no knob is given a range or a list to try. For example: fledge sweep train.lr=1e-4..1e-2"),
        ([], "no knob is given a range or a list"),
        (["data.train=a.csv,b.csv"], "'data.train' cannot be swept: it decides what is measured"),
        (["model=a,b"], "'model' cannot be swept"),
        (["train.seed=0..9"], "'train.seed' cannot be swept: it decides which rows are held out"),
        (["train.dtype=bfloat16,float32"], "'train.dtype' cannot be swept"),
        (["generate.temperature=0..1"], "'generate.temperature' cannot be swept"),
        (["method=lora,lorra"], "method is 'lorra'"),
        (["train.rank=8,16", "train.dropout"], "'train.dropout' is not key=value"),
    ],
)
def test_what_cannot_be_swept_is_one_line(project: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(project, arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "command line" in str(caught.value)


def test_values_are_held_and_rounded() -> None:
    lr = Range("train.lr", 1e-4, 1e-2, whole=False, log=True)
    assert lr.holds(1e-3) and lr.holds(1e-2) and not lr.holds(2e-2) and not lr.holds("auto")
    assert lr.rounded(0.00123456) == 0.00123
    assert lr.rounded(0.0099999) == 0.01
    tight = Range("x", 0.12345, 0.12346, whole=False, log=False)
    assert tight.rounded(0.123455) in (0.12345, 0.12346), "never outside of what may be tried"
    epochs = Range("train.epochs", 2, 8, whole=True, log=False)
    assert epochs.holds(3) and epochs.holds(3.0) and not epochs.holds(3.5) and not epochs.holds(True)
    assert epochs.size == 7
    config = with_values(Config(), {"train.lr": 0.01, "method": "qlora"})
    assert (config.train.lr, config.method) == (0.01, "qlora")
    assert value_of(config, "train.lr") == 0.01
    assert value_of(config, "method") == "qlora"
