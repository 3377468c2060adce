"""Sampled replies to what each of their tokens earned beyond what the critic expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fledge.objective.ppo import advantages, token_rewards, whitened

Numbers = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Critic:
    """How rewards of whole replies become those of tokens: see objective.ppo. kl_weight 0 asks for no reference."""

    discount: float
    gae_lambda: float
    kl_weight: float

    def judge(
        self, rewards_S: Sequence[float], old: Numbers, reference: Numbers, values: Numbers
    ) -> tuple[list[list[float]], list[list[float]]]:
        """Return (advantages, returns) of the tokens of each reply; advantages are whitened over all of them.

        old, reference: log p of each token under the policy that drew it and under the model as it was (empty where it
        does not count). values: what the critic expected before each token.
        """
        lengths = [len(own) for own in old]
        sequence_M = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        old_M, value_M = _flat(old), _flat(values)
        reference_M = _flat(reference) if self.kl_weight else old_M
        worth_S = torch.tensor(rewards_S, dtype=torch.float64)
        reward_M = token_rewards(worth_S, sequence_M, old_M, reference_M, kl_weight=self.kl_weight)
        advantage_M, return_M = advantages(
            reward_M, value_M, sequence_M, discount=self.discount, gae_lambda=self.gae_lambda
        )
        parts = (torch.split(each, lengths) for each in (whitened(advantage_M), return_M))
        gains, returns = ([part.tolist() for part in each] for each in parts)
        return gains, returns


def _flat(parts: Numbers) -> torch.Tensor:
    return torch.tensor([value for part in parts for value in part], dtype=torch.float64)
