"""Files -> verdict: held-out rows put to a GGUF file through llama.cpp, one file or two against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fledge.config import Config
from fledge.evaluate.scorers import Template, choose_scorer
from fledge.evaluate.tasks import Evaluation, evaluate
from fledge.evaluate.verdict import Verdict, compare
from fledge.records import Conversation, Message, Reply
from fledge.runtime.llama import Llama, Sampling

# Reading a weight once for eight answers is what makes a processor with two cores fast enough.
PARALLEL = 8
TEMPLATE_TOKENS = 256


@dataclass(frozen=True)
class Served:
    """A GGUF file that answers, with an adapter on top or not; `label` is what people call it."""

    label: str
    path: Path
    adapter: Path | None = None


def measure(
    served: Served,
    rows: Sequence[Conversation],
    config: Config,
    *,
    on_done: Callable[[int], None] | None = None,
) -> Evaluation:
    """Return what `served` answers to `rows`, counted by evaluate.score and evaluate.template."""
    scorer, _ = choose_scorer(config.evaluate.score, rows)
    template = None if config.evaluate.template is None else Template(config.evaluate.template)
    sampling = Sampling(
        temperature=config.generate.temperature,
        max_tokens=config.generate.max_tokens,
        stop=tuple(config.generate.stop),
        seed=config.train.seed,
    )
    # A token is at least one byte of text, so this is room enough; the key/value cache is paid for in full.
    longest = max(sum(len(message.content.encode()) for message in row.prompt) for row in rows)
    room = min(config.train.max_tokens, longest + TEMPLATE_TOKENS) + config.generate.max_tokens
    with Llama(served.path, adapter=served.adapter, parallel=PARALLEL, context_tokens=room) as llama:

        def ask(conversations: Sequence[Sequence[Message]]) -> list[Reply]:
            return llama.ask_all(conversations, sampling=sampling, on_done=on_done)

        return evaluate(rows, ask, scorer=scorer, template=template)


def versus(before: Evaluation, after: Evaluation) -> Verdict:
    """Return the paired verdict of two evaluations of the same rows: is `after` better?"""
    groups = [row.group for row in after.rows]
    return compare([row.correct for row in before.rows], [row.correct for row in after.rows], groups=groups)


def as_dict(served: Served, evaluation: Evaluation) -> dict[str, Any]:
    """Return what the contract says of one side of `fledge eval`."""
    return {
        "target": served.label,
        "file": str(served.path),
        "rows": len(evaluation.rows),
        "scorer": evaluation.scorer,
        "accuracy": evaluation.accuracy,
        "interval": list(evaluation.interval),
        "template_adherence": evaluation.template_adherence,
        "stopped": evaluation.stopped,
        "tokens_per_s": evaluation.tokens_per_s,
    }


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict's part of `fledge eval`."""
    told = asdict(verdict)
    return {"verdict": told.pop("outcome").value, **told, "interval": list(verdict.interval)}
