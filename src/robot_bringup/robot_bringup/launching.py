"""The plan as launch actions, for `ros2 launch`.

Role: the only module that imports launch and launch_ros; used by launch/*.launch.py. Arguments, nodes, parameters and
environment come from robot_bringup.plan, as for `whetstone run`. A wrong argument and a node that dies end the launch with
one line that names it and exit code 1.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from robot_bringup import records
from robot_bringup.command import torchrun
from robot_bringup.plan import NodeSpec, Plan, plan
from robot_bringup.preparation import Preparation
from robot_bringup.run_arguments import Mode, arguments_of
from robot_bringup.supervisor import RESTARTS, last_words
from whetstone import config, jsonfile
from whetstone.errors import ConfigError

_prepared: list[Preparation] = []
"""Holds the lock on the ROS domain for as long as the launch lives."""


def describe(mode: Mode) -> LaunchDescription:
    """What a launch file returns: the mode's arguments, and the nodes once the arguments are known."""
    declared = []
    for argument in arguments_of(mode):
        options = argument.options()
        words = f"{argument.description} ({', '.join(options)})" if options else argument.description
        declared.append(DeclareLaunchArgument(argument.name, default_value=argument.default, description=words))
    return LaunchDescription([*declared, OpaqueFunction(function=_start, args=[mode])])


def _start(context: LaunchContext, mode: Mode) -> list[Any]:
    names = [argument.name for argument in arguments_of(mode)]
    for word in context.argv:
        name = word.partition(":=")[0]
        if ":=" in word and name not in names:
            raise ConfigError(config.unknown("argument", name, names))
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    if given.get("resume", "").lower() == "true":  # the run's own arguments stand in for those that nobody gave now
        given = {name: value for name, value in given.items() if any(word.startswith(f"{name}:=") for word in context.argv)}
    planned = plan(mode, given)
    preparation = Preparation(planned)
    _prepared.append(preparation)
    actions: list[Any] = [LogInfo(msg=f"run directory: {planned.run_dir}")]
    actions += [SetEnvironmentVariable(name, value) for name, value in planned.environment.items()]
    actions += [_node(planned, node, preparation.parameter_files[node.name]) for node in planned.nodes]
    return actions


def _node(planned: Plan, node: NodeSpec, parameter_file: Path, restarts: int = 0) -> Node:
    """restarts: how often it has been started again."""
    again = [dict.fromkeys(node.again, True)] if restarts else []
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[str(parameter_file), *again],
        remappings=list(node.remappings),
        prefix=shlex.join(torchrun(node)) or None,
        output="both",
        # SIGTERM is a second signal: who parks an arm would stop at once.
        sigterm_timeout=str(max(2.5, node.stopping)),
        sigkill_timeout="1.5",
        on_exit=_on_exit(planned, node, parameter_file, restarts),
    )


def _on_exit(
    planned: Plan, node: NodeSpec, parameter_file: Path, restarts: int
) -> Callable[[ProcessExited, LaunchContext], list[Any] | None]:
    """The essential node's end is the run's end; any other node's end before that is a failure, unless it was killed and may go on."""

    def ended(event: ProcessExited, context: LaunchContext) -> list[Any] | None:
        if context.is_shutdown:
            return None
        if node.again and event.returncode < 0 and restarts < RESTARTS:
            said = f"{node.name} was killed (signal {-event.returncode}); started again, {restarts + 1} of {RESTARTS}"
            return [LogInfo(msg=said), _node(planned, node, parameter_file, restarts + 1)]
        if node.name == planned.essential:
            outcome = jsonfile.read(planned.run_dir / records.OUTCOME)
            reason = outcome["reason"] if outcome else f"{node.name} died (exit code {event.returncode})"
            if event.returncode == 0:
                return [LogInfo(msg=reason), EmitEvent(event=Shutdown(reason=reason))]
            raise RuntimeError(reason)
        logs = sorted((planned.run_dir / "logs").glob(f"*_{event.pid}_*.log"))
        words = last_words(logs[-1]) if logs else "its output is above"
        raise RuntimeError(f"{node.name} died (exit code {event.returncode}): {words}")

    return ended
