"""What Isaac Sim is told: the file for its stage script, and the graph that joins it to ROS 2. Isaac Sim itself is not run here."""

from __future__ import annotations

import ast
import json
import math

import pytest

from robot_bringup import cli
from robot_bringup.isaac.bridge_graph import Prim, bridge
from robot_bringup.isaac.scene import STAGE, scene
from whetstone.errors import ConfigError
from whetstone.profile import load_profile

# Inputs and outputs of the nodes as Isaac Sim 4.5 and 5.0 document them, those that may matter here.
DOCUMENTED = {
    "omni.graph.action.OnPlaybackTick": (set(), {"tick", "deltaSeconds", "time"}),
    "isaacsim.ros2.bridge.ROS2Context": ({"domain_id", "useDomainIDEnvVar"}, {"context"}),
    "isaacsim.core.nodes.IsaacReadSimulationTime": ({"resetOnStop"}, {"simulationTime"}),
    "isaacsim.ros2.bridge.ROS2PublishClock": ({"execIn", "context", "timeStamp", "topicName", "nodeNamespace", "queueSize"}, set()),
    "isaacsim.ros2.bridge.ROS2PublishJointState": (
        {"execIn", "context", "timeStamp", "targetPrim", "topicName", "nodeNamespace", "queueSize"},
        set(),
    ),
    "isaacsim.ros2.bridge.ROS2SubscribeJointState": (
        {"execIn", "context", "topicName", "nodeNamespace", "queueSize"},
        {"execOut", "jointNames", "positionCommand", "velocityCommand", "effortCommand", "timeStamp"},
    ),
    "isaacsim.core.nodes.IsaacArticulationController": (
        {"execIn", "robotPath", "targetPrim", "jointNames", "jointIndices", "positionCommand", "velocityCommand", "effortCommand"},
        set(),
    ),
    "isaacsim.core.nodes.IsaacCreateRenderProduct": (
        {"execIn", "cameraPrim", "width", "height", "enabled"},
        {"execOut", "renderProductPath"},
    ),
    "isaacsim.ros2.bridge.ROS2CameraHelper": (
        {"execIn", "context", "renderProductPath", "type", "topicName", "nodeNamespace", "frameId", "resetSimulationTimeOnStop"},
        set(),
    ),
}


@pytest.mark.parametrize("robot", ["franka", "so100"])
def test_the_graph_has_the_profile_s_topics_and_only_documented_attributes(robot: str) -> None:
    profile, given = load_profile(f"{robot}_isaac"), scene(f"{robot}_isaac", "left")
    nodes, values, edges = bridge(given, "/World/robot", {"front": "/World/front_camera", "wrist": "/World/robot/hand/wrist_camera"})
    types, set_to = dict(nodes), dict(values)
    assert len(types) == len(nodes) and len(set_to) == len(values)
    for attribute in (*set_to, *(end for edge in edges for end in edge)):
        name, _, rest = attribute.partition(".")
        side, _, field = rest.partition(":")
        assert field in DOCUMENTED[types[name]][("inputs", "outputs").index(side)], attribute
    fed = {end for _, end in edges}
    assert len(fed) == len(edges), "each input is fed once"
    assert {f"{name}.inputs:execIn" for name, type_ in nodes if "execIn" in DOCUMENTED[type_][0]} <= fed, "every node is run"
    assert set_to["states.inputs:topicName"] == profile.joint_states and set_to["command.inputs:topicName"] == profile.command.topic
    assert {set_to[f"image_{camera.name}.inputs:topicName"] for camera in profile.cameras} == {one.topic for one in profile.cameras}
    spaces = {value for name, value in values if name.endswith("nodeNamespace")}
    assert spaces == {"left"} and set_to["render_wrist.inputs:cameraPrim"] == Prim("/World/robot/hand/wrist_camera")


def test_the_file_says_what_stands_on_the_table_and_what_the_joints_are_called(tmp_path, capsys) -> None:
    out = tmp_path / "scene.json"
    assert cli.main(["isaac-scene", "robot:=franka", f"out:={out}"]) == 0
    said, written = capsys.readouterr().out, json.loads(out.read_text())
    assert str(STAGE) in said and STAGE.is_file()
    profile = load_profile("franka_isaac")
    assert [joint["name"] for joint in written["joints"]] == list(profile.joint_names) and written["namespace"] == "franka"
    assert written["fingers"] == ["panda_finger_joint1", "panda_finger_joint2"] and written["gripper"]["open"] == 0.04
    bodies = {body["name"]: body for body in written["bodies"]}
    assert set(bodies) == {"table", "red_cube", "blue_cube", "tray", "mark", "button_base"}
    (cube,) = bodies["red_cube"]["shapes"]
    assert cube["size"] == [0.04, 0.04, 0.04] and bodies["red_cube"]["mass"] == pytest.approx(400 * 0.04**3)
    (front, wrist) = written["cameras"]
    assert (front["link"], wrist["link"]) == ("", "hand") and math.degrees(front["horizontal"]) == pytest.approx(46)


def test_the_stage_script_is_python_and_asks_for_no_key_that_the_file_lacks() -> None:
    tree, given = ast.parse(STAGE.read_text()), scene("so100_isaac", "so100")
    asked = [
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "SCENE"
        and isinstance(node.slice, ast.Constant)
    ]
    assert set(asked) >= {"bodies", "cameras", "joints", "gripper", "fingers", "base"} and set(asked) <= set(given)


def test_a_robot_that_does_not_take_joint_states_is_refused(tmp_path, capsys) -> None:
    with pytest.raises(ConfigError, match="use a profile with command.kind joint_state"):
        scene("franka", "franka")
    assert cli.main(["isaac-scene", "robot:=fr3"]) == 2 and "has no profile for sim:=isaac" in capsys.readouterr().err
    assert cli.main(["isaac-scene", f"out:={tmp_path}/none/x.json"]) == 2
