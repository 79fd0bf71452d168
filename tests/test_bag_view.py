"""`whetstone view`: what of a bag is shown, and how, by a rerun that only notes what it is told (the real one is half a gigabyte)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from bag_samples import JAZZY, START, header, image, joints, picture, write_mcap

from robot_bringup.cli import main
from whetstone.bags.writing import typestore
from whetstone.config import root
from whetstone.profile import load_profile


class Noting:
    """The functions of rerun that the command calls."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, Any]] = []
        self.times: list[Any] = []
        self.saved = ""
        self.blueprint = MagicMock()

    def init(self, name: str, recording_id: str) -> None:
        assert name == "whetstone"

    def save(self, path: str, default_blueprint: Any) -> None:
        self.saved = path

    def set_time(self, timeline: str, timestamp: Any) -> None:
        self.times.append(timestamp)

    def log(self, path: str, what: Any) -> None:
        self.logged.append((path, what))

    def disconnect(self) -> None: ...

    Scalars = staticmethod(float)

    @staticmethod
    def Image(array: np.ndarray) -> Any:
        return SimpleNamespace(compress=lambda jpeg_quality: array)

    @staticmethod
    def EncodedImage(contents: bytes, media_type: str) -> Any:
        return contents, media_type


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    jpeg = JAZZY.types["sensor_msgs/msg/CompressedImage"](header=header(START), format="jpeg", data=np.arange(5, dtype=np.uint8))
    words = JAZZY.types["std_msgs/msg/String"](data="not shown")
    told = [
        ("/front/image_raw", START, image(START, picture(1))),
        ("/wrist/image_raw/compressed", START + 1, jpeg),
        ("/joint_states", START + 2, joints(START, [0.5, np.nan])),
        ("/words", START + 3, words),
        ("/joint_states", START + 2_000_000_000, joints(START, [0.7, 0.8])),
    ]
    return write_mcap(tmp_path / "bag.mcap", told)


def test_what_is_shown(bag: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rerun = Noting()
    monkeypatch.setitem(sys.modules, "rerun", rerun)
    assert main(["view", str(bag), "save:=x.rrd"]) == 0
    assert "4 messages of 3 topics: x.rrd" in capsys.readouterr().out and rerun.saved == "x.rrd"
    (front, pixels), wrist, *curves = rerun.logged
    np.testing.assert_array_equal(pixels, picture(1))
    assert front == "/front/image_raw" and wrist == ("/wrist/image_raw/compressed", (bytes(range(5)), "image/jpeg"))
    assert curves == [("/joint_states/a", 0.5), ("/joint_states/a", 0.7), ("/joint_states/b", 0.8)]
    assert rerun.times[0] == np.datetime64(START, "ns")
    rerun.logged.clear()
    assert main(["view", str(bag), "save:=x.rrd", "topics:=/joint_states", "start:=1"]) == 0
    assert [path for path, _ in rerun.logged] == ["/joint_states/a", "/joint_states/b"]


def test_without_rerun(bag: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    for words, error in (
        (["view", str(bag)], "whetstone view needs rerun: python -m pip install -r requirements-view.txt"),
        (["view", str(bag), "topics:=/joint_state"], "did you mean '/joint_states'?"),
        (["view", str(bag), "start:=soon"], "argument start:=soon is not a number of seconds"),
        (["view", str(bag.parent / "no.mcap")], "no such file or folder"),
    ):
        assert main(words) == 2
        assert error in capsys.readouterr().err
    assert main(["view"]) == 0 and "whetstone view BAG" in capsys.readouterr().out


# Foxglove's layouts.


@pytest.mark.parametrize("robot", ["franka", "so100"])
def test_the_foxglove_layout_speaks_of_what_a_run_publishes(robot: str) -> None:
    """Every panel is in the layout, every path is a topic of the profile and a field of its type."""
    profile, data = load_profile(robot), json.loads((root() / "config" / "foxglove" / f"{robot}.json").read_text(encoding="utf-8"))

    def leaves(node: Any) -> list[str]:
        return [node] if isinstance(node, str) else leaves(node["first"]) + leaves(node["second"])

    assert sorted(leaves(data["layout"])) == sorted(data["configById"])
    kinds = {name: f"whetstone_msgs/msg/{name.rpartition('/')[2].title()}" for name in ("episode", "reward", "guard", "policy/command")}
    kinds |= {profile.joint_states: "sensor_msgs/msg/JointState"}
    shown = set()
    for panel in data["configById"].values():
        if "imageMode" in panel:
            shown.add(panel["imageMode"]["imageTopic"])
        for path in [*(one["value"] for one in panel.get("paths", ())), *filter(None, [panel.get("topicPath")])]:
            topic, _, field = path.removeprefix(f"/{robot}/").partition(".")
            fields = [name for name, _ in typestore().fielddefs[kinds[topic]][1]]
            assert not field or field.partition("[")[0] in fields, path
    assert shown == {f"/{robot}/{camera.topic}" for camera in profile.cameras}
