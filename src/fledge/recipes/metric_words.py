"""What objectives tell beside the loss, in words for a report."""

from __future__ import annotations

# Title, words.
METRICS = {
    "accuracy": ("Told apart", "share of rows whose better answer has the higher reward"),
    "likelier": ("Likelier", "share of rows whose better answer has the higher log-probability per token"),
    "margin": ("Margin", "reward of the better answer less that of the worse"),
    "score_chosen": ("Score of better answers", "any number; higher is better"),
    "score_rejected": ("Score of worse answers", "any number; lower is better"),
    "reward_chosen": ("Reward of better answers", "0 is as likely as before"),
    "reward_rejected": ("Reward of worse answers", "0 is as likely as before"),
    "reward_good": ("Reward of good answers", "0 is as likely as before"),
    "reward_bad": ("Reward of bad answers", "0 is as likely as before"),
    "reward": ("Reward", "of sampled replies, mean of a step"),
    "reward_spread": ("Spread of rewards", "among the replies to one prompt, standard deviation"),
    "no_signal": ("No signal", "share of prompts whose replies all got the same: nothing is learnt from them"),
    "length": ("Length of replies", "in tokens"),
    "ended": ("Ended by themselves", "share of replies"),
    "entropy": ("Entropy", "in nats per token; near 0 nothing new is tried any more"),
    "clipped": ("Clipped", "share of tokens that had moved too far to count"),
    "value_loss": ("Critic", "half of its squared error, a token in the mean"),
    "sampler_gap": ("Sampler", "how far its log-probabilities are from the trainer's, mean, in nats per token"),
    "kl": ("Distance", "from the model as it was, in nats"),
}
