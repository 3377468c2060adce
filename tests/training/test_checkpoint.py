"""A checkpoint is whole or not there, is taken only by the run it belongs to, and gives every bit back."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fledge.errors import DiskError, RunError
from fledge.training import checkpoint
from fledge.training.optim import adamw

IDENTITY = "model + rows + knobs"


def make_state(seed: int) -> tuple[dict[str, nn.Parameter], torch.optim.AdamW]:
    """Two parameters with an optimizer that has taken three steps."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        n: nn.Parameter(torch.randn(5, 3, generator=generator)) for n in ("layers.0.lora_A", "layers.0.lora_B")
    }
    optimizer = adamw(parameters, weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = 0.01
    for _ in range(3):
        for parameter in parameters.values():
            parameter.grad = torch.randn(5, 3, generator=generator)
        optimizer.step()
    return parameters, optimizer


def save(folder: Path, step: int, *, seed: int | None = None, identity: str = IDENTITY) -> None:
    parameters, optimizer = make_state(step if seed is None else seed)
    checkpoint.save(folder, step=step, identity=identity, parameters=parameters, optimizer=optimizer)


def load(path: Path, *, identity: str = IDENTITY) -> tuple[int, dict[str, nn.Parameter], torch.optim.AdamW]:
    parameters = {name: nn.Parameter(torch.zeros(5, 3)) for name in make_state(0)[0]}
    optimizer = adamw(parameters, weight_decay=0.1)
    step = checkpoint.load(path, identity=identity, parameters=parameters, optimizer=optimizer)
    return step, parameters, optimizer


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_every_bit_comes_back(tmp_path: Path) -> None:
    parameters, optimizer = make_state(7)
    torch.manual_seed(5)
    torch.rand(3)
    checkpoint.save(tmp_path, step=3, identity=IDENTITY, parameters=parameters, optimizer=optimizer)
    expected = torch.rand(100)
    torch.manual_seed(99)
    found = checkpoint.latest(tmp_path)
    assert found == tmp_path / "step-000003"
    step, again, other = load(found)
    assert step == 3
    assert torch.equal(torch.rand(100), expected), "the random state goes on where it was"
    for name, parameter in parameters.items():
        assert torch.equal(again[name], parameter)
        for moment, value in optimizer.state[parameter].items():
            restored = other.state[again[name]][moment]
            assert restored.dtype == value.dtype
            assert torch.equal(restored, value)
    for both in ((parameters, optimizer), (again, other)):
        for parameter in both[0].values():
            parameter.grad = torch.ones(5, 3)
        both[1].param_groups[0]["lr"] = 0.02
        both[1].step()
    assert all(torch.equal(again[name], parameter) for name, parameter in parameters.items())


def test_nothing_in_it_is_a_pickle(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert names(tmp_path / "step-000001") == ["manifest.json", "state.safetensors"]
    manifest = json.loads((tmp_path / "step-000001" / "manifest.json").read_text())
    assert set(manifest) == {"step", "identity", "bytes", "sha256"}


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-000003", "step-000010"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "no state", "no manifest", "half a manifest", "empty manifest"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    state, manifest = (tmp_path / "step-000002" / name for name in ("state.safetensors", "manifest.json"))
    content = state.read_bytes()
    if damage == "truncate":
        state.write_bytes(content[:-1])
    elif damage == "flip":
        state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no state":
        state.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text('{"step": 2' if damage.startswith("half") else "{}")
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000001"
    save(tmp_path, 2)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000002", "the step is written anew"


def test_damaged_later_ones_do_not_push_out_a_new_one(tmp_path: Path) -> None:
    for step in (5, 8, 9):
        save(tmp_path, step)
    for step in (8, 9):
        (tmp_path / f"step-{step:06d}" / "manifest.json").unlink()
    save(tmp_path, 6)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000006"
    assert names(tmp_path) == ["step-000006"]


def test_another_runs_checkpoint_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 4)
    parameters, optimizer = make_state(1)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    with pytest.raises(RunError, match="have changed") as caught:
        checkpoint.load(tmp_path / "step-000004", identity="other", parameters=parameters, optimizer=optimizer)
    assert caught.value.code == "run.not_resumable"
    assert all(torch.equal(parameters[name], value) for name, value in before.items())


def run_until_killed_at(event_number: int, folder: Path) -> bool:
    """Save step 2 in a child that is killed at its n-th file operation; return whether it was killed."""
    child = os.fork()
    if child == 0:
        seen = 0

        def on_event(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in (
                "open",
                "os.mkdir",
                "os.rename",
                "os.remove",
                "os.rmdir",
                "os.chmod",
                "shutil.rmtree",
                "os.scandir",
            ):
                seen += 1
                if seen == event_number:
                    os.kill(os.getpid(), signal.SIGKILL)

        parameters, optimizer = make_state(2)
        sys.addaudithook(on_event)
        checkpoint.save(folder, step=2, identity=IDENTITY, parameters=parameters, optimizer=optimizer)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_at_any_file_operation_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    expected = {step: make_state(step)[0] for step in (1, 2)}
    left = set()
    for number in range(1, 200):
        folder = tmp_path / str(number)
        save(folder, 0)
        save(folder, 1)
        killed = run_until_killed_at(number, folder)
        found = checkpoint.latest(folder)
        assert found is not None
        step, parameters, _ = load(found)
        left.add(step)
        assert all(torch.equal(parameters[name], value) for name, value in expected[step].items())
        save(folder, 3)
        assert [n for n in names(folder) if n.startswith(".")] == [], "what the kill left is swept up"
        assert checkpoint.latest(folder) == folder / "step-000003"
        if not killed:
            break
    assert not killed
    assert number > 10
    assert left == {1, 2}, "some kills came before the rename, some after"


def test_no_permission_is_a_disk_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DiskError, match="cannot write"):
        save(tmp_path / "locked", 1)
