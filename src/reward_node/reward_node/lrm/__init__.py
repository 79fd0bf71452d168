"""Large Reward Models (arXiv 2603.16065): process, completion and temporal contrast, as questions to a vision-language model."""

from reward_node.lrm.reward import LRMReward

__all__ = ["LRMReward"]
