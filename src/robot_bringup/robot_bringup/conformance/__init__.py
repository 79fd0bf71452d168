"""The simulator conformance kit: whether a running robot, simulated or not, is the one that its profile describes."""
