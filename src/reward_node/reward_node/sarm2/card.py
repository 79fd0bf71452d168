"""The card beside SARM2's weights.

Role: says in words what a configuration and a training were. Does not depend on torch or ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reward_node import card
from reward_node.sarm2.configuration import SARM2Settings
from whetstone.demonstrations import Demonstration

_LIMITS = """Rendered images of these scenes only; on a real robot train it on that robot's recordings. It knows the tasks named
above: under other words its scores mean nothing. It has seen the faults of the base policy: for another one, record its episodes and
train again."""


def write(
    path: Path, robot: str, settings: SARM2Settings, episodes: Sequence[Demonstration], held_out: int, command: str, seconds: float
) -> None:
    """episodes: all of them; held_out: how many of them were not trained on; seconds: of one CPU thread."""
    tasks = sorted({episode.task for episode in episodes})
    wins = sum(bool(episode.success) for episode in episodes)
    rollouts = sum(episode.kind == "rollout" for episode in episodes)
    network, model = settings.network, settings.vision_model
    encoder = "vision encoder" if model is None else f"vision model {Path(model.folder).name} ({model.precision})"
    state = f"and the {network.state_width} numbers of proprioception" if network.state_width else "no proprioception"
    state += ", no simulator state"
    what = f"""A small SARM2 (arXiv 2606.10305): stage estimator ({network.stage_layers} layers) and value head
({network.value_layers} layers, width {network.width}, {network.experts} experts, top {network.top}) over the features of the frozen
{encoder} and the instruction. It sees the first frame of the episode and the last {network.recent} scored frames of
{", ".join(settings.cameras)} (one score every {settings.every} control steps), {state}.
It gives progress and completion; the contrastive signal compares progress over {settings.contrastive.window} scored frames with a
dead zone of {settings.contrastive.dead_zone}."""
    made = f"""`{command}` in {seconds:.0f} CPU seconds on one thread, from {len(episodes)} simulated episodes ({wins} successes,
{len(episodes) - wins} failures) of {", ".join(tasks)}: scripted experts with faults and {rollouts} episodes of the base policy,
whose faults are its own. {held_out} of them were held out. Labels came from the simulator and are used in training only."""
    card.write(path, f"Reward model SARM2, {robot}", what, made, _LIMITS)
