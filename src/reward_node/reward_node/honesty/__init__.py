"""The honesty suite: whether a reward model can be trusted, on clips that it ought to like and on clips that it must not."""
