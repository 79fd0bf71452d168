"""`whetstone calibrate reward:=topreward robot:=franka`: fits the map from a model's own figure to progress and probability.

Role: plays labelled episodes through a reward plug-in without its map and fits one (fit.py). Half of the episodes are kept to say how
well it does on what it was not fitted to. Does not depend on ROS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reward_node.calibration.fit import fit
from reward_node.episodes import labelled
from reward_node.honesty.clips import clip_of
from reward_node.honesty.playing import Played, play
from whetstone import calibration as maps
from whetstone.arguments import integer, parse_arguments, run, spelled
from whetstone.config import find, load_yaml
from whetstone.errors import InputError
from whetstone.metrics import expected_calibration_error
from whetstone.profile import load_profile
from whetstone.rewards import KEY, load_reward, map_path

ARGUMENTS = {"reward": "topreward", "robot": "franka", "data": "", "tasks": "", "device": "cpu", "out": "", "seed": "0"}
HELP = """whetstone calibrate name:=value ...: fit the map from a reward model's own figure to progress and probability

  reward:=topreward    a configuration in config/rewards, or a path that ends in .yaml
  robot:=franka
  data:=''             folders of labelled episodes, joined by commas; empty: simulated ones of seeds that nothing else uses
  tasks:=''            tasks, joined by commas; empty: all that the episodes have
  device:=cpu
  out:=''              the map's file; empty: where key 'calibration_map' of the configuration says
"""


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    robot, seed = values["robot"], integer(values, "seed")
    profile = load_profile(robot)
    name = Path(values["reward"]).stem
    named = load_yaml(find("rewards", values["reward"])).get(KEY, f"calibration_{name}_{{robot}}.json")
    path = Path(values["out"]) if values["out"] else map_path(str(named), robot)
    reward = load_reward(values["reward"], profile, values["device"], calibrated=False)
    tasks = tuple(values["tasks"].split(",")) if values["tasks"] else None
    episodes = labelled(values["data"], robot, "calibration", tasks)
    played = []
    for episode in tqdm(episodes, desc="clips", unit="clip", disable=None):
        clip = clip_of(episode, reward.needs, profile.rate)
        played.append(Played(clip, play(reward, clip, live=False)))
    order = np.random.default_rng(seed).permutation(len(played))
    fitted, kept = ([played[index] for index in part] for part in (order[::2], order[1::2]))
    try:
        found = fit(*_columns(fitted))
        raw, progress, stated, completed = _columns(kept)
    except ValueError as error:
        raise InputError(f"{values['data'] or 'simulated episodes'}: {error}") from error
    before = np.concatenate([one.curve.progress for one in kept])
    after = np.array([found.progress(value) for value in raw])
    mapped = np.array([found.completion(value) for value in stated])
    made: dict[str, Any] = {
        "episodes": len(fitted),
        "scores": int(sum(len(one.curve.raw) for one in fitted)),
        "episodes_kept": len(kept),
        "progress_error_before": _figure(float(np.nanmean(np.abs(before - progress)))),
        "progress_error": _figure(float(np.nanmean(np.abs(after - progress)))),
        "completion_calibration_error_before": _figure(_error(stated, completed)),
        "completion_calibration_error": _figure(_error(mapped, completed)),
        "command": f"whetstone calibrate {spelled(values, ARGUMENTS, always=('reward', 'robot'))}",
    }
    maps.save(path, found, reward.provenance, robot, reward.needs.cameras, made)
    for key, value in made.items():
        print(f"{key:<38} {value}")
    print(f"wrote {path}; it holds for {reward.provenance.model_id} only")


def _columns(played: list[Played]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """raw, true progress, stated completion, completed: (N,) each."""
    if not played:
        raise ValueError("one episode is too few: half of them are kept to check the map")
    columns = (
        [one.curve.raw for one in played],
        [one.clip.progress for one in played],
        [one.curve.completion for one in played],
        [one.clip.completed for one in played],
    )
    return tuple(np.concatenate(column) for column in columns)  # type: ignore[return-value]


def _error(stated: np.ndarray, completed: np.ndarray) -> float:
    valid = np.isfinite(stated)
    return expected_calibration_error(stated[valid], completed[valid])


def _figure(value: float) -> float:
    return float(f"{value:.3g}")


if __name__ == "__main__":
    run(main, HELP)
