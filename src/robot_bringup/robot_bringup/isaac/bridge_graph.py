"""The action graph that joins Isaac Sim to ROS 2: nodes, values and connections, as data.

Role: what stage.py hands to OmniGraph, apart from it so that tests can read it without Isaac Sim. Imported by a script beside it: depends
on nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prim:
    """A value that is a path on the stage."""

    path: str


def bridge(scene: Mapping[str, Any], root: str, cameras: Mapping[str, str]) -> tuple[list, list, list]:
    """/clock, joint states out, joint commands in, one render product a camera. scene: of scene.py; root: path of the articulation;
    cameras: name -> path. Returns (name, type) of each node, (attribute, value), (output, input)."""
    space, topics = scene["namespace"], scene["topics"]
    nodes: list = [
        ("tick", "omni.graph.action.OnPlaybackTick"),
        ("context", "isaacsim.ros2.bridge.ROS2Context"),
        ("time", "isaacsim.core.nodes.IsaacReadSimulationTime"),
        ("clock", "isaacsim.ros2.bridge.ROS2PublishClock"),
        ("states", "isaacsim.ros2.bridge.ROS2PublishJointState"),
        ("command", "isaacsim.ros2.bridge.ROS2SubscribeJointState"),
        ("controller", "isaacsim.core.nodes.IsaacArticulationController"),
    ]
    values: list = [
        ("context.inputs:useDomainIDEnvVar", True),
        ("time.inputs:resetOnStop", False),  # the clock must not go back while a run goes on
        ("clock.inputs:topicName", "/clock"),
        ("states.inputs:topicName", topics["joint_states"]),
        ("states.inputs:nodeNamespace", space),
        ("states.inputs:targetPrim", Prim(root)),
        ("command.inputs:topicName", topics["command"]),
        ("command.inputs:nodeNamespace", space),
        ("controller.inputs:robotPath", root),
    ]
    edges: list = [("tick.outputs:tick", f"{name}.inputs:execIn") for name in ("clock", "states", "command", "controller")]
    edges += [("context.outputs:context", f"{name}.inputs:context") for name in ("clock", "states", "command")]
    edges += [("time.outputs:simulationTime", f"{name}.inputs:timeStamp") for name in ("clock", "states")]
    edges += [
        ("command.outputs:jointNames", "controller.inputs:jointNames"),
        ("command.outputs:positionCommand", "controller.inputs:positionCommand"),
    ]
    for camera in scene["cameras"]:
        name = camera["name"]
        nodes += [
            (f"render_{name}", "isaacsim.core.nodes.IsaacCreateRenderProduct"),
            (f"image_{name}", "isaacsim.ros2.bridge.ROS2CameraHelper"),
        ]
        values += [
            (f"render_{name}.inputs:cameraPrim", Prim(cameras[name])),
            (f"render_{name}.inputs:width", camera["width"]),
            (f"render_{name}.inputs:height", camera["height"]),
            (f"image_{name}.inputs:type", "rgb"),
            (f"image_{name}.inputs:topicName", topics["cameras"][name]),
            (f"image_{name}.inputs:nodeNamespace", space),
            (f"image_{name}.inputs:frameId", f"{name}_camera"),
            (f"image_{name}.inputs:resetSimulationTimeOnStop", False),
        ]
        edges += [
            ("tick.outputs:tick", f"render_{name}.inputs:execIn"),
            (f"render_{name}.outputs:execOut", f"image_{name}.inputs:execIn"),
            (f"render_{name}.outputs:renderProductPath", f"image_{name}.inputs:renderProductPath"),
            ("context.outputs:context", f"image_{name}.inputs:context"),
        ]
    return nodes, values, edges
