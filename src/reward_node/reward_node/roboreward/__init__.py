"""RoboReward (arXiv 2601.00675): a score from 1 to 5 for the state at a video's end, by a fine-tuned vision-language model."""

from reward_node.roboreward.reward import RoboRewardReward

__all__ = ["RoboRewardReward"]
