"""Texts -> perplexity: held-out documents put to a GGUF file through llama.cpp, one file or two against each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fledge.config import Config
from fledge.data.prose import rendered_passages
from fledge.data.template import ChatTemplate
from fledge.evaluation.likelihood import PassageLoss, compare_texts, perplexity
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.project import write_text_atomic
from fledge.recipes.measure import Served, answers_file
from fledge.records import Example, Text
from fledge.runtime.logits import token_logps

# What goes before a token is looked back on this far; longer passages tell little more and take longer.
PASSAGE_TOKENS = 1024


def read_texts(
    sides: Sequence[Served], texts: Sequence[Text], config: Config, *, on_done: Callable[[int, int], None]
) -> list[list[PassageLoss]]:
    """Return how well each side foretells the texts, passage by passage. `on_done` gets passages read, and of all.

    All sides read the same passages, each in its own tokens. Only a text's own words count, not the headings above.
    """
    templates = [ChatTemplate(load_tokenizer(open_weights(side.path))) for side in sides]
    limit = min(config.train.max_tokens, PASSAGE_TOKENS)
    cut = [
        (rendered, where, text.origin)
        for text in texts
        for rendered, where in rendered_passages(text, templates[0].tokenizer, limit=limit)
    ]
    found = []
    for number, (side, template) in enumerate(zip(sides, templates, strict=True)):
        examples = [template.example(rendered, where) for rendered, where, _ in cut]
        losses = []
        # An adapter beside its base acts only after a prompt, so not on a text.
        scored = token_logps(side.path, [example.ids for example in examples])
        for done, (example, (_, where, origin), logps) in enumerate(zip(examples, cut, scored, strict=True), start=1):
            losses.append(_loss(example, where, origin, logps.tolist()))
            on_done(number * len(cut) + done, len(sides) * len(cut))
        found.append(losses)
    return found


def _loss(example: Example, where: str, origin: str, logps: Sequence[float]) -> PassageLoss:
    taught = [logp for logp, weight in zip(logps, example.weights[1:], strict=True) if weight]
    return PassageLoss(where, origin, -math.fsum(taught), len(taught))


def report_texts(sides: Sequence[Served], losses: Sequence[Sequence[PassageLoss]], *, project: Path) -> dict[str, Any]:
    """Write the loss of every passage to a file and return what is told of them, one side or two."""
    path = answers_file(project, f"{sides[0].label}.texts")
    write_text_atomic(path, "".join(json.dumps(asdict(loss), ensure_ascii=False) + "\n" for loss in losses[0]))
    told: dict[str, Any] = {
        "texts": len({loss.group for loss in losses[0]}),
        "passages": len(losses[0]),
        "tokens": sum(loss.tokens for loss in losses[0]),
        "perplexity": perplexity(losses[0]),
        "rows_file": str(path),
        "against": None,
        "verdict": None,
        "p_value": None,
        "why": "",
    }
    if len(sides) > 1:
        verdict = compare_texts(losses[1], losses[0])
        told |= {
            "against": {"target": sides[1].label, "perplexity": perplexity(losses[1])},
            "verdict": verdict.outcome.value,
            "p_value": verdict.p_value,
            "change": verdict.change,
            "change_interval": list(verdict.interval),
            "why": verdict.why,
        }
    return told


def texts_alone(sides: Sequence[Served], told: dict[str, Any]) -> dict[str, Any]:
    """Return what the contract says of `fledge eval` where there are texts and no questions."""

    def side(served: Served, figure: float) -> dict[str, Any]:
        asked = dict.fromkeys(("scorer", "accuracy", "interval", "template_adherence", "stopped", "tokens_per_s"))
        return {"target": served.label, "file": str(served.path), "rows": told["texts"], "perplexity": figure, **asked}

    found = side(sides[0], told["perplexity"]) | {"tasks": [], "forgetting": None, "texts": told}
    found |= {key: told[key] for key in ("rows_file", "verdict", "p_value", "why")}
    found["against"] = side(sides[1], told["against"]["perplexity"]) if told["against"] else None
    return found
