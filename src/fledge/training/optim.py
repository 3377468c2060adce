"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fledge.training.compact_adamw import BLOCK, CompactAdamW

FINAL_SHARE = 0.1
# 0.99 instead of 0.999: runs of a hundred steps are over before an average over a thousand means anything.
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then a cosine to FINAL_SHARE of it (Loshchilov & Hutter 2017, arXiv 1608.03983)."""

    peak: float
    steps: int
    warmup: float

    def lr(self, step: int) -> float:
        """Return the learning rate of step 0..steps-1."""
        warmup_steps = max(1, round(self.warmup * self.steps))
        if step < warmup_steps:
            return self.peak * (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, self.steps - 1 - warmup_steps)
        return self.peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


# What AdamW keeps of each number beside it, by the name of the optimizer: bytes.
STATE_BYTES = {"adamw": 8.0, "adamw8bit": 2 + 8 / BLOCK, "adafactor": 0.1}


def optimizer_of(name: str, parameters: Mapping[str, nn.Parameter], *, weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimizer of weights that are trained themselves.

    adafactor: Shazeer & Stern 2018, arXiv 1804.04235, torch's; it has no first moment, keeps of the second the means
    of rows and columns, and its steps are shares of a weight's own size.
    """
    if name == "adamw":
        return adamw(parameters, weight_decay=weight_decay)
    if name == "adamw8bit":
        return CompactAdamW(parameters.values(), lr=0.0, betas=BETAS, weight_decay=weight_decay)
    return torch.optim.Adafactor(parameters.values(), lr=1e-3, weight_decay=weight_decay)


def adamw(parameters: Mapping[str, nn.Parameter], *, weight_decay: float, lora_plus: float = 1.0) -> torch.optim.AdamW:
    """Return AdamW over float32 masters (Loshchilov & Hutter 2019, arXiv 1711.05101). The loop sets the learning rate.

    `lora_plus`: how many times the rate of A the matrices B get (Hayou et al. 2024, arXiv 2402.12354).
    """
    assert all(p.dtype == torch.float32 for p in parameters.values()), "masters are float32"
    ratios = {name: lora_plus if "lora_B" in name else 1.0 for name in parameters}
    groups = [
        {"params": [p for name, p in parameters.items() if ratios[name] == ratio], "lr_ratio": ratio}
        for ratio in sorted(set(ratios.values()))
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, weight_decay=weight_decay, fused=True)
