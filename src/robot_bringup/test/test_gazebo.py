"""What Gazebo is told: the world is MuJoCo's scene, the robot and the bridge are the profile's. Gazebo itself is not run here."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from robot_bringup.gazebo import check
from robot_bringup.gazebo.bringup import bringup, described, turns
from robot_bringup.gazebo.robot import ready
from robot_bringup.gazebo.world import angles, rotation, world_sdf
from robot_bringup.sim.exported import export
from robot_bringup.sim.simulation import Simulation
from robot_bringup.sim.tasks import STANDING
from whetstone import config
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.profile import Camera, RobotProfile, load_profile

ROBOTS = ("franka", "so100")


def numbers(element: ET.Element | None) -> np.ndarray:
    assert element is not None and element.text
    return np.array([float(word) for word in element.text.split()])


def matrix(rpy: np.ndarray) -> np.ndarray:
    """Of roll, pitch and yaw about fixed axes, written another way than the code does."""
    roll, pitch, yaw = rpy
    c, s = np.cos, np.sin
    x = np.array([[1, 0, 0], [0, c(roll), -s(roll)], [0, s(roll), c(roll)]])
    y = np.array([[c(pitch), 0, s(pitch)], [0, 1, 0], [-s(pitch), 0, c(pitch)]])
    z = np.array([[c(yaw), -s(yaw), 0], [s(yaw), c(yaw), 0], [0, 0, 1]])
    return z @ y @ x


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_angles_are_those_of_the_rotation(q: list[float]) -> None:
    turned = rotation(tuple(np.array(q) / np.linalg.norm(q)))
    np.testing.assert_allclose(matrix(np.array(angles(turned))), turned, atol=1e-6)


def test_angles_where_roll_and_yaw_are_one() -> None:
    for pitch in (np.pi / 2, -np.pi / 2):
        turned = matrix(np.array([0.3, pitch, 0.9]))
        np.testing.assert_allclose(matrix(np.array(angles(turned))), turned, atol=1e-6)


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_world_is_the_scene_that_mujoco_has(robot: str) -> None:
    """Names, poses, shapes, masses, colours and friction of every object, against the compiled model."""
    profile = load_profile(f"{robot}_gazebo")
    model = Simulation(profile, cameras=False).model
    root = ET.fromstring(world_sdf(export(profile), profile, robot, robot))
    world = root.find("world")
    assert root.tag == "sdf" and world is not None and world.get("name") == robot
    models = {one.get("name"): one for one in world.findall("model")}
    assert set(models) == {"table", "red_cube", "blue_cube", *STANDING, "front_camera"}
    for name, found in models.items():
        assert [child.tag for child in found if child.tag not in ("static", "pose", "link", "plugin")] == []
        if name == "front_camera":
            continue
        ids = (
            [i for i in range(model.ngeom) if model.body(model.geom(i).bodyid[0]).name == name]
            if name != "table"
            else [model.geom("table").id]
        )
        if name != "table":
            np.testing.assert_allclose(numbers(found.find("pose"))[:3], model.body(name).pos, atol=1e-8)
        visuals, collisions = found.findall("link/visual"), found.findall("link/collision")
        assert len(visuals) == len(ids) and len(collisions) == sum(bool(model.geom(i).contype[0]) for i in ids)
        for visual, index in zip(visuals, ids):
            geom = model.geom(index)
            np.testing.assert_allclose(numbers(visual.find("pose"))[:3], geom.pos, atol=1e-8)
            np.testing.assert_allclose(numbers(visual.find("material/diffuse")), geom.rgba, atol=1e-6)
            if geom.type[0] == mujoco.mjtGeom.mjGEOM_BOX:
                np.testing.assert_allclose(numbers(visual.find("geometry/box/size")), 2 * geom.size, atol=1e-8)
            else:
                np.testing.assert_allclose(numbers(visual.find("geometry/cylinder/radius")), geom.size[0], atol=1e-8)
                np.testing.assert_allclose(numbers(visual.find("geometry/cylinder/length")), 2 * geom.size[1], atol=1e-8)
    (mass,) = numbers(models["red_cube"].find("link/inertial/mass"))
    assert mass == pytest.approx(model.body("red_cube").mass[0])
    np.testing.assert_allclose(numbers(models["red_cube"].find("link/collision/surface/friction/ode/mu")), 1.5)
    assert all(models[name].find("static") is None for name in STANDING), "a reset moves them"
    assert models["mark"].find("link/gravity") is not None, "nothing holds it up"


@pytest.mark.parametrize("robot", ROBOTS)
def test_cameras_see_what_mujoco_s_see(robot: str) -> None:
    """Where the optical axis and the image's up point, and how wide: in the frame of the link that holds the camera."""
    profile = load_profile(f"{robot}_gazebo")
    model = Simulation(profile, cameras=False).model
    scene = export(profile)
    world = ET.fromstring(world_sdf(scene, profile, robot, robot))
    urdf = ET.fromstring(ready(urdf_of(profile), profile, scene, robot, Path("c.yaml"), "hand_link"))
    front, wrist = world.find(".//model[@name='front_camera']/link/sensor"), urdf.find("gazebo[@reference='hand_link']/sensor")
    sensors = {"front": front, "wrist": wrist}
    for name, sensor in sensors.items():
        assert sensor is not None
        camera, pose = model.camera(name), numbers(sensor.find("pose"))
        np.testing.assert_allclose(pose[:3], camera.pos, atol=1e-6)
        ours, theirs = np.zeros(9), matrix(pose[3:])
        mujoco.mju_quat2Mat(ours, camera.quat)
        ours = ours.reshape(3, 3)
        np.testing.assert_allclose(theirs[:, 0], -ours[:, 2], atol=1e-6, err_msg="what it looks at")
        np.testing.assert_allclose(theirs[:, 2], ours[:, 1], atol=1e-6, err_msg="what is up")
        assert np.degrees(numbers(sensor.find("camera/horizontal_fov")))[0] == pytest.approx(camera.fovy[0])  # square pictures
        size = (profile.camera(name).width, profile.camera(name).height)
        assert (numbers(sensor.find("camera/image/width"))[0], numbers(sensor.find("camera/image/height"))[0]) == size
        topic = sensor.find("topic")
        assert topic is not None and topic.text == f"/{robot}/{profile.camera(name).topic}"


def urdf_of(profile: RobotProfile) -> str:
    """A chain of links with the profile's joints, and what a description may say of simulators itself."""
    names = [*profile.joint_names, profile.gripper.joint]
    body = '<link name="base"/>'
    for index, name in enumerate(names):
        parent, child = "base" if not index else f"link_{index - 1}", "hand_link" if index == len(names) - 2 else f"link_{index}"
        parent = "hand_link" if index == len(names) - 1 else parent
        body += (
            f'<link name="{child}"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>'
        )
        body += f'<joint name="{name}" type="revolute"><parent link="{parent}"/><child link="{child}"/><axis xyz="0 0 1"/>'
        body += '<limit lower="-3" upper="3" effort="10" velocity="2"/></joint>'
    body += '<ros2_control name="theirs" type="system"/><gazebo><plugin filename="theirs" name="theirs"/></gazebo>'
    return f'<robot name="arm">{body}</robot>'


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_robot_is_fixed_and_behind_gz_ros2_control_alone(robot: str) -> None:
    profile = load_profile(f"{robot}_gazebo")
    made = ready(urdf_of(profile), profile, export(profile), "left", Path("/c.yaml"), "hand_link", (0.0, 0.0, 1.5))
    root = ET.fromstring(made)
    (control,) = root.findall("ros2_control")
    assert {joint.get("name") for joint in control.findall("joint")} == {*profile.joint_names, profile.gripper.joint}
    for joint in control.findall("joint"):
        assert [one.get("name") for one in joint.findall("command_interface")] == ["position"]
        assert [one.get("name") for one in joint.findall("state_interface")] == ["position", "velocity"]
    starts = {joint.get("name"): float(joint.findtext(".//param", "nan")) for joint in control.findall("joint")}
    np.testing.assert_allclose([starts[name] for name in profile.joint_names], profile.home)
    (plugin,) = root.findall("gazebo/plugin")
    assert plugin.get("filename") == "gz_ros2_control-system"
    assert (plugin.findtext("parameters"), plugin.findtext("ros/namespace")) == ("/c.yaml", "/left")
    fixed = root.find("joint[@name='world_to_robot']")
    assert fixed is not None
    child, origin = fixed.find("child"), fixed.find("origin")
    assert child is not None and origin is not None and (child.get("link"), origin.get("rpy")) == ("base", "0 0 1.5")
    model = mujoco.MjModel.from_xml_string(made)  # MuJoCo reads URDF: an independent look at whether it is one
    assert model.njnt == len(profile.joints) + 1


def test_a_description_that_does_not_fit_is_refused_by_name() -> None:
    profile = load_profile("franka_gazebo")
    scene = export(profile)
    for urdf, hand, said in (
        ("<robot", "hand_link", "not valid XML"),
        ("<sdf/>", "hand_link", "its root is <sdf>"),
        (urdf_of(load_profile("so100")), "hand_link", "no joint 'fer_joint1'; it has shoulder_pan_joint"),
        (urdf_of(profile), "palm", "no link 'palm' for camera 'wrist'; give hand:=LINK, one of base, link_0"),
    ):
        with pytest.raises(InputError, match=said):
            ready(urdf, profile, scene, "franka", Path("c.yaml"), hand)


@pytest.mark.parametrize("robot", ROBOTS)
def test_bridge_and_controllers_speak_the_profile_s_words(robot: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Camera, "topic", property(lambda camera: f"eyes/{camera.name}"))  # whatever the profile says
    profile = load_profile(f"{robot}_gazebo")
    made = bringup(robot, "lab/left", tmp_path / "files")
    made.write(urdf_of(profile), "hand_link", (0.0, 0.0, 0.0))
    entries = {entry["ros_topic_name"]: entry for entry in yaml.safe_load(made.bridge_file.read_text())}
    objects = {f"/lab/left/objects/{name}/pose" for name in Simulation(profile, cameras=False).world.objects}
    assert set(entries) == {"/clock", *(f"/lab/left/{camera.topic}" for camera in profile.cameras), *objects}
    assert {entry["direction"] for entry in entries.values()} == {"GZ_TO_ROS"}
    sdf = ET.parse(made.world_file).getroot()
    published = {f"/model/{one.get('name')}/pose" for one in sdf.findall("world/model") if one.find("plugin") is not None}
    assert {entry["gz_topic_name"] for name, entry in entries.items() if name in objects} == published
    sensors = [*sdf.findall(".//sensor/topic"), *ET.parse(made.robot_file).findall(".//sensor/topic")]
    topics = {one.text for one in sensors}
    assert {entry["gz_topic_name"] for entry in entries.values() if entry["ros_type_name"] == "sensor_msgs/msg/Image"} == topics
    assert made.world == "lab_left" and made.bridge_arguments[0].startswith("/world/lab_left/set_pose@ros_gz_interfaces/srv/SetEntityPose@")
    assert [one.get("name") for one in sdf.findall("world")] == ["lab_left"] and str(made.world_file) in made.gz_arguments(True)

    configured = yaml.safe_load(made.controllers_file.read_text())
    manager = configured["/**/controller_manager"]["ros__parameters"]
    assert set(made.controllers) == {name for name, value in manager.items() if isinstance(value, dict)}
    assert manager["update_rate"] % profile.rate == 0 and manager["use_sim_time"] is True
    arm, grip = (configured[f"/**/{name}"]["ros__parameters"] for name in made.controllers[1:])
    assert arm["joints"] == list(profile.joint_names) and arm["allow_nonzero_velocity_at_trajectory_end"] is True
    assert grip["joint"] == profile.gripper.joint and profile.gripper.action == "gripper_controller/gripper_cmd"


def test_arguments_that_cannot_be_meant() -> None:
    so100, franka = load_profile("so100_gazebo"), load_profile("franka_gazebo")
    with pytest.raises(ConfigError, match="give its URDF or xacro file, description:=FILE"):
        described(so100, "", "")
    with pytest.raises(ConfigError, match="description:=nowhere.urdf: no such file"):
        described(so100, "nowhere.urdf", "hand")
    assert described(franka, "", "")[0::3] == ("franka_description", "fer_hand") and described(franka, "", "palm")[3] == "palm"
    assert turns("0 0 1.57") == (0.0, 0.0, 1.57)
    for wrong in ("", "0 0", "0 0 nan", "a b c"):
        with pytest.raises(ConfigError, match="must be three numbers"):
            turns(wrong)
    with pytest.raises(ConfigError, match="has no profile for sim:=gazebo"):
        bringup("fr3", "", Path("x"))


@pytest.mark.skipif(not check.missing(), reason="Gazebo is installed here: make test-gazebo runs it")
def test_without_gazebo_the_check_says_what_to_install() -> None:
    with pytest.raises(AssetError, match="Gazebo was NOT tested: not installed here .*gz.*ros_gz_sim.*sudo apt install ros-jazzy-ros-gz"):
        check.main([])


def test_the_launch_file_declares_what_its_bringup_takes() -> None:
    """Compiled and read, where launch is not installed; tests/launch has it run."""
    path = config.root() / "launch" / "gazebo.launch.py"
    text = path.read_text()
    compile(text, str(path), "exec")
    assert importlib.util.find_spec("robot_bringup.gazebo.bringup") is not None
    for name in ("robot", "namespace", "description", "hand", "base_rpy", "headless"):
        assert f'"{name}": (' in text and text.count(f'given["{name}"]') >= 1
