"""The parity gate: a file counts only after llama.cpp, running it, has agreed with the trained weights.

Compared are: the ids of rendered prompts (through the file's own template and tokenizer), the token that ends a turn,
and the next-token distributions over the same given text. The gate has thresholds per type; a file that fails is
removed by the caller and never listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fledge.data.prose import text_examples
from fledge.data.template import ChatTemplate
from fledge.errors import ParityError
from fledge.records import Conversation, Example, Taught, Text
from fledge.runtime.gguf_check import read_header
from fledge.runtime.llama import Llama
from fledge.runtime.logits import Scoring

POSITIONS_PER_ROW = 48
# So much of a text is compared.
TEXT_TOKENS, TEXT_CHARS = 256, 1000
ADAPTER = "adapter"
Logits = NDArray[np.float32]
# Given text to score, yield logits [positions, V] for each.
Scorer = Callable[[Sequence[Scoring]], Iterable[Logits]]


@dataclass(frozen=True)
class Threshold:
    """Least share of taught positions with the same likeliest token or a tie, most mean KL divergence of them in nats.

    kl_all: the most over all positions, where a model that was taught little is far less sure. Two tokens tie when the
    trained model's log-probabilities of them differ by at most `tie_nats`: rounding of this type may turn them round,
    and nobody could say which of them is the trained answer.
    """

    top1: float
    kl: float
    tie_nats: float = 0.0
    kl_all: float = 0.2


# Calibrated on an undertrained model, the hardest case, whose answers hang on many near ties (docs/decisions.md).
# From five bits on the type itself changes answers; there the gate finds faults, and the verdict says what is lost.
THRESHOLDS: dict[str, Threshold] = {
    "f32": Threshold(0.999, 1e-3, tie_nats=0.02, kl_all=1e-3),
    "f16": Threshold(0.999, 1e-3, tie_nats=0.02, kl_all=1e-3),
    "bf16": Threshold(0.99, 5e-3, tie_nats=0.3, kl_all=0.02),
    "q8_0": Threshold(0.99, 0.01, tie_nats=0.4, kl_all=0.05),
    "q6_k": Threshold(0.98, 0.03, tie_nats=0.7, kl_all=0.1),
    "q5_k_m": Threshold(0.80, 0.2),
    "q4_k_m": Threshold(0.80, 0.2),
    "q4_0": Threshold(0.60, 0.8, kl_all=0.8),
    # On top of the base file as it is, whatever its type.
    ADAPTER: Threshold(0.97, 0.03, tie_nats=0.4, kl_all=0.1),
}


@dataclass(frozen=True)
class Agreement:
    """How far a file agrees with the trained weights.

    `top1` is the share of all `positions` with the same likeliest token, `top1_taught` the share of the taught ones
    (the answers) where the file's likeliest token is the trained model's or tied with it, `kl` and `kl_taught` the mean
    KL(trained || file) over all and over the taught ones, in nats. What a tuned model expects inside a question nobody
    has taught it: there one token or another means nothing, and the divergence is that of a model that guesses.
    """

    positions: int
    top1: float
    top1_taught: float
    kl: float
    kl_taught: float


@dataclass(frozen=True)
class Parity:
    """What the gate measured; the figures are those of Agreement."""

    rows: int
    positions: int
    top1: float
    top1_taught: float
    kl: float
    kl_taught: float
    prompt_ids_equal: bool
    end_token_equal: bool
    threshold: Threshold
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.faults


def choose_text(examples: Sequence[Example]) -> list[Scoring]:
    """Return what to score: of each example the last POSITIONS_PER_ROW positions, taught answers in the main."""
    return [
        Scoring(e.ids[:-1], list(range(max(0, len(e.ids) - 1 - POSITIONS_PER_ROW), len(e.ids) - 1))) for e in examples
    ]


def compare_logits(
    trained: Iterable[Logits], file: Iterable[Logits], taught: Iterable[Sequence[bool]], *, tie_nats: float
) -> Agreement:
    """Return how far the two agree, text by text, over logits [positions, V] and whether each position is taught."""
    same, answered, divergences, of_taught = [], [], [], []
    for ours, theirs, is_taught in zip(trained, file, taught, strict=True):
        assert ours.shape == theirs.shape, "both sides score the same positions of the same vocabulary"
        best, chosen = ours.argmax(-1)[:, None], theirs.argmax(-1)[:, None]
        gap = np.take_along_axis(ours, best, -1) - np.take_along_axis(ours, chosen, -1)
        same.append((best == chosen)[:, 0])
        which = np.array(is_taught)
        answered.append((gap <= tie_nats)[which, 0])
        log_p, log_q = _log_softmax(ours), _log_softmax(theirs)
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(-1, dtype=np.float64))
        of_taught.append(divergences[-1][which])
    return Agreement(
        positions=sum(map(len, same)),
        top1=float(np.concatenate(same).mean()),
        top1_taught=float(np.concatenate(answered).mean()),
        kl=float(np.concatenate(divergences).mean()),
        kl_taught=float(np.concatenate(of_taught).mean()),
    )


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return result


def check(
    path: Path,
    *,
    kind: str,
    rows: Sequence[Taught],
    template: ChatTemplate,
    trained: Scorer,
    served: Scorer,
    spelling: Sequence[Conversation] = (),
) -> Parity:
    """Measure `path` against the trained weights on `rows` and return what came out, faults in words included.

    `trained` scores with the trained weights, `served` with llama.cpp. Prompts are rendered by the file's own template.
    Of a text its first tokens are compared. Of `spelling` the ids of the prompts alone are compared.
    """
    examples = [
        text_examples(row, template, limit=TEXT_TOKENS)[0] if isinstance(row, Text) else template.examples(row)[-1]
        for row in rows
    ]
    text = choose_text(examples)
    threshold = THRESHOLDS[kind]
    taught = [[e.weights[p + 1] > 0 for p in scoring.positions] for e, scoring in zip(examples, text, strict=True)]
    found = compare_logits(trained(text), served(text), taught, tie_nats=threshold.tie_nats)
    unequal = _unequal_prompts(path, [*rows, *spelling], template)
    ends = {e.last_taught for e, row in zip(examples, rows, strict=True) if isinstance(row, Conversation)}
    end_equal = ends <= _end_tokens(path)
    faults = [
        f"{unequal} of {len(rows) + len(spelling)} prompts have other token ids than in training" if unequal else "",
        "" if end_equal else f"the file does not end a turn with the taught token {sorted(ends)}",
        # Written so that a NaN fails too.
        "" if found.top1_taught >= threshold.top1 else f"top-1 agreement {found.top1_taught:.4f} < {threshold.top1}",
        "" if found.kl_taught <= threshold.kl else f"KL divergence {found.kl_taught:.4f} > {threshold.kl}",
        "" if found.kl <= threshold.kl_all else f"KL divergence over all text {found.kl:.4f} > {threshold.kl_all}",
    ]
    return Parity(
        rows=len(rows),
        **asdict(found),
        prompt_ids_equal=not unequal,
        end_token_equal=end_equal,
        threshold=threshold,
        faults=tuple(fault for fault in faults if fault),
    )


def require(parity: Parity, path: Path) -> None:
    """Raise ParityError where the gate is shut."""
    if not parity.passed:
        raise ParityError(
            "export.parity",
            f"the file does not answer as the trained model: {'; '.join(parity.faults)}.",
            where=path.name,
            remedy="It was removed. Choose a type with more bits; if f16 fails too, it is a fault of fledge.",
        )


def _unequal_prompts(path: Path, rows: Sequence[Taught], template: ChatTemplate) -> int:
    """Return how many prompts, or texts, have other ids in the file than in training."""
    tokenizer = template.tokenizer
    with Llama(path) as llama:
        return sum(
            llama.tokenize(row.text[:TEXT_CHARS], parse_special=False) != tokenizer.encode(row.text[:TEXT_CHARS])
            if isinstance(row, Text)
            else llama.tokenize(llama.render(row.prompt), parse_special=True, add_special=True)
            != template.prompt_ids(row.prompt)
            for row in rows
        )


def _end_tokens(path: Path) -> set[int]:
    """Return the ids at which programs that read this file stop: its end-of-sequence and end-of-turn tokens."""
    kv = read_header(path).kv
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return {kv[key] for key in keys if key in kv}
