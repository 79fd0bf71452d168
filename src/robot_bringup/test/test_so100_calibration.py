"""The SO-100's calibration: ticks and rad, files that cannot be this arm's, and the human who shows the arm its ends."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import threading
import time
import tty
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robot_bringup.so100 import calibrate
from robot_bringup.so100.calibration import RAD_PER_TICK, Calibration, JointCalibration, limits, load_calibration, save_calibration
from robot_bringup.so100.emulated_bus import EmulatedBus
from robot_bringup.so100.settings import load_settings
from whetstone.config import find
from whetstone.errors import ConfigError, InputError
from whetstone.profile import load_profile

PROFILE = load_profile("so100")
NAMES = (*PROFILE.joint_names, PROFILE.gripper.joint)
GOOD = Calibration(
    "so100", "2026-01-01T00:00:00+00:00", {name: JointCalibration(i + 1, 2048, 40, 4060, 1, 0) for i, name in enumerate(NAMES)}
)


@given(st.integers(0, 4095), st.integers(0, 4095), st.integers(-4096, 8192), st.sampled_from((1, -1)), st.integers(0, 4095))
def test_ticks_and_rad(one, other, offset, sign, ticks) -> None:
    low, high = sorted((one, other + (other == one) * (1 if one < 4095 else -1)))
    joint = JointCalibration(1, offset, low, high, sign, 0)
    inside = min(max(ticks, low), high)
    assert joint.to_ticks(joint.to_rad(ticks)) == inside
    assert low <= joint.to_ticks(1e9) <= high and low <= joint.to_ticks(-1e9) <= high
    assert joint.to_rad(ticks + 1024) - joint.to_rad(ticks) == pytest.approx(sign * math.pi / 2)
    lower, upper = joint.reach()
    assert lower - 1e-9 <= joint.to_rad(inside) <= upper + 1e-9


def test_a_file_is_read_as_it_was_written(tmp_path) -> None:
    path = tmp_path / "new" / "arm.yaml"
    save_calibration(GOOD, path)
    assert load_calibration(str(path), PROFILE) == GOOD
    assert [one.name for one in path.parent.iterdir()] == ["arm.yaml"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(robot="so101"), "is of robot 'so101', not of 'so100'"),
        (lambda c: c["joints"].pop("elbow_flex_joint"), "joint 'elbow_flex_joint' of robot 'so100' is missing"),
        (lambda c: c["joints"].update(elbow=c["joints"].pop("elbow_flex_joint")), "unknown joint 'elbow'; known: shoulder_pan_joint"),
        (lambda c: c["joints"]["wrist_flex_joint"].update(id=3), "'elbow_flex_joint' and 'wrist_flex_joint' both have servo id 3"),
        (lambda c: c["joints"]["wrist_flex_joint"].update(sign=2), "key 'joints.wrist_flex_joint.sign' must be one of 1, -1"),
        (lambda c: c["joints"]["wrist_flex_joint"].update(low=4061), "low 4061 must be less than high 4060"),
        (lambda c: c["joints"]["wrist_flex_joint"].update(high=4096), "must be at most 4095"),
        (lambda c: c["joints"]["wrist_flex_joint"].update(offset=4000), "joint 'wrist_flex_joint' reaches -6.07 to 0.09 rad, 55%"),
        (lambda c: c["joints"]["gripper_joint"].update(low=2048, high=2300), "joint 'gripper_joint' reaches 0.00 to 0.39 rad, 28%"),
    ],
)
def test_a_file_that_cannot_be_this_arm_is_refused(tmp_path, change, words) -> None:
    contents = dataclasses.asdict(GOOD)
    change(contents)
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(contents))
    with pytest.raises(ConfigError) as error:
        load_calibration(str(path), PROFILE)
    assert words in str(error.value) and str(path) in str(error.value)


def test_no_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match="whetstone calibrate-arm robot:=so100"):
        load_calibration("", PROFILE)
    with pytest.raises(ConfigError, match="no such calibration; `whetstone calibrate-arm robot:=so100 out:="):
        load_calibration(str(tmp_path / "arm.yaml"), PROFILE)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("wrist_roll_joint: 0.0}", "wrist_roll_joint: 3.5}", "key 'park.pose': wrist_roll_joint 3.5 is outside -3.14 to 3.14 rad"),
        (", wrist_roll_joint: 0.0}", "}", "key 'park.pose': joint 'wrist_roll_joint' of robot 'so100' is missing"),
        ("  gripper_joint: {id: 6", "  jaw_joint: {id: 6", "key 'servos': unknown joint 'jaw_joint'"),
        ("rate: 100 ", "rate: 20 ", "key 'rate' must be at least 50"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, before, after, words) -> None:
    text = find("drivers", "so100").read_text()
    assert before in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(before, after))
    with pytest.raises(ConfigError) as error:
        load_settings(str(path), PROFILE)
    assert words in str(error.value)


def test_the_settings_fit_the_so101_too() -> None:
    load_settings("so100", load_profile("so101"))


class Human:
    """Reads the prompts of `calibrate-arm`, moves the emulated arm and presses Enter.

    ends: joint -> (upper, lower), ticks from the zero pose. slips: joint -> ends that are shown the first time instead.
    """

    def __init__(self, emulated: EmulatedBus, ends: dict, slips: dict | None = None) -> None:
        self.emulated, self.ends, self.slips = emulated, ends, dict(slips or {})
        self.zero = {id: servo.position for id, servo in emulated.line.servos.items()}
        self.read, self.write = os.pipe()
        self.said = ""
        self.asked: list[str] = []

    def attend(self, output: io.StringIO, done: threading.Event) -> None:
        seen, deadline = 0, time.monotonic() + 15
        while not done.wait(0.005) and time.monotonic() < deadline:
            text = " ".join(output.getvalue()[seen:].split())
            if not text.endswith("press Enter"):
                continue
            seen = len(output.getvalue())
            self.act(text)
            os.write(self.write, b"\n")
        os.close(self.write)

    def act(self, text: str) -> None:
        name = next((name for name in NAMES if f", {name}: " in text), None)
        if name is None:
            return
        upper = not self.asked or self.asked[-1] != name or self.asked.count(name) % 2 == 0
        self.asked.append(name)
        ends = self.slips.get(name, self.ends[name])
        if not upper:
            self.slips.pop(name, None)
        servo = self.emulated.servo(NAMES.index(name) + 1)
        for ticks in (0, ends[1 - upper] // 2, ends[1 - upper]):  # by way of the middle, as a hand does
            with self.emulated.lock:
                servo.turn_by_hand(2048 + ticks)
            time.sleep(2 * calibrate._PERIOD)


def patient(folder: Path) -> Path:
    """Settings for emulated servos that are in a busy machine's hands."""
    path = folder / "patient.yaml"
    path.write_text(find("drivers", "so100").read_text().replace("patience: 0.02 ", "patience: 0.2 "))
    return path


def ends_of(sign: int) -> dict:
    found = {name: (sign * round(high / RAD_PER_TICK), sign * round(low / RAD_PER_TICK)) for name, (low, high) in limits(PROFILE).items()}
    return found | {"wrist_roll_joint": (sign * 1900, sign * -1900), "gripper_joint": (sign * 700, sign * -350)}


def session(emulated: EmulatedBus, human: Human, monkeypatch, out, terminal: bool = False) -> str:
    output, done = io.StringIO(), threading.Event()
    monkeypatch.setattr(calibrate, "_PERIOD", 0.01)
    thread = threading.Thread(target=human.attend, args=(output, done))
    monkeypatch.setattr("sys.stdin", os.fdopen(human.read))
    thread.start()
    try:
        console = Console(file=output, width=300, force_terminal=terminal)
        calibrate.main([f"port:={emulated.link}", f"out:={out}", f"driver:={patient(out.parent)}"], console)
    finally:
        done.set()
        thread.join()
    return output.getvalue()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_human_shows_the_arm_its_ends(tmp_path, monkeypatch, sign) -> None:
    with EmulatedBus(tmp_path / "port") as emulated:
        for id, servo in emulated.line.servos.items():
            servo.sensor = (700 * id) % 4096  # mounted as it came: two of them would meet the end of their turn
            servo.write(40, b"\1")
            servo.write(42, bytes((servo.position & 0xFF, servo.position >> 8)))
        out = tmp_path / "arm.yaml"
        slips = {"elbow_flex_joint": (sign * 1000, sign * 990), "wrist_roll_joint": (sign * 1900, sign * -2300)}
        said = session(emulated, Human(emulated, ends_of(sign), slips), monkeypatch, out)
        assert "elbow_flex_joint: its two ends are 0.02 rad apart" in said
        assert "wrist_roll_joint: it went more than half a turn away from the zero pose" in said
        assert said.rstrip().endswith(f"written to {out}; the driver takes it as its parameter calibration")
        found = load_calibration(str(out), PROFILE)
        assert not any(servo.torque for servo in emulated.line.servos.values())
        for name, joint in found.joints.items():
            upper, lower = ends_of(sign)[name]
            assert joint.sign == sign and (joint.low, joint.high) == tuple(sorted((2048 + lower, 2048 + upper))), name
            servo = emulated.servo(joint.id)
            servo.cut()  # and it is kept
            assert (servo.word(31, 11), servo.word(9), servo.word(11)) == (joint.correction, joint.low, joint.high)
            rad = PROFILE.gripper.closed + 1050 * RAD_PER_TICK if name == "gripper_joint" else upper * sign * RAD_PER_TICK
            assert joint.to_rad(2048 + upper) == pytest.approx(rad, abs=2 * RAD_PER_TICK)


def test_on_a_terminal_a_table_is_shown_and_an_end_of_input_leaves_no_file(tmp_path, monkeypatch) -> None:
    with EmulatedBus(tmp_path / "port") as emulated:
        master, slave = os.openpty()
        tty.setcbreak(slave)
        output = io.StringIO()
        monkeypatch.setattr("sys.stdin", os.fdopen(slave))
        hang_up = threading.Timer(0.3, os.close, (master,))
        hang_up.start()
        with pytest.raises(InputError, match="standard input ended"):
            calibrate.main(
                [f"port:={emulated.link}", f"out:={tmp_path / 'arm.yaml'}"], Console(file=output, width=120, force_terminal=True)
            )
        hang_up.join()
        shown = output.getvalue()
        assert "shoulder_pan_joint" in shown and "lowest" in shown and "2048" in shown
        assert not (tmp_path / "arm.yaml").exists()
