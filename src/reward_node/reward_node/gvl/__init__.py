"""Generative Value Learning (arXiv 2411.04549): percentages that a vision-language model writes about the shuffled frames of an episode."""

from reward_node.gvl.reward import GVLReward

__all__ = ["GVLReward"]
