"""The map from a model's own figure to progress and from its completion to a probability: fitted offline, applied online."""
