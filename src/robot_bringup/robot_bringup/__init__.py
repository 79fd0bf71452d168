"""Simulators, drivers, the episode manager, the launch plan and the operator console."""
