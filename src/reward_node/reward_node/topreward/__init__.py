"""TOPReward (arXiv 2602.19313): progress as the log-probability of "True" under a local vision-language model."""

from reward_node.topreward.reward import TOPReward

__all__ = ["TOPReward"]
