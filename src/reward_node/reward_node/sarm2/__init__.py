"""SARM2 (arXiv 2606.10305), small: stage estimator and multi-gate mixture-of-experts value head over frozen features."""

from reward_node.sarm2.reward import SARM2Reward

__all__ = ["SARM2Reward"]
