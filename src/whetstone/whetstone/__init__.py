"""Whetstone's shared vocabulary: contracts, configuration, robots, tasks, images, guard, rollouts and weight snapshots."""
