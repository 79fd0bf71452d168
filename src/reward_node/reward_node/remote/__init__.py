"""TOPReward (arXiv 2602.19313) of a model that an OpenAI-compatible server holds (vLLM, SGLang): for labs whose GPU is elsewhere.

Role: the plug-in `topreward_remote`. Does not depend on ROS; no part of it loads a model.
"""

from reward_node.remote.reward import RemoteTOPReward

__all__ = ["RemoteTOPReward"]
