"""The servos' protocol: the emulated bus against packets of the maker's manual, and the SDK behind our bus against the emulated one."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_bringup.so100 import registers
from robot_bringup.so100.bus import BusError, LineLost, ServoBus, ServoSilent
from robot_bringup.so100.emulated_bus import EmulatedBus, EmulatedServos, packet

JOINTS = {id: f"joint{id}" for id in range(1, 7)}
PATIENT = 0.2
"""s: of a bus whose emulated servos are in a busy machine's hands."""


def answer(servos: EmulatedServos, text: str) -> str:
    return b"".join(said for _, said in servos.hear(bytes.fromhex(text))).hex(" ")


def test_packets_of_the_manual() -> None:
    servos = EmulatedServos()
    servos.servos[1].turn_by_hand(0x0518)
    assert answer(servos, "ff ff 01 02 01 fb") == "ff ff 01 02 00 fc"  # PING
    assert answer(servos, "ff ff 01 04 02 38 02 be") == "ff ff 01 04 00 18 05 dd"  # READ the position
    assert answer(servos, "ff ff fe 02 01 fe") == " ".join(packet(id, 0).hex(" ") for id in JOINTS)  # PING to all
    # WRITE goal 2048, time 0, speed 1000; the same by REG WRITE, in force with ACTION
    assert answer(servos, "ff ff 01 09 03 2a 00 08 00 00 e8 03 d5") == "ff ff 01 02 00 fc"
    assert (servos.servos[1].word(42), servos.servos[1].word(46)) == (2048, 1000)
    assert answer(servos, "ff ff 02 09 04 2a 00 08 00 00 e8 03 d3") == "ff ff 02 02 00 fb"
    assert servos.servos[2].word(42) == 0
    assert answer(servos, "ff ff fe 02 05 fa") == ""  # ACTION to all: nobody answers
    assert servos.servos[2].word(42) == 2048
    # SYNC WRITE and SYNC READ
    assert answer(servos, "ff ff fe 0a 83 2a 02 03 01 08 04 02 08 2e") == ""
    assert (servos.servos[3].word(42), servos.servos[4].word(42)) == (0x0801, 0x0802)
    assert answer(servos, "ff ff fe 06 82 2a 02 03 04 46") == "ff ff 03 04 00 01 08 ef ff ff 04 04 00 02 08 ed"


def test_what_is_no_packet_is_passed_over() -> None:
    servos = EmulatedServos()
    assert answer(servos, "ff ff 01 02 01 fa") == ""  # checksum
    assert answer(servos, "00 ff 13 ff ff ff 01 02 01 fb") == "ff ff 01 02 00 fc"  # noise before it
    assert answer(servos, "ff ff 01 02") == "" and answer(servos, "01 fb") == "ff ff 01 02 00 fc"  # in two pieces
    assert answer(servos, "ff ff 09 02 01 f3") == ""  # nobody of that id


@given(st.binary(max_size=200))
def test_any_bytes_at_all_do_no_harm(noise) -> None:
    servos = EmulatedServos()
    servos.hear(noise)
    servos.hear(b"\0" * 300)  # what the noise announced has gone by
    assert packet(1, 0) in b"".join(said for _, said in servos.hear(bytes.fromhex("ff ff 01 02 01 fb")))


@given(st.sampled_from([value for value in vars(registers).values() if isinstance(value, registers.Register)]), st.data())
def test_registers_round_trip(register, data) -> None:
    most = (1 << (8 * register.size if register.sign_bit is None else register.sign_bit)) - 1
    value = data.draw(st.integers(-most if register.sign_bit else 0, most))
    assert register.decode(register.encode(value)) == value
    with pytest.raises(ValueError, match="cannot hold"):
        register.encode(most + 1)


@pytest.fixture
def emulated(tmp_path):
    with EmulatedBus(tmp_path / "port") as bus:
        yield bus


def test_the_bus_reads_and_writes(emulated) -> None:
    with ServoBus(str(emulated.link), JOINTS, PATIENT) as bus:
        bus.ping()
        emulated.servo(5).turn_by_hand(3000)
        assert bus.read(registers.POSITION) == dict.fromkeys(range(1, 7), 2048) | {5: 3000}
        bus.write_all(registers.GOAL_POSITION, {id: 2048 + id for id in JOINTS})
        bus.write_all(registers.GOAL_SPEED, dict.fromkeys(JOINTS, 1000))
        bus.write_all(registers.TORQUE, dict.fromkeys(JOINTS, 1))
        deadline = time.monotonic() + 5
        while bus.read(registers.POSITION) != {id: 2048 + id for id in JOINTS} and time.monotonic() < deadline:
            seen = bus.read_many((registers.SPEED, registers.LOAD, registers.VOLTAGE, registers.TEMPERATURE, registers.STATUS))
        assert bus.read(registers.POSITION) == {id: 2048 + id for id in JOINTS}
        assert seen[5][registers.SPEED] == pytest.approx(-1000, abs=100) and seen[5][registers.LOAD] < 0
        assert seen[1][registers.VOLTAGE] == 74 and seen[1][registers.TEMPERATURE] == 30
        assert bus.failures == dict.fromkeys(JOINTS, 0)


def test_what_shall_last_is_unlocked_and_locked_again(emulated) -> None:
    with ServoBus(str(emulated.link), JOINTS, PATIENT) as bus:
        bus.write(registers.CORRECTION, 1, 5)
        emulated.cut()
        assert bus.read(registers.CORRECTION)[1] == 0
        bus.write_lasting(registers.CORRECTION, {1: -100, 2: 50})
        emulated.cut()
        assert bus.read(registers.CORRECTION, [1, 2]) == {1: -100, 2: 50}
        assert bus.read(registers.POSITION, [1, 2]) == {1: 2148, 2: 1998}
        assert set(bus.read(registers.LOCK).values()) == {1}


@pytest.mark.parametrize("fault", ["late", "checksum", "id", "half", "never"])
def test_a_servo_that_does_not_answer_rightly_is_named_and_hides_no_other(emulated, fault) -> None:
    with ServoBus(str(emulated.link), JOINTS, patience=0.1, retries=1) as bus:
        emulated.servo(3).fault, emulated.servo(3).lateness = fault, 0.13
        with pytest.raises(ServoSilent, match=r"^servo 3 \(joint3\) does not answer within 100 ms: check the cable") as error:
            bus.read(registers.POSITION)
        assert error.value.ids == (3,) and bus.failures[3] == 2 and sum(bus.failures.values()) == 2
        others = [id for id in JOINTS if id != 3]
        assert set(bus.read(registers.POSITION, others)) == set(others)
        emulated.servo(3).fault = "none"
        # What the late servo still has to say to the question before is not taken for an answer to this one.
        assert bus.read_many((registers.TEMPERATURE, registers.STATUS), [3])[3] == {registers.TEMPERATURE: 30, registers.STATUS: 0}


def test_a_servo_that_fails_once_is_asked_again(emulated) -> None:
    with ServoBus(str(emulated.link), JOINTS, PATIENT, retries=2) as bus:
        emulated.line.servos[2].fault = "checksum"
        heard = emulated.line.hear

        def well_after_this(data):
            said = heard(data)
            emulated.line.servos[2].fault = "none"
            return said

        emulated.line.hear = well_after_this
        assert bus.read(registers.POSITION)[2] == 2048 and bus.failures[2] == 1


def test_a_late_answer_is_no_answer_to_a_later_question(emulated) -> None:
    with ServoBus(str(emulated.link), JOINTS, patience=0.02, retries=0) as bus:
        emulated.servo(1).fault, emulated.servo(1).lateness = "late", 0.025
        with pytest.raises(ServoSilent):
            bus.read(registers.POSITION, [1])
        emulated.servo(1).fault = "never"
        emulated.servo(1).turn_by_hand(100)
        with pytest.raises(ServoSilent):
            bus.read(registers.POSITION, [1])  # the answer to the first, 2048, comes now


def test_nobody_answers(emulated) -> None:
    for servo in emulated.line.servos.values():
        servo.fault = "never"
    with ServoBus(str(emulated.link), JOINTS, retries=0) as bus, pytest.raises(ServoSilent, match="no servo on .*power supply"):
        bus.ping()


def test_another_kind_of_servo(emulated) -> None:
    emulated.servo(4).memory[3] = 7
    with ServoBus(str(emulated.link), JOINTS, PATIENT) as bus, pytest.raises(BusError, match=r"servo 4 \(joint4\) is model 775; .* 777"):
        bus.ping()


def test_the_cable(emulated, tmp_path) -> None:
    with ServoBus(str(emulated.link), JOINTS, PATIENT) as bus:
        with pytest.raises(LineLost, match="in use by another program"):
            ServoBus(str(emulated.link), JOINTS)
        emulated.unplug()
        with pytest.raises(LineLost, match="is the USB cable in"):
            bus.read(registers.POSITION)
        with pytest.raises(LineLost, match="is the USB cable in"):
            bus.write_all(registers.GOAL_POSITION, {1: 0})
    with pytest.raises(LineLost, match="no such device; is the USB cable in"):
        ServoBus(str(emulated.link), JOINTS)
    emulated.replug()
    with ServoBus(str(emulated.link), JOINTS, PATIENT) as bus:
        bus.ping()
    if os.geteuid():
        (tmp_path / "locked").touch(mode=0)
        with pytest.raises(LineLost, match="usermod -aG dialout"):
            ServoBus(str(tmp_path / "locked"), JOINTS)
