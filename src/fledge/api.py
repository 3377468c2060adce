"""fledge from Python: the commands as functions. Thin over recipes, as the command line is.

>>> import fledge
>>> run = fledge.train("my-model", **{"train.epochs": 4})
>>> fledge.export(run)
>>> with fledge.chat("my-model/runs/0001-sft-smollm2-135m") as chat:
...     print(chat.ask("How do I read a CSV file?"))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fledge.config import FILE_NAME, Config
from fledge.config_file import load_config
from fledge.project import RunFolder, find_run
from fledge.records import Message, Reply

if TYPE_CHECKING:
    from fledge.runtime.llama import Llama, Sampling


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what `fledge train --json` says of it."""

    project: Path
    folder: RunFolder
    summary: dict[str, Any]


@dataclass(frozen=True)
class Release:
    """A file that passed the parity gate, with the figures of the gate."""

    path: Path
    kind: str
    type: str
    bytes: int
    bits_per_weight: float
    sha256: str
    parity: dict[str, Any]


def train(project: str | Path, **knobs: Any) -> Run:
    """Train a run of `project`; knobs are those of fledge.yaml, dotted: `**{"train.epochs": 4}`.

    Raises FledgeError as the command does.
    """
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.recipes.tune import tune

    folder = Path(project)
    summary = tune(folder, load_config(folder, [f"{name}={value}" for name, value in knobs.items()]))
    return Run(folder, find_run(folder, summary["run"]), summary)


def export(run: Run, *, quant: Sequence[str] | None = None, adapter: bool = False) -> list[Release]:
    """Write the run's GGUF files, each compared with the trained weights. Raises ParityError where one differs."""
    from fledge.recipes import ship

    finished = ship.open_run(run.project, run.folder)
    exported = ship.export(finished, types=quant or finished.usual_types, with_adapter=adapter)
    return [Release(Path(file.pop("path")), **file) for file in exported["files"]]


def evaluate(
    target: str | Path, *, project: str | Path = ".", data: Path | None = None, against: str | None = None
) -> dict[str, Any]:
    """Return what `fledge eval --json` says of `target`: counts, interval and, with `against`, the paired verdict."""
    from fledge.recipes.assess import assess
    from fledge.recipes.measure import rows_to_ask
    from fledge.recipes.target import serve_target

    folder = Path(project)
    config = load_config(folder)
    rows = rows_to_ask(folder, config, data)
    sides = [serve_target(folder, str(side)) for side in (target, against) if side is not None]
    return assess(sides, rows, config, project=folder)


class Chat:
    """A conversation with a model. A context manager: leaving it ends the llama.cpp worker."""

    def __init__(self, llama: Llama, sampling: Sampling, system: str | None) -> None:
        self._llama, self._sampling = llama, sampling
        self.messages: list[Message] = [Message("system", system)] if system else []

    def ask(self, text: str) -> str:
        """Return the answer to `text`, which goes on with the conversation."""
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """Yield the answer piece by piece. The conversation remembers it once it is whole."""
        asked = [*self.messages, Message("user", text)]
        for piece in self._llama.stream(asked, sampling=self._sampling):
            if isinstance(piece, Reply):
                self.messages = [*asked, Message("assistant", piece.text)]
            else:
                yield piece

    def close(self) -> None:
        self._llama.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def chat(target: str | Path, *, project: str | Path = ".") -> Chat:
    """Open a conversation with a run, a .gguf file or a catalog name."""
    from fledge.recipes.target import serve_target
    from fledge.runtime.llama import Llama, Sampling

    folder = Path(project)
    config = load_config(folder) if (folder / FILE_NAME).is_file() else Config()
    served = serve_target(folder, str(target))
    generate = config.generate
    stop = tuple(generate.stop)
    sampling = Sampling(generate.temperature, max_tokens=generate.max_tokens, stop=stop, seed=config.train.seed)
    llama = Llama(served.path, adapter=served.adapter, context_tokens=config.train.max_tokens)
    return Chat(llama, sampling, config.data.system)
