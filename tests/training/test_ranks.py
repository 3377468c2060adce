"""Two processes that share every step end where one ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny import save_tiny_model

WORKER = """
import json, sys
import torch, torch.distributed as dist
from pathlib import Path
sys.path.insert(0, sys.argv[5])
from fledge.objective.sft import sft
from fledge.data.course import plain
from fledge.training.batch import batches
from fledge.training.loop import Plan, fit
from fledge.training.optim import Schedule, adamw
from fledge.training.ranks import Ranks
from tiny import load_tiny, random_examples

own_sum = Ranks.sum_gradients
def filled(parameters):
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

def doubled(self, parameters):
    parameters = list(parameters)
    own_sum(self, parameters)
    for parameter in parameters:
        parameter.grad.mul_(self.size)

faults = {
    "": {},
    "every rank takes all rows": {"share": lambda self, rows: rows},
    "a rank keeps its gradients": {"sum_gradients": lambda self, parameters: filled(parameters)},
    "a rank divides by its own rows": {"sum_gradients": doubled},
}
for name, function in faults[sys.argv[6]].items():
    setattr(Ranks, name, function)
folder, rank, size, store = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
model = load_tiny(folder, dtype=torch.float64)
# 17 rows, 4 a step: the last step of an epoch has one row, and one rank has none
examples = random_examples(17)
course = plain(17, seed=0)
stream = batches(
    examples, rows_per_step=4, tokens_per_piece=50, course=course, first_step=0, steps=10, ranks=Ranks.here()
)
# SGD: a step is as large as its gradient, so that a gradient twice too large shows
optimizer = torch.optim.SGD(model.parameters().values(), lr=0.0)
steps = fit(model, stream, sft, optimizer, Plan(10, 0, Schedule(0.05, 10, 0.1), 1e9, 1e9, lambda step: None))
if rank == 0:
    told = [(s.loss, s.grad_norm, s.tokens_effective, s.rows) for s in steps]
    print(json.dumps({"steps": told, "end": [float(p.detach().norm()) for p in model.parameters().values()]}))
if size > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def run(folder: Path, size: int, store: Path, fault: str = "") -> dict[str, list[list[float]]]:
    tests = str(Path(__file__).parents[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(rank), str(size), str(store), tests, fault],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [p.returncode for p in processes] == [0] * size, ended[0][1][-2000:]
    found: dict[str, list[list[float]]] = json.loads(ended[0][0].splitlines()[-1])
    return found


needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


def check(one: dict[str, list[list[float]]], two: dict[str, list[list[float]]], *, rel: float) -> None:
    for alone, together in zip(one["steps"], two["steps"], strict=True):
        assert together == pytest.approx(alone, rel=rel)
    assert two["end"] == pytest.approx(one["end"], rel=rel)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[list[float]]]]:
    root = tmp_path_factory.mktemp("ranks")
    folder = save_tiny_model(root / "model", hidden_size=32, num_hidden_layers=2)
    return folder, run(folder, 1, root / "store")


@needs_distributed
def test_two_ranks_are_one(alone: tuple[Path, dict[str, list[list[float]]]], tmp_path: Path) -> None:
    folder, one = alone
    check(one, run(folder, 2, tmp_path / "store"), rel=1e-9)


@needs_distributed
@pytest.mark.parametrize(
    "fault", ["every rank takes all rows", "a rank keeps its gradients", "a rank divides by its own rows"]
)
def test_negative_control_ranks_that_do_not_work_together_are_noticed(
    alone: tuple[Path, dict[str, list[list[float]]]], tmp_path: Path, fault: str
) -> None:
    folder, one = alone
    two = run(folder, 2, tmp_path / "store", fault)
    with pytest.raises(AssertionError):
        check(one, two, rel=1e-3)
