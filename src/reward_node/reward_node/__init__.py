"""Reward models that watch the cameras, and the node that publishes their scores."""
