"""Which topic is which: by the profile, by a file, by a guess; what is not clear names the choices and the argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_samples import JAZZY, START, image, joints, picture, write_mcap

from whetstone.bags.mapping import Mapping, load_mapping
from whetstone.bags.reader import Bag, open_bag
from whetstone.bags.roles import find_roles, instruction_of, one_camera, pictures
from whetstone.config import available, parse
from whetstone.errors import ConfigError, InputError
from whetstone.profile import load_profile

FRANKA, FOLLOWER, PANDA = load_profile("franka"), load_profile("so101_follower"), load_profile("panda")
ARM = [f"panda_joint{index}" for index in range(1, 8)]
SO101 = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
Open = Callable[..., Bag]


def compressed() -> Any:
    kind = JAZZY.types["sensor_msgs/msg/CompressedImage"]
    return kind(header=image(START, picture(0)).header, format="jpeg", data=np.zeros(3, np.uint8))


def floats(count: int) -> Any:
    layout = JAZZY.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return JAZZY.types["std_msgs/msg/Float64MultiArray"](layout=layout, data=np.zeros(count))


def text(words: str) -> Any:
    return JAZZY.types["std_msgs/msg/String"](data=words)


def state(names: Sequence[str]) -> Any:
    return joints(START, [0.0] * len(names), names)


@pytest.fixture
def bag(tmp_path: Path) -> Any:
    opened: list[Bag] = []

    def make(**topics: Any) -> Bag:
        told = [("/" + topic.replace("__", "/"), START + index, message) for index, (topic, message) in enumerate(topics.items())]
        opened.append(open_bag(write_mcap(tmp_path / f"bag{len(opened)}.mcap", told)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


IMAGE = image(START, picture(0))


def test_our_own_names_in_a_namespace(bag: Open) -> None:
    ours = bag(
        franka__camera__front__image_raw=IMAGE,
        franka__camera__wrist__image_raw=IMAGE,
        franka__camera__third__image_raw=IMAGE,
        franka__franka__joint_states=state(ARM),
        franka__teleop__command=state(ARM),
    )
    roles = find_roles(ours, FRANKA)
    assert roles.cameras == {"front": "/franka/camera/front/image_raw", "wrist": "/franka/camera/wrist/image_raw"}
    assert roles.joint_states == "/franka/franka/joint_states" and not roles.ours


def test_so101_ros_physical_ai(bag: Open) -> None:
    """The topics of its recorder's configuration, without a word and by the file."""
    theirs = bag(
        follower__image_raw=IMAGE,
        static_camera__image_raw=IMAGE,
        follower__joint_states=state(SO101),
        follower__forward_controller__commands=floats(6),
    )
    for mapping in (None, load_mapping("so101_ros_physical_ai")):
        roles = find_roles(theirs, FOLLOWER, mapping)
        assert roles.cameras == {"front": "/static_camera/image_raw", "wrist": "/follower/image_raw"}
        assert roles.joint_states == "/follower/joint_states" and roles.commands == "/follower/forward_controller/commands"


def test_rosetta(bag: Open) -> None:
    """The topics of its contract so_101: compressed pictures, the leader's joints as commands."""
    theirs = bag(
        front_camera__image_raw__compressed=compressed(),
        top_camera__image_raw__compressed=compressed(),
        wrist_camera__image_raw__compressed=compressed(),
        follower_arm__joint_states=state(("shoulder_pan", "shoulder_lift", "elbow", "wrist_pitch", "wrist_roll", "wrist_yaw")),
        leader_arm__joint_states=state(("shoulder_pan", "shoulder_lift", "elbow", "wrist_pitch", "wrist_roll", "wrist_yaw")),
    )
    roles = find_roles(theirs, FOLLOWER)
    assert roles.cameras == {"front": "/front_camera/image_raw/compressed", "wrist": "/wrist_camera/image_raw/compressed"}
    assert (roles.joint_states, roles.commands) == ("/follower_arm/joint_states", "/leader_arm/joint_states")
    roles = find_roles(theirs, FOLLOWER, load_mapping("rosetta_so_101"))
    assert roles.cameras["front"] == "/top_camera/image_raw/compressed"
    assert roles.mapping.joints["elbow_flex"] == "elbow" and roles.mapping.gripper.joint == "wrist_yaw"


def test_a_franka_with_two_numbered_cameras(bag: Open) -> None:
    """As people record DROID's set-up: no name says which camera is which, so one must."""
    theirs = bag(
        camera1__camera1__color__image_raw=IMAGE,
        camera1__camera1__color__image_raw__compressed=compressed(),
        camera1__camera1__depth__image_rect_raw=IMAGE,
        camera2__camera2__color__image_raw=IMAGE,
        joint_states=state([*ARM, "panda_finger_joint1", "panda_finger_joint2"]),
        franka_gripper__joint_states=state(["panda_finger_joint1", "panda_finger_joint2"]),
    )
    assert pictures(theirs) == {"camera1": "/camera1/camera1/color/image_raw", "camera2": "/camera2/camera2/color/image_raw"}
    with pytest.raises(InputError) as caught:
        find_roles(theirs, PANDA)
    assert "no topic is clearly camera 'front'; the bag has camera1 (/camera1/camera1/color/image_raw), camera2 (" in str(caught.value)
    assert str(caught.value).endswith("say which, cameras:=front=TOPIC")
    roles = find_roles(theirs, PANDA, given={"wrist": "/camera2/camera2/color/image_raw"})
    assert roles.cameras == {"front": "/camera1/camera1/color/image_raw", "wrist": "/camera2/camera2/color/image_raw"}
    assert roles.joint_states == "/joint_states" and roles.commands == ""


def test_a_camera_and_joint_states(bag: Open) -> None:
    theirs = bag(image_raw=IMAGE, joint_states=state(ARM))
    roles = find_roles(theirs, None)
    assert roles.cameras == {"camera": "/image_raw"} and roles.joint_states == "/joint_states"
    assert find_roles(theirs, PANDA, cameras=["front"]).cameras == {"front": "/image_raw"}
    assert one_camera(theirs) == one_camera(theirs, "camera") == one_camera(theirs, "/image_raw") == "/image_raw"


def test_two_cameras_when_one_was_asked(bag: Open) -> None:
    theirs = bag(left__image_raw=IMAGE, right__image_raw=IMAGE)
    with pytest.raises(
        InputError, match=r"one camera is asked for and the bag has left \(/left/image_raw\), right \(/right/image_raw\)"
    ) as one:
        one_camera(theirs)
    assert str(one.value).endswith("say which, camera:=NAME")
    with pytest.raises(InputError, match=r"one camera is asked for and the bag has left .*cameras:=main=TOPIC$"):
        find_roles(theirs, None, cameras=["main"])
    assert find_roles(theirs, None).cameras == {"left": "/left/image_raw", "right": "/right/image_raw"}


def test_no_images(bag: Open) -> None:
    theirs = bag(joint_states=state(ARM))
    for ask in (lambda: one_camera(theirs), lambda: find_roles(theirs, PANDA)):
        with pytest.raises(InputError, match=r"the bag has no images .*; it has /joint_states \(sensor_msgs/msg/JointState\)$"):
            ask()


def test_a_wrong_topic_in_the_mapping(bag: Open) -> None:
    theirs = bag(left__image_raw=IMAGE, joint_states=state(ARM))
    with pytest.raises(
        InputError, match=r"unknown topic '/left/image'; did you mean '/left/image_raw'\? it has /left/image_raw, /joint_states"
    ):
        find_roles(theirs, PANDA, Mapping(cameras={"front": "/left/image"}))


def test_several_joint_states(bag: Open) -> None:
    theirs = bag(image_raw=IMAGE, left__joint_states=state(ARM), right__joint_states=state(ARM))
    with pytest.raises(
        InputError, match=r"several joint states \(/left/joint_states, /right/joint_states\); say which, joint_states:=TOPIC"
    ):
        find_roles(theirs, PANDA, cameras=["front"])
    assert find_roles(theirs, PANDA, Mapping(joint_states="/left/joint_states"), ["front"]).joint_states == "/left/joint_states"


def test_what_the_robot_was_told(bag: Open) -> None:
    theirs = bag(image_raw=IMAGE, language_instruction=text("open the drawer"), words=text("close it"))
    assert instruction_of(theirs) == "open the drawer"
    assert instruction_of(theirs, Mapping(instruction="/words")) == "close it"
    assert instruction_of(theirs, replace(Mapping(), instruction="push")) == "push"
    theirs.metadata["lerobot.operator_prompt"] = "pick it up"
    assert instruction_of(theirs) == "pick it up"
    assert instruction_of(bag(image_raw=IMAGE)) == ""


def test_the_file_is_checked() -> None:
    assert {"so101_ros_physical_ai", "rosetta_so_101"} <= set(available("bags"))
    for data, words in (
        ({"camera": {}}, "key 'camera' is unknown; did you mean 'cameras'?"),
        ({"gripper": {"closed": 0.0}}, "key 'gripper': 'closed' and 'open' belong together"),
        ({"gripper": {"opening": 1.0, "joint": "a"}}, "'opening' says that the bag has no gripper"),
        ({"gripper": {"opening": 2.0}}, "must be at most 1"),
        ({"commands": {"names": ["a"]}}, "key 'commands.topic' is missing"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(Mapping, data, "my.yaml")
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="unknown bag 'so101_ros_physical'; did you mean 'so101_ros_physical_ai'"):
        load_mapping("so101_ros_physical")
