"""Robometer (arXiv 2603.02115): progress and success of every frame, from two heads on a vision-language model."""

from reward_node.robometer.reward import RobometerReward

__all__ = ["RobometerReward"]
