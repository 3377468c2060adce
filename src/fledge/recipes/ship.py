"""Run -> files to hand over: merged, quantised, each let through by the parity gate or removed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from fledge.config import Config
from fledge.data.template import ChatTemplate
from fledge.data.wanted import answers_of
from fledge.errors import ExportError, ModelError, RunError, writing
from fledge.model.adapter import Adapter, load_adapter
from fledge.model.causal import CausalModel
from fledge.model.extended import Extended, extend
from fledge.model.load import load_model, plain_reason
from fledge.model.lora import settings_of
from fledge.model.replaced import Replaced
from fledge.model.tokenizer import load_tokenizer
from fledge.model.tokens import behind, single
from fledge.model.weights import GgufWeights, OtherWeights, Weights, open_weights
from fledge.project import RunFolder, fsync_folder, read_json, write_json_atomic
from fledge.recipes.prepare import read_project
from fledge.recipes.texts import conversations_in
from fledge.recipes.tries import last_replies
from fledge.records import Conversation, Message, Taught
from fledge.release import parity
from fledge.release.adapter_gguf import write_adapter_gguf
from fledge.release.folder import write_folder
from fledge.release.gguf import Written, write_gguf
from fledge.release.parity import ADAPTER, Logits, Parity
from fledge.release.quantize import file_type
from fledge.runtime.invocation import begins_at
from fledge.runtime.logits import Scoring, logits

# Enough for 1,100 positions; held-out rows come first, so what was not learnt by heart is compared too.
GATE_ROWS = 24
PLAIN_QUESTION = Conversation((Message("user", "What is this about?"), Message("assistant", "About this.")), "")


@dataclass(frozen=True)
class Finished:
    """A finished run, opened. `weights` are the base's, or where they were trained themselves the run's own."""

    run: RunFolder
    project: Path
    config: Config
    weights: Weights
    adapter: Adapter | None

    @property
    def apart(self) -> bool:
        """Whether it was trained over quantised weights, on top of which its adapter is served as it is."""
        return self.config.method == "qlora"

    @property
    def scores(self) -> bool:
        """Whether it was taught to score answers, and so gives none."""
        return self.adapter is not None and self.adapter.score is not None

    @property
    def usual_types(self) -> list[str]:
        """The types that are written where nobody names one; none where the adapter alone is."""
        return [] if self.apart else list(self.config.release.quant)

    @property
    def name(self) -> str:
        return f"{self.weights.path.stem.split('.')[0]}-{self.run.path.name}".lower()


def open_run(project: Path, run: RunFolder) -> Finished:
    """Open a finished run. Raises RunError for an unfinished one and where the base model is no longer the same."""
    if not run.finished:
        raise RunError(
            "run.not_resumable",
            "the run is not finished.",
            where=str(run.path),
            remedy=f"Finish it: fledge train --resume {run.number}",
        )
    manifest = read_json(run.manifest)
    config = Config.model_validate(yaml.safe_load(run.knobs.read_text(encoding="utf-8"))["knobs"])
    path = Path(manifest["base_path"])
    if not path.exists():
        raise RunError(
            "run.not_found",
            f"its base model is gone: {path}.",
            where=str(run.path),
            remedy="Pull or restore the model.",
        )
    base = extend(open_weights(path), config.data.add_tokens)
    if config.method != "full":
        adapter = load_adapter(run.adapter)
        weights = base.with_rows(adapter, where=str(run.adapter)) if isinstance(base, Extended) else base
        return Finished(run, project, config, weights, adapter)
    return Finished(run, project, config, base if isinstance(base, OtherWeights) else _replaced(base, run), None)


def _replaced(base: Weights, run: RunFolder) -> Weights:
    """Return the weights that a run trained. Raises ModelError where tokens were added and their rows are not there."""
    weights = Replaced(base, run.model)
    lost = [
        name for name in base.names() if isinstance(base, Extended) and name in base.rows and not weights.holds(name)
    ]
    if lost:
        raise ModelError(
            "model.broken_file",
            f"it holds no '{lost[0]}', so its tokens were added, but not saved.",
            where=str(run.model),
            remedy="Train the run again.",
        )
    return weights


def export(
    finished: Finished,
    *,
    types: Sequence[str],
    with_adapter: bool,
    out: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write and check the files; return what the contract says of `fledge export`.

    A file stands under its name only after the gate let it through. Raises ParityError; the file is then gone.
    """
    started = time.monotonic()
    # A name that is wrong is found before anything is written.
    types, with_adapter = _possible(finished, [file_type(name) for name in types], with_adapter, say)
    folder = (out or finished.run.release).resolve()
    template = ChatTemplate(load_tokenizer(finished.weights))
    gate = Gate(
        _gate_rows(finished), template, Reference(finished.weights, finished.adapter), _spelling(finished.weights.added)
    )
    files = []
    for kind in types:
        say(f"{kind}: merging, quantising, comparing with the trained weights")
        path = folder / f"{finished.name}.{kind}.gguf"
        files.append(_export_merged(finished, path, kind, gate))
    if with_adapter and finished.adapter is not None and isinstance(finished.weights, GgufWeights):
        say("adapter: writing, comparing on top of the untouched base file")
        files.append(_export_adapter(finished, folder / f"{finished.name}.adapter.gguf", gate))
    return {"files": files, "seconds": time.monotonic() - started}


def _possible(
    finished: Finished, types: list[str], with_adapter: bool, say: Callable[[str], None]
) -> tuple[list[str], bool]:
    """Return which files can be made of this run. Raises ExportError where none can."""
    adapter, weights = finished.adapter, finished.weights
    _require_known(finished)
    if adapter is None:
        # What stands in fledge.yaml for every run asks for nothing that there is not.
        return types, False
    if weights.added and with_adapter:
        if not types:
            raise ExportError(
                "export.unknown_type",
                "an adapter file has no place for added tokens: it is put on top of a base that does not know them.",
                where=finished.run.path.name,
                remedy=f"Export the merged model: fledge export {finished.run.number} --quant q8_0",
            )
        say("no adapter file: it is put on top of a base that does not know the added tokens")
        with_adapter = False
    if adapter.use_dora and with_adapter:
        say("no adapter file: llama.cpp cannot run DoRA on top of its base")
        with_adapter = False
    if adapter.invocation_tokens:
        if not isinstance(weights, GgufWeights):
            raise ExportError(
                "model.unsupported",
                "what acts only after the prompt is served on top of a GGUF base, and this base is a folder.",
                where=finished.run.path.name,
                remedy="Train on the GGUF file of the model.",
            )
        say("only the adapter: what acts only after the prompt cannot be merged")
        return [], True
    if finished.apart and types:
        say("merged because it was asked for: weights are quantised anew, so the gate measures what that changes")
    elif finished.apart:
        say("only the adapter, for the untouched base file: that is what was trained; --quant TYPE merges all the same")
    return types, with_adapter or finished.apart


def _require_known(finished: Finished) -> None:
    """Raise ExportError for what scores answers, and for an architecture that is trained on the plain path alone."""
    if finished.scores:
        raise scores_only(finished.run)
    if isinstance(finished.weights, OtherWeights):
        raise ExportError(
            "model.unsupported",
            f"a '{finished.weights.shape.architecture}' model cannot be written yet, as GGUF or merged.",
            where=finished.run.path.name,
            remedy=f"It opens in transformers as it is: {finished.run.model}"
            if finished.adapter is None
            else f"Its adapter opens in PEFT, which can merge it: {finished.run.adapter}",
        )


def scores_only(run: RunFolder) -> ExportError:
    """Return the error for a run that was taught to score answers where one that gives some is needed."""
    return ExportError(
        "model.unsupported",
        "it scores answers and gives none: there is no GGUF file of it to make or to talk with.",
        where=run.path.name,
        remedy=f"Use it as it is: fledge reward score {run.number} FILE, or as the reward model:{run.number}.",
    )


def merge_folder(finished: Finished, out: Path) -> dict[str, Any]:
    """Write the merged model as a Hugging Face folder; return what the contract says of `fledge merge`."""
    _require_known(finished)
    num_bytes = write_folder(out, finished.weights, finished.adapter, load_tokenizer(finished.weights))
    return {"path": str(out), "bytes": num_bytes}


class Reference:
    """Scores with the trained weights in float32. Keeps the hidden states; logits are formed when asked for."""

    def __init__(self, weights: Weights, adapter: Adapter | None) -> None:
        self._weights, self._adapter = weights, adapter
        self._hidden: dict[tuple[int, ...], Tensor] = {}
        self._model: CausalModel | None = None

    @property
    def invocation(self) -> tuple[int, ...]:
        return self._adapter.invocation_tokens if self._adapter is not None else ()

    @torch.no_grad()
    def __call__(self, text: Sequence[Scoring]) -> Iterator[Logits]:
        missing = [scoring for scoring in text if tuple(scoring.ids) not in self._hidden]
        if missing:
            adapter = self._adapter
            plain = plain_reason(self._weights, dora=adapter is not None and adapter.use_dora)
            self._model = load_model(self._weights, dtype=torch.float32, plain=plain)
            if adapter is not None:
                self._model.add_adapter(settings_of(adapter), seed=0)
                self._model.load_adapter(adapter)
            for scoring in missing:
                self._hidden[tuple(scoring.ids)] = self._states(self._model, scoring.ids)[scoring.positions]
        assert self._model is not None
        for scoring in text:
            yield self._model.logits(self._hidden[tuple(scoring.ids)]).numpy()

    def _states(self, model: CausalModel, ids: list[int]) -> Tensor:
        """Return the last hidden states of a text; its prompt is read without an adapter that acts only behind it."""
        start = begins_at(ids, self.invocation)
        with ExitStack() as stack:
            if not start:
                stack.enter_context(model.disabled() if start is None else nullcontext())
                return model.hidden(single(torch.tensor(ids)))
            with model.disabled():
                prompt = stack.enter_context(model.on_trunk(single(torch.tensor(ids[:start]))))
            return torch.cat([prompt.hidden, model.hidden(behind(torch.tensor(ids[start:]), start), prompt)])


@dataclass(frozen=True)
class Gate:
    """Everything a file is compared with; `rows` are held-out rows first. Of `spelling` the ids alone are compared."""

    rows: Sequence[Taught]
    template: ChatTemplate
    trained: Reference
    spelling: Sequence[Conversation] = ()

    def check(self, model: Path, kind: str, *, adapter: Path | None = None) -> Parity:
        return parity.check(
            model,
            kind=kind,
            rows=self.rows,
            spelling=self.spelling,
            template=self.template,
            trained=self.trained,
            served=lambda text: logits(model, text, adapter=adapter, invocation=self.trained.invocation),
        )


def _gate_rows(finished: Finished) -> list[Taught]:
    rows = read_project(finished.project, finished.config)
    found = answers_of([*rows.held_out[:GATE_ROWS], *rows.train][:GATE_ROWS])
    # What was learnt by trying is what it says itself, not what its rows are checked by.
    said = last_replies(finished.run, [row for row in rows.train if isinstance(row, Conversation)])
    found = [*said[:GATE_ROWS]] if said else found
    # A model that has learnt texts is talked with all the same.
    return found if conversations_in(found) else [*found[: GATE_ROWS - 1], PLAIN_QUESTION]


def _spelling(added: Iterable[str]) -> list[Conversation]:
    """Return prompts in which every added token stands: alone, in the middle of a word and behind another one."""
    texts = [f"{token} a{token}b {token}{token} ." for token in added]
    return [Conversation((Message("user", text), Message("assistant", ".")), "") for text in texts]


def _export_merged(finished: Finished, path: Path, kind: str, gate: Gate) -> dict[str, Any]:
    with _let_through(path) as staged:
        written = write_gguf(
            staged, finished.weights, finished.adapter, kind, overrides={"general.name": finished.name}
        )
        measured = gate.check(staged, kind)
        parity.require(measured, path)
    return _entry(path, written, "merged", measured)


def _export_adapter(finished: Finished, path: Path, gate: Gate) -> dict[str, Any]:
    with _let_through(path) as staged:
        assert finished.adapter is not None
        written = write_adapter_gguf(staged, finished.adapter, finished.weights)
        measured = gate.check(finished.weights.path, ADAPTER, adapter=staged)
        parity.require(measured, path)
    return _entry(path, written, ADAPTER, measured)


@contextmanager
def _let_through(path: Path) -> Iterator[Path]:
    """Give a staging name in the same folder; what stands there gets its own name if the block ends well, or goes."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".checking-") as folder:
            staged = Path(folder) / path.name
            yield staged
            os.replace(staged, path)
        fsync_folder(path.parent)


def _entry(path: Path, written: Written, kind: str, measured: Parity) -> dict[str, Any]:
    entry = {
        "path": str(path),
        "kind": kind,
        "type": written.type,
        "bytes": written.bytes,
        "bits_per_weight": written.bits_per_weight,
        "sha256": written.sha256,
        "parity": {**asdict(measured), "passed": measured.passed},
    }
    write_json_atomic(path.with_suffix(".json"), entry)
    return entry
