"""From a node of the plan to the command that runs it.

Role: finds a node's executable through the installed package's entry points, so that it runs in this very interpreter, and
puts the standard ROS arguments behind it. Does not depend on ROS.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from robot_bringup.plan import NodeSpec
from robot_bringup.supervisor import Command
from whetstone.errors import ConfigError


def command(node: NodeSpec, parameter_file: Path) -> Command:
    """argv of the node. Raises ConfigError where its package or executable is not installed."""
    arguments = ["--ros-args", "-r", f"__node:={node.name}", "-r", f"__ns:={node.namespace}"]
    for source, target in node.remappings:
        arguments += ["-r", f"{source}:={target}"]
    argv = (*torchrun(node), *executable(node.package, node.executable), *arguments, "--params-file", str(parameter_file))
    return Command(node.name, argv, tuple(word for name in node.again for word in ("-p", f"{name}:=true")), node.stopping)


def torchrun(node: NodeSpec) -> tuple[str, ...]:
    """What stands in front of a node's command where it is several processes on this machine."""
    if node.processes == 1:
        return ()
    return (
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={node.processes}", "--no-python"
    )  # fmt: skip


def executable(package: str, name: str) -> tuple[str, ...]:
    """How to start the console script `name` of `package` with this interpreter."""
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise ConfigError(f"package {package} is not installed; run `make setup`, then `source scripts/env.sh`") from None
    for entry in distribution.entry_points.select(group="console_scripts", name=name):
        if not re.fullmatch(r"[\w.]+:\w+", entry.value):
            break
        return sys.executable, "-c", f"import sys; from {entry.module} import {entry.attr}; sys.exit({entry.attr}())"
    raise ConfigError(f"package {package} has no executable {name}; rebuild with `colcon build`")
