"""How fast a bag is read and decoded, against a plain loop of rosbags, and how long `whetstone convert` takes.

Role: one bag of two cameras of 640x480 at 30 Hz and joint states at 100 Hz, not compressed; every message is decoded and every image made
RGB, both ways by turns; then the command, as its user runs it, start of Python included. Does not depend on ROS.

read_rate: GB of messages a minute; time_per_gb: minutes of the whole command for a GB of messages.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.image import message_to_cvimage
from rosbags.typesys import Stores, get_typestore

from robot_bringup.bench_bags.sample import write_bag
from whetstone.bags.reader import open_bag
from whetstone.errors import InputError
from whetstone.images import to_array
from whetstone.profile import load_profile

IMAGE = "sensor_msgs/msg/Image"
WIDTH, HEIGHT, RATE = 640, 480, 30.0
Row = dict[str, Any]


def ours(path: Path) -> tuple[int, int]:
    """Bytes of messages, and a sum over the first pixels, so that both loops can be seen to have read the same."""
    size = seen = 0
    with open_bag(path) as bag:
        for message in bag.messages():
            size += len(message.data)
            decoded = message.decode()
            if message.type == IMAGE:
                seen += int(to_array(decoded, "camera")[0, 0].sum())
    return size, seen


def plain_loop(path: Path) -> tuple[int, int]:
    size = seen = 0
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, _, raw in reader.messages():
            size += len(raw)
            decoded: Any = reader.deserialize(raw, connection.msgtype)
            if connection.msgtype == IMAGE:
                seen += int(message_to_cvimage(decoded, "rgb8")[0, 0].sum())
    return size, seen


def rows(folder: Path, seconds: float = 20.0, repeats: int = 3, robot: str = "so100") -> list[Row]:
    """Medians. Raises InputError where the two loops or a conversion do not do the same."""
    profile = load_profile(robot)
    large = replace(profile, cameras=tuple(replace(camera, width=WIDTH, height=HEIGHT) for camera in profile.cameras))
    bag = folder / "bag"
    folder.mkdir(exist_ok=True)
    write_bag(bag, large, seconds, RATE)
    size = ours(bag)[0]  # once before it counts: the disk's cache
    load = f"{len(large.cameras)}x{WIDTH}x{HEIGHT}@{RATE:g}Hz + joints@100Hz, {size / 1e9:.2f} GB"
    loops: dict[str, Callable[[Path], tuple[int, int]]] = {"whetstone": ours, "rosbags_loop": plain_loop}
    times: dict[str, list[float]] = {subject: [] for subject in loops}
    for _ in range(repeats):
        found = {subject: _timed(lambda loop=loop: loop(bag), times[subject]) for subject, loop in loops.items()}
        if found["whetstone"] != found["rosbags_loop"]:
            raise InputError(f"{bag}: the two loops read different things: {found}")
    case, made = f"read, {load}", list[Row]()
    for subject, spent in times.items():
        rate = size / 1e9 / (statistics.median(spent) / 60)
        made.append({"case": case, "subject": subject, "metric": "read_rate", "value": round(rate, 2), "unit": "GB/min", "n": repeats})
    speedup = statistics.median(times["rosbags_loop"]) / statistics.median(times["whetstone"])
    made.append({"case": case, "subject": "whetstone", "metric": "speedup", "value": round(speedup, 3), "unit": "1", "n": repeats})
    for kind, more in (("episodes", []), ("lerobot", ["rows:=steps"])):
        spent = []
        for _ in range(repeats):
            target = folder / kind
            _timed(lambda target=target, kind=kind, more=more: _convert(bag, target, robot, [f"as:={kind}", *more]), spent)
            shutil.rmtree(target)
        minutes = statistics.median(spent) / 60 / (size / 1e9)
        case = f"convert to {kind}, {load}"
        made.append(
            {"case": case, "subject": "whetstone", "metric": "time_per_gb", "value": round(minutes, 4), "unit": "min/GB", "n": repeats}
        )
    return made


def _timed(run: Callable[[], Any], times: list[float]) -> Any:
    begin = time.perf_counter()
    found = run()
    times.append(time.perf_counter() - begin)
    return found


def _convert(bag: Path, target: Path, robot: str, more: list[str]) -> None:
    argv = [sys.executable, "-m", "robot_bringup.cli", "convert", str(bag), str(target), f"robot:={robot}", "resize:=crop"]
    done = subprocess.run([*argv, "task:=pick_and_place", *more], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{target}: was not made: {done.stderr.strip()[-300:]}")
