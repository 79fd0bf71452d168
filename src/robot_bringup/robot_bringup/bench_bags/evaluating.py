"""How fast `whetstone evaluate` goes over a bag, against a plain loop over its messages with the same model.

Role: makes a bag, shows its due frames to one reward model both ways, checks that both got the same scores, and says how many of the bag's
camera frames went by in a second. The plain loop is what one writes first: rosbags' AnyReader, every message deserialised, every image
converted. Does not depend on ROS.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from rosbags.highlevel import AnyReader
from rosbags.image import message_to_cvimage
from rosbags.typesys import Stores, get_typestore

from robot_bringup.bench_bags.sample import SECOND, write_bag
from robot_bringup.evaluation.models import named
from robot_bringup.evaluation.recordings import Source
from robot_bringup.evaluation.settings import Settings
from robot_bringup.evaluation.work import Bench, place
from whetstone.profile import load_profile
from whetstone.rewards import load_reward

Row = dict[str, Any]
INSTRUCTION = "put the red cube in the tray"


def plain_loop(path: Path, model: Any, period: int) -> list[float]:
    """Every message deserialised, every image converted, the frames that are due shown to the model. Its own values."""
    model.reset("", INSTRUCTION, 0)
    held: dict[str, tuple[int, np.ndarray]] = {}
    start, shown, values = 0, -1, []
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, _, raw in reader.messages():
            message: Any = reader.deserialize(raw, connection.msgtype)
            if connection.msgtype != "sensor_msgs/msg/Image":
                continue
            stamp = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
            start = start or stamp
            step = round((stamp - start) / period)
            held[connection.topic.split("/")[2]] = (step, message_to_cvimage(message, "rgb8"))
            due = step % model.needs.every == 0 and step > shown
            if due and all(held.get(name, (-1,))[0] == step for name in model.needs.cameras):
                shown = step
                values.append(model.observe({name: held[name][1] for name in model.needs.cameras}, stamp).raw)
    return values


def rows(folder: Path, seconds: float = 60.0, repeats: int = 3, robot: str = "so100", rewards: str = "sarm2,constant") -> list[Row]:
    """Rows of results/bench-bags.json: images per second of both, medians, and the largest difference of a score."""
    profile = load_profile(robot)
    bag = folder / "bag"
    images = write_bag(bag, profile, seconds, profile.rate)
    found_rows: list[Row] = []
    for one in named(rewards, "rewards"):
        settings = Settings(robot, (one,), instruction=INSTRUCTION)
        bench, model = Bench(settings), load_reward(one.configuration, profile)
        plain_loop(bag, model, profile.period_ns)  # once before it counts, for both
        source = Source("bag", str(bag), "bag")
        times: dict[str, list[float]] = {"whetstone": [], "rosbags_loop": []}
        found: dict[str, list[float]] = {}
        for turn in range(repeats):
            out = folder / f"{one.name}-{turn}"
            target = place(out, source, settings)
            begin = time.perf_counter()
            bench.evaluate(source, target)
            times["whetstone"].append(time.perf_counter() - begin)
            found["whetstone"] = parquet.read_table(target / "scores.parquet")["raw"].to_pylist()
            shutil.rmtree(out)
            begin = time.perf_counter()
            found["rosbags_loop"] = plain_loop(bag, model, profile.period_ns)
            times["rosbags_loop"].append(time.perf_counter() - begin)
        case = f"evaluate, {one.name}, {len(profile.cameras)} cameras of {profile.cameras[0].width}x{profile.cameras[0].height}"
        for subject, spent in times.items():
            rate = images / statistics.median(spent)
            found_rows.append(
                {"case": case, "subject": subject, "metric": "images_per_second", "value": round(rate, 1), "unit": "1/s", "n": repeats}
            )
        speedup = statistics.median(times["rosbags_loop"]) / statistics.median(times["whetstone"])
        found_rows.append(
            {"case": case, "subject": "whetstone", "metric": "speedup", "value": round(speedup, 3), "unit": "1", "n": repeats}
        )
        difference = float(np.abs(np.array(found["whetstone"]) - np.array(found["rosbags_loop"])).max())
        found_rows.append({"case": case, "subject": "whetstone", "metric": "parity_max_abs_difference", "value": difference, "unit": "1"})
    return found_rows
