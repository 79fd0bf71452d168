"""How far a replayed episode's rewards are from those of the live run.

Role: a short run in lockstep, recorded; its bags said to a real reward node; the largest difference between the rewards in the bags and
those. Does not depend on ROS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from robot_bringup import records
from robot_bringup.bags.folder import FOLDER
from robot_bringup.plan import plan
from robot_bringup.running import RunEnded, run
from whetstone.bags.reader import open_bag
from whetstone.errors import InputError

VALUES = ("raw", "progress", "completion", "total")


def rows(robot: str, reward: str, episodes: int, domain: int, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Raises InputError where a frame that was scored live was not scored again."""
    live, again = folder / "live", folder / "replayed"
    given = {"robot": robot, "reward": reward, "task": "reach", "iterations": "1", "episodes": str(episodes), "evaluation_episodes": "0"}
    _run("refine", {**given, "record": "true", "run_dir": str(live), "domain_id": str(domain)}, console)
    bags = sorted(path for path in (live / FOLDER).iterdir() if (path / "metadata.yaml").exists())
    words = {"robot": robot, "reward": reward, "bag": ",".join(map(str, bags)), "run_dir": str(again), "domain_id": str(domain)}
    _run("reward", words, console)
    said: dict[tuple[str, int], Any] = {}
    for path in bags:
        with open_bag(path) as bag:
            topics = [name for name, topic in bag.topics.items() if topic.type == "whetstone_msgs/msg/Reward"]
            for message in bag.messages(topics):
                one = message.decode()
                said[one.episode_id, one.header.stamp.sec * 10**9 + one.header.stamp.nanosec] = one
    replayed = {(one["episode_id"], one["stamp"]): one for one in map(json.loads, (again / records.REWARDS).read_text().splitlines())}
    last = {episode: stamp for episode, stamp in sorted(said)}
    # The frame that was on its way when the reward ended an episode was published, and so recorded, but not scored any more.
    more = [key for key in replayed.keys() - said.keys() if key[1] <= last.get(key[0], 2**63)]
    if more or said.keys() - replayed.keys() or not said:
        raise InputError(f"{len(said)} frames were scored live, {len(replayed)} in the replay")
    difference = max(abs(float(getattr(said[key], name)) - replayed[key][name]) for key in said for name in VALUES)
    case = f"{robot} {reward}, live and replayed"
    return [{"case": case, "subject": "whetstone", "metric": "parity_max_abs_difference", "value": difference, "unit": "", "n": len(said)}]


def _run(mode: Any, given: dict[str, str], console: Console) -> None:
    planned = plan(mode, given)
    ended = run(planned, console)
    if ended.code:
        raise RunEnded.of(ended, planned.run_dir)
