"""Messages of a bag and what their bytes mean.

Role: a message as it lies in a bag, decoded on demand into an object with ROS's field names, which whetstone.images and
whetstone.profile take as they take a live one. A type is read by the bag's own definition; where the bag has none, by ours
(src/msgs), by ROS 2 Jazzy's, or by a folder of .msg files. rosbags does the parsing. Does not depend on rclpy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from whetstone import config
from whetstone.errors import ConfigError, InputError

Encoding = Literal["cdr", "ros1", "other"]
_IDL_HEADING = "=" * 80 + "\n"
_HEADER = "std_msgs/msg/Header"
_OWN_PACKAGE = "whetstone_msgs"


@dataclass(frozen=True, eq=False)
class Channel:
    """One topic of one file, of one type (package/msg/Name). definition: as the file has it. encoding: of the messages' bytes."""

    topic: str
    type: str
    definition: MessageDefinition
    encoding: Encoding = "cdr"


NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, "")


@dataclass(frozen=True, eq=False)
class Message:
    """One message. time_ns: when it was recorded (log time), ns."""

    channel: Channel
    time_ns: int
    raw: bytes
    """As it lies in the bag, after decompression; `data` is the same in CDR."""
    types: Types

    @property
    def topic(self) -> str:
        return self.channel.topic

    @property
    def type(self) -> str:
        """package/msg/Name"""
        return self.channel.type

    @property
    def data(self) -> bytes:
        """CDR, as ROS 2 sends it; a message of ROS 1 is converted. Raises InputError where that needs a definition that nobody has."""
        return self.raw if self.channel.encoding == "cdr" else self.types.to_cdr(self.channel, self.raw)

    def decode(self) -> Any:
        """The message with ROS's field names; arrays of numbers are numpy's. Raises InputError naming topic and type where its definition
        is missing or its bytes do not fit it."""
        return self.types.decode(self.channel, self.raw)


class Types:
    """Message types of one bag. folder: of more definitions, package/msg/Name.msg, for what the bag lacks."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._stores: dict[tuple[str, MessageDefinition, bool], Typestore] = {}

    def known(self, channel: Channel) -> bool:
        """Whether messages of this channel can be decoded."""
        try:
            self._store(channel)
        except InputError:
            return False
        return True

    def decode(self, channel: Channel, raw: bytes) -> Any:
        store = self._store(channel)
        try:
            if channel.encoding == "ros1":
                return store.deserialize_ros1(memoryview(raw), channel.type)
            return store.deserialize_cdr(memoryview(raw), channel.type)
        except (SerdeError, IndexError) as error:
            raise _does_not_fit(channel, error) from None

    def to_cdr(self, channel: Channel, raw: bytes) -> bytes:
        """Bytes of ROS 1 as ROS 2 would send them."""
        try:
            return bytes(self._store(channel, headers_of_ros2=True).ros1_to_cdr(raw, channel.type))
        except (SerdeError, IndexError) as error:
            raise _does_not_fit(channel, error) from None

    def store(self, channel: Channel) -> Typestore:
        """A typestore of ROS 2 that knows the channel's type: what a writer of bags needs. InputError where nobody knows the type."""
        return self._store(channel, headers_of_ros2=True)

    def _store(self, channel: Channel, headers_of_ros2: bool = False) -> Typestore:
        """One for each type, so that a bag whose definitions contradict each other (two versions of a package) is read all the same.
        headers_of_ros2: without the `seq` that a header has in ROS 1."""
        key = (channel.type, channel.definition, headers_of_ros2)
        if key not in self._stores:
            self._stores[key] = self._made(channel, headers_of_ros2)
        return self._stores[key]

    def _made(self, channel: Channel, headers_of_ros2: bool) -> Typestore:
        if channel.encoding == "other":
            raise InputError(f"topic '{channel.topic}': {channel.type} is not serialised as ROS does it (CDR); it cannot be read")
        defined, known = _parsed(channel), {}
        if headers_of_ros2:
            defined.pop(_HEADER, None)
        lacks: list[str] = []
        wanted = [channel.type]
        while wanted:
            name = wanted.pop()
            fields = defined.get(name) or fallback(self._folder).get(name)
            if fields is None:
                lacks.append(name)
            else:
                known[name] = fields
                wanted += [one for one in _nested(fields) if one not in known]
        if lacks:
            within = "" if lacks[0] == channel.type else f" (in {channel.type})"
            raise InputError(
                f"topic '{channel.topic}': the bag has no message definition of {lacks[0]}{within}, and none is known here; give a folder"
                " that holds it as package/msg/Name.msg (definitions:=FOLDER)"
            )
        store = get_typestore(Stores.EMPTY)
        store.register(known)
        return store


def _parsed(channel: Channel) -> dict[str, Any]:
    """The types that the bag's definition of this channel defines."""
    kind, text = channel.definition
    try:
        if kind == MessageDefinitionFormat.MSG:
            return dict(get_types_from_msg(text, channel.type))
        if kind == MessageDefinitionFormat.IDL:
            if not text.startswith(f"{_IDL_HEADING}IDL: "):
                return dict(get_types_from_idl(text))
            types: dict[str, Any] = {}
            for part in text.split(_IDL_HEADING)[1:]:
                types.update(get_types_from_idl(part.split("\n", 1)[1]))
            return types
    except (TypesysError, ValueError, IndexError) as error:
        raise InputError(f"topic '{channel.topic}': the bag's message definition of {channel.type} is damaged: {error}") from None
    return {}


def _nested(fields: Any) -> list[str]:
    """Types that a definition refers to."""
    found = []
    for _, (kind, rest) in fields[1]:
        while isinstance(rest, tuple) and isinstance(rest[0], tuple):  # an array or a sequence of something
            kind, rest = rest[0]
        if isinstance(rest, str):
            found.append(rest)
    return found


@cache
def fallback(folder: Path | None = None) -> dict[str, Any]:
    """Types for what a bag lacks: those of ROS 2 Jazzy, ours, and those in `folder`. ConfigError naming a file that cannot be read."""
    types: dict[str, Any] = dict(get_typestore(Stores.ROS2_JAZZY).fielddefs)
    for path in sorted(_own_definitions().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{_OWN_PACKAGE}/msg/{path.stem}"))
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f"definitions:={folder}: no such folder")
        for path in sorted(folder.rglob("*.msg")):
            package = path.parent.parent.name if path.parent.name == "msg" else path.parent.name
            try:
                types.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{package}/msg/{path.stem}"))
            except (OSError, UnicodeDecodeError, TypesysError) as error:
                raise ConfigError(f"{path}: not a message definition: {' '.join(str(error).split())}") from None
    return types


def _own_definitions() -> Path:
    """The folder of our .msg files: of the checkout, else of the installed package."""
    source = config.root() / "src" / "msgs" / "msg"
    if source.is_dir():
        return source
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        installed = Path(prefix) / "share" / _OWN_PACKAGE / "msg"
        if installed.is_dir():
            return installed
    return source


def _does_not_fit(channel: Channel, error: Exception) -> InputError:
    return InputError(f"topic '{channel.topic}': a message is no {channel.type} as its definition has it: {error}")
