"""`whetstone replay`: play bags into the nodes that run.

Role: reads the command line, starts the replay (node.py) as a process of its own, and hands on its exit code. Does not depend on ROS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from robot_bringup.command import executable
from whetstone.arguments import expanded, parse_arguments, ros_domain
from whetstone.arguments import run as run_main
from whetstone.bags.reader import open_bag
from whetstone.bags.roles import robot_of
from whetstone.errors import ConfigError
from whetstone.profile import load_profile

ARGUMENTS = {
    "to": "reward", "robot": "", "namespace": "", "rate": "0", "mapping": "", "instruction": "", "resize": "no", "every": "0",
    "rewards": "", "deadline": "20", "domain_id": "",
}  # fmt: skip
HELP = """whetstone replay BAG... name:=value ...: say recorded episodes again to nodes that run, losing nothing

  to:=reward              who must answer each frame before the next comes: reward, policy, or both joined by a comma
  robot:=                 a file of config/robots; empty: as the bag says
  namespace:=             of the nodes; empty: as the bag says, else the robot's name
  rate:=0                 times the bag's own speed, at most; 0: as fast as they answer
  mapping:=               a file of config/bags, for bags whose topics have other names
  instruction:=           what the robot was told; empty: as the bag says
  resize:=no              images of another size than the profile's: no (refuse), stretch, crop
  every:=0                control steps between two scored frames; 0: as the reward node has it
  rewards:=               file that gets one line of JSON per reward
  deadline:=20            seconds that an answer may take
  domain_id:=             ROS domain; empty: $ROS_DOMAIN_ID
"""


def parameters(words: list[str]) -> tuple[dict[str, object], str, str]:
    """Of the node, its namespace and its domain. Raises ConfigError, InputError."""
    bags = [word for word in words if ":=" not in word]
    values = parse_arguments([word for word in words if ":=" in word], ARGUMENTS)
    if not bags:
        raise ConfigError("whetstone replay needs a bag, for example runs/RUN/bags/train-000-0000")
    domain = str(ros_domain(values["domain_id"]))
    paths = [str(expanded(bag).absolute()) for bag in bags]
    with open_bag(paths[0]) as bag:
        told, robot = bag.metadata, values["robot"] or robot_of(bag)
    if not robot:
        raise ConfigError(f"{bags[0]} does not say which robot it is of; say it, robot:=franka")
    name = load_profile(robot).name
    numbers: dict[str, object] = {}
    for key, kind in (("rate", float), ("every", int), ("deadline", float)):
        try:
            numbers[key] = kind(values[key])
        except ValueError:
            raise ConfigError(f"argument {key}:={values[key]} must be a number") from None
    texts = {key: values[key] for key in ("mapping", "instruction", "resize")}
    found = {
        "bags": paths,
        "robot": robot,
        "to": [who for who in values["to"].split(",") if who],
        "rewards": str(expanded(values["rewards"]).absolute()) if values["rewards"] else "",
    }
    namespace = values["namespace"] or told.get("whetstone.namespace", "") or name
    return {**found, **numbers, **texts}, "/" + namespace.strip("/"), domain


def main(words: list[str]) -> None:
    given, namespace, domain = parameters(words)
    with tempfile.TemporaryDirectory(prefix="whetstone-replay-") as folder:
        file = Path(folder) / "replay.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": given}}, allow_unicode=True), encoding="utf-8")
        argv = [*executable("robot_bringup", "replay"), "--ros-args", "-r", f"__ns:={namespace}", "--params-file", str(file)]
        sys.exit(subprocess.run(argv, env={**os.environ, "ROS_DOMAIN_ID": domain}, check=False).returncode)


if __name__ == "__main__":
    run_main(main, HELP)
