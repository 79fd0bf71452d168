"""One bag: what other readers make of it, and what is left of it when its writer dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.records import Chunk
from mcap.stream_reader import StreamReader
from recording_samples import QOS, STRING, read, text
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from robot_bringup.bags import metadata
from robot_bringup.bags.definitions import definition
from robot_bringup.bags.folder import AUDIT, INTERRUPTED, RUNNING, WHOLE, BagFolder
from robot_bringup.bags.recovery import recover
from robot_bringup.bags.writer import RECORD, BagWriter
from whetstone.errors import InputError


def write(folder: Path, count: int, split: int = 0, size: int = 0, close: bool = True) -> list[tuple[str, int, bytes]]:
    writer, written = BagWriter(folder, {"whetstone.robot": "so100"}, split), []
    for topic in ("/a", "/b"):
        writer.add_topic(topic, STRING, QOS)
    for number in range(count):
        message = ("/ab"[0] + "ab"[number % 2], 10**9 + number, text(number, size))
        writer.write(message[0], message[1], message[2], publish_time=number, sequence=number)
        written.append(message)
    if close:
        writer.close({WHOLE: "true", AUDIT: "{}"})
    else:
        writer.flush()
        writer.abandon()
    return written


def test_rosbags_reads_what_was_written_over_all_files(tmp_path: Path) -> None:
    written = write(tmp_path / "bag", 200, split=300_000, size=20_000)
    files = sorted(path.name for path in (tmp_path / "bag").glob("*.mcap"))
    assert len(files) > 3 and files[0] == "bag_0.mcap"
    assert read(tmp_path / "bag") == written
    information = yaml.safe_load((tmp_path / "bag" / metadata.NAME).read_text())["rosbag2_bagfile_information"]
    assert information["message_count"] == 200 and sum(file["message_count"] for file in information["files"]) == 200
    assert information["starting_time"]["nanoseconds_since_epoch"] == 10**9 and information["duration"]["nanoseconds"] == 199
    assert information["custom_data"] == {"whetstone.robot": "so100", WHOLE: "true", AUDIT: "{}"}
    with AnyReader([tmp_path / "bag"], default_typestore=get_typestore(Stores.EMPTY)) as reader:
        connection, _, data = next(reader.messages())
        assert reader.deserialize(data, connection.msgtype).data.startswith("0 ")  # by the definition in the bag alone


def test_mcap_reads_chunks_channels_and_our_record(tmp_path: Path) -> None:
    write(tmp_path / "bag", 10)
    with (tmp_path / "bag" / "bag_0.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None and {index.compression for index in summary.chunk_indexes} == {"zstd"}
        assert {channel.topic for channel in summary.channels.values()} == {"/a", "/b"}
        assert all(channel.metadata["topic_type_hash"] == STRING.hash for channel in summary.channels.values())
        found = [record.metadata for record in reader.iter_metadata() if record.name == RECORD]
        assert found == [{"whetstone.robot": "so100"}, {WHOLE: "true", AUDIT: "{}"}]
        assert [message.sequence for *_, message in reader.iter_messages()] == list(range(10))


@settings(max_examples=15, deadline=None)
@given(cut=st.floats(0.0, 1.0))
def test_a_bag_cut_off_anywhere_gives_what_is_whole_in_it(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    folder = tmp_path_factory.mktemp("cut") / "bag"
    written = write(folder, 30, split=400_000, size=60_000, close=False)
    last = max(folder.glob("*.mcap"), key=lambda path: int(path.stem.rpartition("_")[2]))
    os.truncate(last, round(last.stat().st_size * cut))
    count = recover(folder, {WHOLE: "false"})
    assert read(folder) == written[:count] if count else not (folder / metadata.NAME).exists()
    whole = [path for path in folder.glob("*.mcap") if path != last]
    assert count >= len(whole)
    if count:
        custom = yaml.safe_load((folder / metadata.NAME).read_text())["rosbag2_bagfile_information"]["custom_data"]
        assert custom == {"whetstone.robot": "so100", WHOLE: "false"}


def test_a_recorder_killed_while_it_wrote_its_only_chunk_leaves_what_it_had_written(tmp_path: Path) -> None:
    written = write(tmp_path / "bag", 40, size=20_000, close=False)
    (path,) = (tmp_path / "bag").glob("*.mcap")
    os.truncate(path, path.stat().st_size * 3 // 4)
    count = recover(tmp_path / "bag", {WHOLE: "false"})
    assert 20 <= count < 32 and read(tmp_path / "bag") == written[:count]


def test_a_chunk_that_never_reached_the_disk_does_not_cost_those_after_it(tmp_path: Path) -> None:
    """Power that fails may leave zeros in the middle of a file whose end is written."""
    written = write(tmp_path / "bag", 30, size=200_000, close=False)
    (path,) = (tmp_path / "bag").glob("*.mcap")
    with path.open("rb") as file:
        reader, places = StreamReader(file, emit_chunks=True).records, []
        try:
            before = file.tell()
            for record in reader:
                places += [before] if isinstance(record, Chunk) else []
                before = file.tell()
        except Exception:  # here it was cut off
            pass
    assert len(places) >= 3
    with path.open("r+b") as file:
        file.seek(places[1] + 4096)
        file.write(bytes(4096))
    count = recover(tmp_path / "bag", {WHOLE: "false"})
    got = read(tmp_path / "bag")
    assert len(got) == count and 15 <= count < 30 and [one for one in written if one in got] == got
    assert got[-1][1] > written[len(written) * 2 // 3][1], "the chunks after it are there"


_KILLED = """
import sys, time
from pathlib import Path
from robot_bringup.bags.folder import BagFolder
from robot_bringup.bags.recording import Heard, Recorder, Settings
from recording_samples import QOS, STRING, text
recorder = Recorder(BagFolder(sys.argv[1]), {"/a": (STRING, QOS)}, {}, Settings(10**8, 0), lambda *_: None)
bag = recorder.begin("episode", {"whetstone.robot": "so100"})
for number in range(10_000):
    recorder.put(bag, Heard("/a", text(number), number, number, number))
    time.sleep(0.001)
    if number == 1500:
        print("now", flush=True)
"""


def test_a_killed_recording_is_told_apart_and_can_be_read(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path / "bags")], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    folder = BagFolder(tmp_path / "bags")
    assert folder.list() == [] and (folder.root / RUNNING / "episode").is_dir()
    (said,) = folder.recover()
    assert "episode: its recorder was killed" in said and not list((folder.root / RUNNING).iterdir())
    assert folder.list() == [] and folder.interrupted() == {"episode": "its recorder was killed"}
    messages = read(folder.root / INTERRUPTED / "episode")
    assert len(messages) > 100 and [time for _, time, _ in messages] == list(range(len(messages)))
    custom = yaml.safe_load((folder.root / INTERRUPTED / "episode" / metadata.NAME).read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]
    assert custom[WHOLE] == "false" and not json.loads(custom[AUDIT])["complete"] and custom["whetstone.robot"] == "so100"
    assert folder.recover() == []
    # A recorder that was killed before it named a whole bag.
    write(folder.root / RUNNING / "whole", 3)
    assert folder.recover() == [] and folder.list() == ["whole"]


def test_the_oldest_unprotected_bags_go_and_one_of_the_same_name_is_kept(tmp_path: Path) -> None:
    folder = BagFolder(tmp_path)
    for age, name in enumerate(("a", "b", "c", "d")):
        path = folder.begin(name)
        write(path, 4)
        final = folder.finish(path)
        os.utime(final / metadata.NAME, (age, age))
    assert folder.protect("a") and not folder.protect("x")
    assert folder.prune(10**9) == [] and folder.prune(folder.size("a") + 2 * folder.size("d") + 500) == ["b"]
    assert folder.prune(0) == ["c"] and folder.list() == ["a", "d"]
    again = folder.begin("d")
    write(again, 2)
    assert len(read(folder.finish(again))) == 2
    assert folder.interrupted() == {"d": "another episode of this name was recorded after it"}
    assert len(read(folder.root / INTERRUPTED / "d")) == 4
    with pytest.raises(InputError, match="no name of a folder"):
        folder.begin("../d")


def test_definitions_are_those_that_the_types_were_built_from() -> None:
    found = definition("whetstone_msgs/msg/Reward")
    store = get_typestore(Stores.ROS2_JAZZY)
    assert "float32 progress                  # [0, 1]" in found.text and "MSG: builtin_interfaces/Time" in found.text
    assert definition("sensor_msgs/msg/Image").hash == store.hash_rihs01("sensor_msgs/msg/Image")
    with pytest.raises(InputError, match="'nobody_msgs/msg/Nothing' is not installed; install its package, nobody_msgs"):
        definition("nobody_msgs/msg/Nothing")
