"""Bags of every format, whole and damaged, from writers that know nothing of ours: every message, in order, bit for bit."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backports import zstd
from bag_samples import (
    CAMERA,
    JAZZY,
    JOINTS,
    NOETIC,
    SECOND,
    START,
    definition,
    image,
    joints,
    messages,
    picture,
    write_mcap,
    write_ros1,
    write_rosbag2,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import SeekingReader
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from whetstone.bags.messages import Channel
from whetstone.bags.reader import Bag, open_bag
from whetstone.bags.storage import Segment, in_order
from whetstone.errors import InputError
from whetstone.images import to_array

TOLD = messages()
Told = list[tuple[str, int, Any]]
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def check(bag: Bag, told: Told) -> None:
    """The bag holds these messages, in this order, with these bytes and fields."""
    got = list(bag.messages())
    assert [(message.topic, message.time_ns) for message in got] == [(topic, time) for topic, time, _ in told]
    for message, (topic, _, sent) in zip(got, told):
        assert message.type == sent.__msgtype__
        ours = message.decode()
        assert ours.header.stamp.sec * SECOND + ours.header.stamp.nanosec == sent.header.stamp.sec * SECOND + sent.header.stamp.nanosec
        if topic == CAMERA:
            np.testing.assert_array_equal(to_array(ours, "front"), sent.data.reshape(sent.height, sent.width, 3))
        else:
            assert list(ours.name) == list(sent.name) and list(ours.position) == list(sent.position)
        assert message.data == bytes(JAZZY.serialize_cdr(_of_ros2(sent), sent.__msgtype__))


def _of_ros2(message: Any) -> Any:
    if hasattr(message.header, "seq"):
        time = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
        if hasattr(message, "encoding"):
            return image(time, message.data.reshape(message.height, message.width, 3))
        return joints(time, message.position, message.name)
    return message


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mcap": lambda folder: write_rosbag2(folder / "bag", TOLD),
    "sqlite3": lambda folder: write_rosbag2(folder / "bag", TOLD, SQLITE),
    "mcap, compressed files": lambda folder: write_rosbag2(folder / "bag", TOLD, MCAP, CompressionMode.FILE),
    "sqlite3, compressed files": lambda folder: write_rosbag2(folder / "bag", TOLD, SQLITE, CompressionMode.FILE),
    "mcap, compressed messages": lambda folder: write_rosbag2(folder / "bag", TOLD, MCAP, CompressionMode.MESSAGE),
    "sqlite3, compressed messages": lambda folder: write_rosbag2(folder / "bag", TOLD, SQLITE, CompressionMode.MESSAGE),
    "mcap, compressed chunks": lambda folder: write_rosbag2(folder / "bag", TOLD, MCAP, CompressionMode.STORAGE),
    "mcap's own writer": lambda folder: write_mcap(folder / "bag.mcap", TOLD),
    "mcap's own writer, lz4": lambda folder: write_mcap(folder / "bag.mcap", TOLD, compression=CompressionType.LZ4),
    "ROS 1": lambda folder: write_ros1(folder / "bag.bag", messages(store=NOETIC)),
    "ROS 1, lz4": lambda folder: write_ros1(folder / "bag.bag", messages(store=NOETIC), Rosbag1Writer.CompressionFormat.LZ4),
    "ROS 1, bz2": lambda folder: write_ros1(folder / "bag.bag", messages(store=NOETIC), Rosbag1Writer.CompressionFormat.BZ2),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format(name: str, tmp_path: Path) -> None:
    with open_bag(WRITERS[name](tmp_path)) as bag:
        assert bag.warnings == []
        assert {topic: (one.type, one.count, one.decodable) for topic, one in bag.topics.items()} == {
            CAMERA: ("sensor_msgs/msg/Image", 20, True),
            JOINTS: ("sensor_msgs/msg/JointState", 40, True),
        }
        assert (bag.start, bag.end) == (TOLD[0][1], TOLD[-1][1])
        check(bag, messages(store=NOETIC) if name.startswith("ROS 1") else TOLD)


def test_time_ranges_and_topics(tmp_path: Path) -> None:
    with open_bag(write_mcap(tmp_path / "bag.mcap", TOLD)) as bag:
        start, end = TOLD[10][1], TOLD[31][1]
        got = [(message.topic, message.time_ns) for message in bag.messages(start=start, end=end)]
        assert got == [(topic, time) for topic, time, _ in TOLD[10:31]]
        assert {message.topic for message in bag.messages([JOINTS])} == {JOINTS}
        assert list(bag.messages(start=bag.end + 1)) == []
        assert [message.time_ns for message in bag.messages(start=bag.end)] == [bag.end]


def test_the_files_of_a_split_bag_are_one_even_where_they_overlap(tmp_path: Path) -> None:
    """Eleven files, the tenth after the ninth; two of them overlap in time."""
    whole = tmp_path / "split"
    parts = [TOLD[index : index + 6] for index in range(0, 60, 6)]
    parts[3], parts[4] = parts[3][::2] + parts[4][::2], parts[3][1::2] + parts[4][1::2]
    for index, part in enumerate(parts):
        write_rosbag2(tmp_path / f"split_{index}", part)
    whole.mkdir()
    for index in range(len(parts)):
        shutil.move(tmp_path / f"split_{index}" / f"split_{index}.mcap", whole)
    with open_bag(whole) as bag:
        assert len(bag.warnings) == 1 and "has no metadata.yaml" in bag.warnings[0]
        check(bag, TOLD)


def test_what_the_metadata_says(tmp_path: Path) -> None:
    path = write_rosbag2(tmp_path / "bag", TOLD, custom={"robot": "franka", "policy": "flow_vla"})
    with open_bag(path) as bag:
        assert bag.metadata == {"robot": "franka", "policy": "flow_vla"}
    with open_bag(path / "metadata.yaml") as bag:
        assert bag.metadata["robot"] == "franka"
    (path / "bag_1.mcap").write_bytes(write_mcap(tmp_path / "later.mcap", messages(25)[60:]).read_bytes())
    with open_bag(path) as bag:  # a recorder that was killed after a split
        assert "does not name bag_1.mcap" in bag.warnings[0]
        check(bag, messages(25))
    (path / "bag.mcap").unlink()
    (path / "bag_1.mcap").rename(path / "bag_2.mcap")
    with open_bag(path) as bag:
        assert any("file bag.mcap is missing" in warning for warning in bag.warnings)
        check(bag, messages(25)[60:])
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n", encoding="utf-8")
    with open_bag(path) as bag:
        assert "'relative_file_paths' is missing" in bag.warnings[0]


def test_metadata_records_of_mcap(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start(profile="ros2", library="x")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/words", "cdr", schema)
        writer.add_message(channel, START, b"\0\1\0\0\3\0\0\0hi\0", START)
        writer.add_metadata("whetstone", {"robot": "so100"})
        writer.add_metadata("rosbag2", {"serialized_metadata": "..."})
        writer.finish()
    with open_bag(path) as bag:
        assert bag.metadata == {"robot": "so100"}
        assert next(bag.messages()).decode().data == "hi"


# Damage.


def cut(path: Path, length: int) -> Path:
    target = path.with_name(f"cut{path.suffix}")
    target.write_bytes(path.read_bytes()[:length])
    return target


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    big = messages(30)
    return {
        "mcap": write_mcap(folder / "chunks.mcap", big, 2048),
        "one chunk": write_mcap(folder / "one.mcap", big, 1 << 20, CompressionType.NONE),
        "ros1": write_ros1(folder / "one.bag", messages(30, store=NOETIC)),
        "sqlite3": write_rosbag2(folder / "rows", big, SQLITE) / "rows.db3",
    }


def test_rows_on_the_page_that_a_sqlite3_file_was_cut_off_in_are_not_zeros(whole: dict[str, Path]) -> None:
    """SQLite fills that page with zeros, and says nothing."""
    told, read = messages(30), set[int]()
    for length in range(8192, whole["sqlite3"].stat().st_size, 700):
        try:
            bag = open_bag(cut(whole["sqlite3"], length))
        except InputError:
            continue
        with bag:
            got = list(bag.messages())
            check(bag, told[: len(got)])
            assert bag.warnings
            read.add(len(got))
    assert len(read) > 3


@pytest.mark.parametrize("kind", ["mcap", "one chunk", "ros1", "sqlite3"])
@settings(max_examples=25)
@given(st.floats(0, 1))
def test_a_file_that_was_cut_off_anywhere(whole: dict[str, Path], kind: str, fraction: float) -> None:
    """What is read is the beginning of what was written, bit for bit; that it is not all is said, with how far it goes."""
    told = messages(30)
    size = whole[kind].stat().st_size
    path = cut(whole[kind], round(fraction * (size - 1)))
    try:
        bag = open_bag(path)
    except InputError as error:
        assert "not a bag" in str(error) or "no messages" in str(error)
        assert fraction < (0.7 if kind == "sqlite3" else 0.2)
        return
    with bag:
        got = list(bag.messages())
        assert [(message.topic, message.time_ns) for message in got] == [(topic, time) for topic, time, _ in told[: len(got)]]
        for message, (topic, _, sent) in zip(got, told):
            if topic == CAMERA:
                np.testing.assert_array_equal(message.decode().data, sent.data)
        assert len(got) == len(told) or bag.warnings
        if bag.warnings:
            assert str(path) in bag.warnings[0] and (" s (" in bag.warnings[0] or " s of " in bag.warnings[0])


def test_most_of_a_file_that_was_cut_off_is_read(whole: dict[str, Path]) -> None:
    for kind, least in (("mcap", 0.85), ("one chunk", 0.85), ("ros1", 0.85), ("sqlite3", 0.5)):
        with open_bag(cut(whole[kind], round(0.9 * whole[kind].stat().st_size))) as bag:
            assert sum(1 for _ in bag.messages()) > least * 90, kind


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4])
def test_a_compressed_chunk_that_is_cut_off_gives_what_is_before_the_cut(compression: CompressionType, tmp_path: Path) -> None:
    told = [("/c", START + index, image(START + index, picture(index, 120, 160))) for index in range(40)]  # 2.3 MB that do not compress
    path = cut(write_mcap(tmp_path / "bag.mcap", told, 1 << 24, compression), 1_500_000)
    with open_bag(path) as bag:
        got = list(bag.messages())
        assert 18 <= len(got) <= 26 and bag.topics["/c"].count == len(got)
        for message, (_, time, sent) in zip(got, told):
            assert message.time_ns == time
            np.testing.assert_array_equal(message.decode().data, sent.data)


def test_how_far_it_goes_of_how_much(tmp_path: Path) -> None:
    path = write_rosbag2(tmp_path / "bag", TOLD, MCAP)
    file = path / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with open_bag(path) as bag:
        assert "of about 2.0 s (" in bag.warnings[0] and "read as far as " in bag.warnings[0]


def test_damage_within_costs_one_chunk(whole: dict[str, Path], tmp_path: Path) -> None:
    """The index is whole, a byte in the middle is not: the chunks after it are read too."""
    data = bytearray(whole["mcap"].read_bytes())
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "damaged.mcap"
    path.write_bytes(data)
    with open_bag(path) as bag:
        got = [(message.topic, message.time_ns) for message in bag.messages()]
        told = [(topic, time) for topic, time, _ in messages(30)]
        assert 75 <= len(got) < 90 and got == [one for one in told if one in got] and got[-1] == told[-1]
        assert any("left out" in warning for warning in bag.warnings)


@pytest.mark.parametrize("kind", [None, Rosbag1Writer.CompressionFormat.LZ4, Rosbag1Writer.CompressionFormat.BZ2])
def test_damage_within_a_ros1_bag_costs_one_chunk_wherever_it_is(kind: Any, tmp_path: Path) -> None:
    """In a chunk, in its head, in the index behind it; a chunk holds up to 15 messages."""
    told = messages(30, store=NOETIC)
    path = write_ros1(tmp_path / "bag.bag", told, kind)
    data, left = path.read_bytes(), []
    for at in range(8192, len(data) - 2000, 997):
        path.write_bytes(data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + 30]) + data[at + 30 :])
        with open_bag(path) as bag:
            got = [(message.topic, message.time_ns, bytes(message.raw)) for message in bag.messages()]
            whole = [(topic, time, bytes(NOETIC.serialize_ros1(sent, sent.__msgtype__))) for topic, time, sent in told]
            right = [one for one in got if one in whole]
            assert len(got) >= 90 - 15 and len(right) >= len(got) - 1 and right == [one for one in whole if one in right]
            assert len(got) == 90 or bag.warnings
            left.append(len(got))
    assert min(left) < 90 and len(left) > 10


@pytest.mark.parametrize("place", ["first chunk", "between"])
def test_damage_costs_what_it_hits_and_no_more(place: str, whole: dict[str, Path], tmp_path: Path) -> None:
    """Schemas and channels are in the first chunk alone; a record between chunks has no length that could be relied on."""
    data = bytearray(whole["mcap"].read_bytes())
    with whole["mcap"].open("rb") as file:
        summary = SeekingReader(file).get_summary()
    assert summary is not None
    first = summary.chunk_indexes[0]
    at = first.chunk_start_offset + (70 if place == "first chunk" else first.chunk_length + 2)
    data[at : at + 20] = b"\xff" * 20
    path = tmp_path / "damaged.mcap"
    path.write_bytes(data)
    with open_bag(path) as bag:
        got = [(message.topic, message.time_ns) for message in bag.messages()]
        told = [(topic, time) for topic, time, _ in messages(30)]
        assert 85 <= len(got) <= 90 and got == told[len(told) - len(got) :]
        assert len(got) == 90 or any("left out" in warning and "damaged after 0.0 s" in warning for warning in bag.warnings)


def test_a_damaged_message_of_a_bag_compressed_by_message_costs_itself(tmp_path: Path) -> None:
    path = write_rosbag2(tmp_path / "bag", TOLD, SQLITE, CompressionMode.MESSAGE) / "bag.db3"
    database = sqlite3.connect(path)
    (data,) = database.execute("SELECT data FROM messages WHERE id = 10").fetchone()
    database.execute("UPDATE messages SET data = ? WHERE id = 10", (data[:8] + b"\xff" * (len(data) - 8),))
    database.commit()
    database.close()
    with open_bag(path) as bag:
        left = [(topic, time) for topic, time, _ in TOLD[:9] + TOLD[10:]]
        assert [(message.topic, message.time_ns) for message in bag.messages()] == left
        assert [warning.rpartition(": ")[2] for warning in bag.warnings] == [
            "messages that cannot be decompressed are left out, the first after 0.3 s"
        ]


def test_after_damage_messages_of_one_time_come_once(tmp_path: Path) -> None:
    """A recorder without a clock gives all the same time: what was read before the damage is not read again."""
    told = [("/c", START, image(START + index, picture(index))) for index in range(60)]
    path = write_mcap(tmp_path / "bag.mcap", told, 2048, CompressionType.NONE)
    with path.open("rb") as file:
        summary = SeekingReader(file).get_summary()
    assert summary is not None and len(summary.chunk_indexes) > 10
    data = bytearray(path.read_bytes())
    data[summary.chunk_indexes[5].chunk_start_offset + 400] ^= 0xFF
    path.write_bytes(data)
    with open_bag(path) as bag:
        stamps = [message.decode().header.stamp.nanosec for message in bag.messages()]
        assert stamps == sorted(set(stamps)) and 50 < len(stamps) < 60


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4])
def test_a_chunk_that_cannot_be_decompressed_costs_itself(compression: CompressionType, tmp_path: Path) -> None:
    told = [("/c", START + index, image(START + index, picture(index, 120, 160) // 16)) for index in range(40)]
    path = write_mcap(tmp_path / "bag.mcap", told, 1 << 18, compression)
    with path.open("rb") as file:
        summary = SeekingReader(file).get_summary()
    assert summary is not None
    chunk = summary.chunk_indexes[3]
    behind_header, data = chunk.chunk_start_offset + 60, bytearray(path.read_bytes())
    data[behind_header : behind_header + 2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(data)
    with open_bag(path) as bag:
        times = [message.time_ns for message in bag.messages()]
        assert times == [time for _, time, _ in told if not chunk.message_start_time <= time <= chunk.message_end_time] != []
        assert any("left out" in warning for warning in bag.warnings)


def test_one_file_of_a_split_bag_is_no_bag(tmp_path: Path) -> None:
    write_mcap(tmp_path / "bag_0.mcap", TOLD)
    (tmp_path / "bag_1.mcap").write_bytes(b"\x89MCAP0\r")
    with open_bag(tmp_path) as bag:
        assert any("bag_1.mcap: not a bag" in warning and warning.endswith("left out") for warning in bag.warnings)
        check(bag, TOLD)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("lacks", ["message indexes", "channels", "schemas", "channels, schemas"])
def test_an_index_that_lacks_something(lacks: str, statistics: bool, tmp_path: Path) -> None:
    """As rosbag2's own options for MCAP allow: rosbags would find no message, and say nothing."""
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(
            file,
            chunk_size=3000,
            use_statistics=statistics,
            index_types=IndexType.CHUNK if lacks == "message indexes" else IndexType.ALL,
            repeat_channels="channels" not in lacks,
            repeat_schemas="schemas" not in lacks,
        )
        writer.start(profile="ros2", library="x")
        channels = {}
        for topic, time, message in TOLD:
            if topic not in channels:
                kind = message.__msgtype__
                channels[topic] = writer.register_channel(topic, "cdr", writer.register_schema(kind, "ros2msg", definition(kind).encode()))
            writer.add_message(channels[topic], time, bytes(JAZZY.serialize_cdr(message, message.__msgtype__)), time)
        writer.finish()
    with open_bag(path) as bag:
        check(bag, TOLD)
        assert bag.warnings == []


def test_a_file_and_what_was_unpacked_beside_it_are_one(tmp_path: Path) -> None:
    """`ros2 bag play` leaves both in the folder."""
    path = write_rosbag2(tmp_path / "bag", TOLD, SQLITE, CompressionMode.FILE)
    packed, plain = path / "bag.db3.zstd", path / "bag.db3"
    plain.write_bytes(zstd.decompress(packed.read_bytes()))
    with open_bag(path) as bag:
        check(bag, TOLD)
        assert bag.warnings == []
    packed.unlink()
    with open_bag(path) as bag:  # as `zstd -d --rm` leaves it
        check(bag, TOLD)
        assert bag.warnings == []
    (path / "metadata.yaml").unlink()
    packed.write_bytes(zstd.compress(plain.read_bytes()))
    with open_bag(path) as bag:
        check(bag, TOLD)


def test_a_file_compressed_in_several_frames(tmp_path: Path) -> None:
    data = write_mcap(tmp_path / "bag.mcap", TOLD).read_bytes()
    packed = tmp_path / "bag.mcap.zst"
    packed.write_bytes(b"".join(zstd.compress(data[at : at + 1000]) for at in range(0, len(data), 1000)))
    with open_bag(packed) as bag:
        check(bag, TOLD)
        assert bag.warnings == []


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b"])
def test_a_path_with_letters_that_mean_something_in_an_address(name: str, tmp_path: Path) -> None:
    path = write_rosbag2(tmp_path / "bag", TOLD, SQLITE).rename(tmp_path / name)
    with open_bag(path) as bag:
        check(bag, TOLD)


def test_no_index_and_messages_out_of_order(tmp_path: Path) -> None:
    """An MCAP file without chunks, whose messages were written in any order; another without a summary."""
    path = tmp_path / "bag.mcap"
    order = np.random.default_rng(0).permutation(len(TOLD))
    for chunked in (False, True):
        with path.open("wb") as file:
            writer = McapWriter(
                file, chunk_size=3000, use_chunking=chunked, use_statistics=False, repeat_schemas=False, repeat_channels=False
            )
            writer.start(profile="", library="x")
            channels = {}
            for index in order:
                topic, time, message = TOLD[index]
                if topic not in channels:
                    kind = message.__msgtype__
                    schema = writer.register_schema(kind, "ros2msg", definition(kind).encode())
                    channels[topic] = writer.register_channel(topic, "cdr", schema)
                writer.add_message(channels[topic], time, bytes(JAZZY.serialize_cdr(message, message.__msgtype__)), time)
            writer.finish()
        with open_bag(path) as bag:
            check(bag, TOLD)


def test_the_journal_of_a_recorder_that_was_killed(tmp_path: Path) -> None:
    """What sqlite3 had not yet moved from its journal into the file is read too."""
    path = write_rosbag2(tmp_path / "bag", TOLD[:30], SQLITE) / "bag.db3"
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    ids = {topic: key for key, topic in database.execute("SELECT id, name FROM topics")}
    for topic, time, message in TOLD[30:]:
        data = bytes(JAZZY.serialize_cdr(message, message.__msgtype__))
        database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", (ids[topic], time, data))
    database.commit()
    copy = tmp_path / "copy.db3"
    for ending in ("", "-wal"):
        shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    left = {path.name: path.read_bytes() for path in (copy, Path(f"{copy}-wal"))}
    with open_bag(path.parent) as bag:  # its recorder is still there
        check(bag, TOLD)
        assert bag.warnings == []
    database.close()
    with open_bag(copy) as bag:
        check(bag, TOLD)
        assert bag.warnings == []
    assert left == {name: (tmp_path / name).read_bytes() for name in left}


# What is no bag, or cannot be understood.


def test_what_is_no_bag(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no bag", encoding="utf-8")
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "metadata.yaml").write_text("a: 1\n", encoding="utf-8")
    write_rosbag2(tmp_path / "nothing", [])
    write_mcap(tmp_path / "nothing.mcap", [])
    (tmp_path / "two").mkdir()
    for name in ("one.mcap", "other.mcap"):
        write_mcap(tmp_path / "two" / name, TOLD[:3])
    write_ros1(tmp_path / "nothing.bag", [])
    for name, words in {
        "missing": "no such file or folder",
        "notes.txt": "not a bag: it begins neither as MCAP, nor as sqlite3, nor as a ROS 1 bag",
        "empty.mcap": "not a bag: it is empty",
        "folder": "not a bag: it has no metadata.yaml, and no .mcap, .db3 or .bag file",
        "wrong": "not the metadata.yaml of a bag",
        "two": "several bags and no metadata.yaml that makes them one: one.mcap, other.mcap; name one of them",
        "nothing": "the bag has no messages",
        "nothing.mcap": "the bag has no messages",
        "nothing.bag": "the bag has no messages",
    }.items():
        with pytest.raises(InputError) as caught:
            open_bag(tmp_path / name)
        assert words in str(caught.value) and str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value), name


def test_an_unknown_topic_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with open_bag(write_mcap(tmp_path / "bag.mcap", TOLD)) as bag:
        with pytest.raises(
            InputError, match=r"unknown topic '/joint_state'; did you mean '/joint_states'\? it has /joint_states, /camera/"
        ):
            bag.messages(["/joint_state"])


def test_missing_definitions_are_named_and_can_be_given(tmp_path: Path) -> None:
    def write(path: Path) -> Path:
        with path.open("wb") as file:
            writer = McapWriter(file)
            writer.start(profile="ros2", library="x")
            schema = writer.register_schema("my_msgs/msg/Grip", "ros2msg", b"std_msgs/Header header\nmy_msgs/Force force")
            channel = writer.register_channel("/grip", "cdr", schema)
            foreign = writer.register_channel("/blob", "protobuf", writer.register_schema("my.Blob", "protobuf", b""))
            content = b"\0\1\0\0" + b"\0" * 8 + b"\1\0\0\0\0" + b"\0" * 3 + np.float32(2.5).tobytes()
            writer.add_message(channel, START, content, START)
            writer.add_message(foreign, START, b"x", START)
            writer.finish()
        return path

    path = write(tmp_path / "bag.mcap")
    with open_bag(path) as bag:
        assert [topic.decodable for topic in bag.topics.values()] == [False, False]
        with pytest.raises(
            InputError, match=r"topic '/grip': the bag has no message definition of my_msgs/msg/Force \(in my_msgs/msg/Grip\)"
        ):
            next(bag.messages(["/grip"])).decode()
        with pytest.raises(InputError, match=r"topic '/blob': my.Blob is not serialised as ROS does it"):
            next(bag.messages(["/blob"])).decode()
    (tmp_path / "more" / "my_msgs" / "msg").mkdir(parents=True)
    (tmp_path / "more" / "my_msgs" / "msg" / "Force.msg").write_text("float32 newton\n", encoding="utf-8")
    with open_bag(path, definitions=tmp_path / "more") as bag:
        assert bag.topics["/grip"].decodable
        assert next(bag.messages(["/grip"])).decode().force.newton == 2.5


def test_our_own_messages_without_definitions(tmp_path: Path) -> None:
    """A sqlite3 bag from before ROS 2 Iron holds no definitions at all."""
    path = write_rosbag2(tmp_path / "bag", TOLD, SQLITE) / "bag.db3"
    database = sqlite3.connect(path)
    database.execute("DROP TABLE message_definitions")
    database.execute("UPDATE schema SET schema_version = 3")
    command = b"\0\1\0\0" + b"\0" * 8 + b"\1\0\0\0\0\1\0\0" + b"\1\0\0\0\2\0\0\0a\0\0\0\1\0\0\0" + np.float64(0.5).tobytes()
    database.execute("INSERT INTO topics VALUES (9, '/franka/policy/command', 'whetstone_msgs/msg/Command', 'cdr', '', '')")
    database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (9, ?, ?)", (START - 1, command))
    database.commit()
    database.close()
    with open_bag(path) as bag:
        first, *rest = bag.messages()
        ours = first.decode()
        assert (ours.source, ours.names, list(ours.position)) == (1, ["a"], [0.5])
        assert len(rest) == 60 and rest[0].decode().width == 16


def test_bytes_that_do_not_fit_their_type(tmp_path: Path) -> None:
    path = write_rosbag2(tmp_path / "bag", TOLD[:3], SQLITE) / "bag.db3"
    database = sqlite3.connect(path)
    database.execute("UPDATE messages SET data = ?", (b"\0\1\0\0\1",))
    database.commit()
    database.close()
    with open_bag(path) as bag, pytest.raises(InputError, match=r"topic '/camera/front/image_raw': a message is no sensor_msgs/msg/Image"):
        next(bag.messages([CAMERA])).decode()


# What keeps memory bounded.


@given(st.lists(st.lists(st.integers(0, 50), max_size=8), max_size=8), st.integers(0, 3))
def test_segments_are_merged_and_opened_when_their_time_has_come(times: list[list[int]], early: int) -> None:
    channel = Channel("/t", "std_msgs/msg/String", MessageDefinition(MessageDefinitionFormat.NONE, ""))
    opened: list[int] = []

    def segment(stamps: list[int]) -> Segment:
        def read() -> Any:
            opened.append(min(stamps))
            return iter([(channel, stamp, b"") for stamp in sorted(stamps)])

        return Segment(min(stamps) - early, read)

    got = []
    for _, time, _ in in_order(map(segment, filter(None, times))):
        got.append(time)
        assert all(start <= time + early for start in opened)
    assert got == sorted(time for one in times for time in one)


def test_of_one_time_the_earlier_segment_comes_first_and_is_over_before_the_next_is_opened() -> None:
    channel = Channel("/t", "std_msgs/msg/String", MessageDefinition(MessageDefinitionFormat.NONE, ""))
    opened: list[int] = []

    def segment(index: int) -> Segment:
        def read() -> Any:
            opened.append(index)
            return iter([(channel, 7, bytes([index, place])) for place in range(3)])

        return Segment(7, read)

    for place, (_, _, data) in enumerate(in_order(map(segment, range(4)))):
        assert tuple(data) == divmod(place, 3) and opened == list(range(data[0] + 1))
