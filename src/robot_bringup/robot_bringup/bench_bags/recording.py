"""What recording costs and loses: our recorder and the plain way, one after the other, of the same source.

Role: starts the processes and reads what they used from /proc and what they wrote from the bag. Does not depend on ROS.

cpu: cores that the recording process used while the source spoke. missing: messages that were sent and are not in the bag. written_rate:
MB/s of messages that are.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from robot_bringup.bench_bags.source_node import CAMERA_RATE, JOINT_RATE
from robot_bringup.command import executable
from whetstone import config
from whetstone.bags.reader import open_bag
from whetstone.errors import InputError

WIDTH, HEIGHT = 640, 480
SUBJECTS = ("whetstone", "plain")
PROFILES = {"Fast DDS as it comes": "", "large_images.xml": "config/dds/large_images.xml"}
"""Of DDS: its name in the case -> the file that all processes are given."""


def rows(seconds: int, domain: int, folder: Path) -> list[dict[str, Any]]:
    """Raises InputError where a process does not do its part."""
    robot = folder / "so100.yaml"
    profile = config.load_yaml(config.find("robots", "so100"))
    robot.write_text(yaml.safe_dump({**profile, "cameras": [{**one, "width": WIDTH, "height": HEIGHT} for one in profile["cameras"]]}))
    load, found = f"2x{WIDTH}x{HEIGHT}@{CAMERA_RATE}Hz + joints@{JOINT_RATE}Hz", []
    for (name, file), subject in itertools.product(PROFILES.items(), SUBJECTS):
        case, place = f"{load}, {name}", folder / f"{Path(file).stem}_{subject}"
        place.mkdir()
        sent, written, cpu = _measure(subject, robot, seconds, domain, place, file)
        count = sum(sent["sent"].values())
        values = [
            ("cpu", cpu, "cores"),
            ("missing", count - sum(written["counts"].values()), "messages"),
            ("written_rate", written["bytes"] / sent["seconds"] / 1e6, "MB/s"),
            ("bag_size", written["size"] / 1e6, "MB"),
        ]
        found += [
            {"case": case, "subject": subject, "metric": name, "value": round(value, 4), "unit": unit, "n": count}
            for name, value, unit in values
        ]
    return found


def _measure(subject: str, robot: Path, seconds: float, domain: int, folder: Path, profile: str) -> tuple[Any, Any, float]:
    """What was sent, what is in the bag, and the cores used. profile: of DDS, a file; empty: none."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"}
    if profile:
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(config.root() / profile)
    result, bag = folder / f"{subject}.json", folder / subject
    if subject == "whetstone":
        parameters = folder / "recorder.yaml"
        given = {"robot": str(robot), "run_dir": str(folder / "run"), "realtime": True, "wall_time": True, "restarted": True}
        parameters.write_text(yaml.safe_dump({"/**": {"ros__parameters": given}}))
        argv = [*executable("robot_bringup", "bag_recorder"), "--ros-args", "-r", "__ns:=/so100", "--params-file", str(parameters)]
        bag = folder / "run" / "bags" / "bench"
    else:
        argv = [sys.executable, "-m", "robot_bringup.bench_bags.plain_node", str(robot), str(bag)]
    with (folder / f"{subject}.log").open("w") as log:
        recorder = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        command = [sys.executable, "-m", "robot_bringup.bench_bags.source_node", str(robot), str(seconds), str(result)]
        source = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        time.sleep(5.0)  # imports are not what is measured
        began, before, spent, now = time.monotonic(), _cpu(recorder.pid), 0.0, 1.0
        while source.poll() is None and recorder.poll() is None:
            time.sleep(0.1)
            if not result.exists():
                spent, now = _cpu(recorder.pid) - before, time.monotonic() - began
        recorder.send_signal(signal.SIGINT)
        recorder.wait(60)
    finally:
        for process in (recorder, source):
            if process.poll() is None:
                process.kill()
                process.wait()
    if not result.exists() or not bag.exists():
        raise InputError(f"{subject} recorded nothing: {(folder / f'{subject}.log').read_text().strip()[-300:]}")
    counts: dict[str, int] = {}
    size = 0
    sent = json.loads(result.read_text())
    with open_bag(bag) as opened:
        for message in opened.messages([f"/so100/{topic}" for topic in sent["sent"]]):
            counts[message.topic] = counts.get(message.topic, 0) + 1
            size += len(message.data)
    return sent, {"counts": counts, "bytes": size, "size": sum(path.stat().st_size for path in bag.iterdir())}, spent / now


def _cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
