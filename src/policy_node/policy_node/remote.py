"""A policy that a server holds: openpi's, or our own (serve.py), on another machine or in another environment.

Role: the policy plug-in `remote` (contract: whetstone.contracts.Policy): a client of openpi's websocket protocol. Depends on websockets and
msgpack; no part of it loads a model, and nothing of it is trained from here.

The protocol (openpi, packages/openpi-client): the server's first message is its metadata; then each observation, a mapping of names to
arrays and words, is answered by {"actions": (rows, numbers)}, or by text where the server failed. A server of ours says
{"whetstone": {...}} in its metadata: then the spec is checked against it, and the episode's seed and mode are sent along.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from policy_node.convention import Convention, ConventionConfig, Resize, chosen_cameras, first_line, names, resized
from policy_node.wire import LARGEST, last_line, pack, unpack
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Chunk, Observation, PolicyMode, PolicySpec
from whetstone.errors import ConfigError, InputError, PeerError
from whetstone.profile import RobotProfile

_SOURCE = "config/policies/remote.yaml"
_PAUSE = 0.2
"""s between two attempts to connect."""
_UNREACHED = (OSError, InvalidHandshake, ConnectionClosed, TimeoutError, EOFError)


@dataclass(frozen=True, kw_only=True)
class RemoteConfig(ConventionConfig):
    """address: ws://host:port; key_variable: environment variable with the API key. images: camera of the profile -> name in the
    observation; size: (height, width) they are sent in, empty: as they are; resize: how. state: name in the observation -> which numbers of
    the state (first, behind the last), in the policy's order; prompt: name of the instruction. horizon: rows per chunk, empty: as a server
    of ours says; execute: rows run before the next inference; columns: numbers of an action, of which the first are used; empty: as many as
    are used. connect: s to wait for the server; first, timeout: s for the first answer of a connection (it may compile) and for others."""

    plugin: str = "remote"
    address: str = "ws://localhost:8000"
    key_variable: str = ""
    images: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    resize: Resize = "pad"
    state: dict[str, tuple[int, int]] = field(default_factory=dict)
    prompt: str = "prompt"
    horizon: int | None = field(default=None, metadata={"ge": 1})
    execute: int | None = field(default=None, metadata={"ge": 1})
    columns: int | None = field(default=None, metadata={"ge": 1})
    connect: float = field(default=10.0, metadata={"gt": 0})
    first: float = field(default=120.0, metadata={"gt": 0})
    timeout: float = field(default=5.0, metadata={"gt": 0})


class RemotePolicy:
    """The server decides what it draws; one of ours follows seed and mode."""

    def __init__(self, config: RemoteConfig, profile: RobotProfile, source: str) -> None:
        self.config = config
        self.convention = Convention(config, profile, source)
        self._images = chosen_cameras(config.images, profile, source) or {camera.name: camera.name for camera in profile.cameras}
        size = len(self.convention.order)
        for name, (first, behind) in config.state.items():
            if not 0 <= first < behind <= size:
                raise ConfigError(f"{source}: key 'state.{name}' is [{first}, {behind}], but the state has {size} numbers")
        self._server = Server(config, source)
        told = self._server.open().get("whetstone")
        self._told: dict[str, Any] = told if isinstance(told, dict) else {}
        horizon = config.horizon or self._told.get("horizon")
        if not horizon:
            raise ConfigError(f"{source}: key 'horizon' is empty, and the server at {config.address} does not say it; set it")
        execute = config.execute or self._told.get("execute") or horizon
        if execute > horizon:
            raise ConfigError(f"{source}: key 'execute' is {execute}, but the policy's chunks have {horizon} rows")
        self.spec = PolicySpec(
            policy_id="remote",
            cameras=tuple(self._images),
            image_size=None,
            joints=profile.joint_names,
            horizon=int(horizon),
            execute=int(execute),
            rate=profile.rate,
            config_hash=config_hash([asdict(config) | {"address": "", "deployment": ""}, profile.name, self._told.get("config_hash", "")]),
            action_space=self.convention.space,
        )
        for name in ("joints", "action_space", "rate", "horizon") if self._told else ():
            value = getattr(self.spec, name)
            if self._told.get(name) != (list(value) if name == "joints" else value):
                raise ConfigError(
                    f"{source}: the server at {config.address} has {name} {self._told.get(name)}, this robot's policy {value}"
                )
        self._episode: dict[str, Any] = {}
        self._instruction = ""

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> RemotePolicy:
        """Raises ConfigError for a bad key or a server of something else, PeerError where none answers."""
        source = source_of(config, _SOURCE)
        return cls(parse(RemoteConfig, config, source), profile, source)

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self._instruction = instruction
        self._episode = {"whetstone/seed": seed, "whetstone/mode": mode, "whetstone/begins": True}

    def act(self, observation: Observation) -> Chunk:
        """Raises PeerError where the server does not answer, InputError where its answer is no chunk."""
        message: dict[str, Any] = {self.config.prompt: self._instruction}
        for camera, name in self._images.items():
            if camera not in observation.images:
                raise InputError(f"the policy needs camera '{camera}'; the observation has {names(list(observation.images))}")
            image = observation.images[camera]
            message[name] = image if self.config.size is None else resized(image, *self.config.size, self.config.resize)
        state = self.convention.state(observation.proprioception)
        message |= {name: state[first:behind] for name, (first, behind) in self.config.state.items()} or {"state": state}
        if self._told:
            message |= self._episode
            self._episode = {"whetstone/begins": False}
        answer = self._server.ask(message)
        return Chunk(self.convention.ours(self._checked(answer)))

    def _checked(self, answer: Any) -> np.ndarray:
        """(horizon, columns) of an answer."""
        at = f"the server at {self.config.address} answered"
        if not isinstance(answer, dict) or "actions" not in answer:
            raise InputError(f"{at} without 'actions': {names(list(answer)) if isinstance(answer, dict) else type(answer).__name__}")
        actions = np.asarray(answer["actions"])
        wanted = self.config.columns or self.convention.columns
        if actions.ndim != 2 or actions.dtype.kind not in "iuf":
            raise InputError(f"{at} with actions of shape {actions.shape} and type {actions.dtype}; they must be (rows, numbers)")
        if len(actions) < self.spec.horizon or actions.shape[1] != wanted:
            raise InputError(
                f"{at} with actions of shape {actions.shape}; this robot wants at least {self.spec.horizon} rows (key 'horizon') of "
                f"{wanted} numbers (action_space {self.spec.action_space}; key 'columns')"
            )
        return actions[: self.spec.horizon, : self.convention.columns]

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Nothing: the weights are elsewhere."""
        return {}

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        if state:
            raise ValueError(f"tensor '{next(iter(state))}' is unknown to the policy: it runs at {self.config.address}")

    def close(self) -> None:
        self._server.close()


class Server:
    """The connection to it, opened again where it was lost. For one caller at a time."""

    def __init__(self, config: RemoteConfig, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._source, self._clock = config, source, clock
        self._socket: ClientConnection | None = None
        self._answered = False
        self._held = ExitStack()

    def open(self) -> dict[str, Any]:
        """Connect, again and again until `connect` is over. Returns the server's metadata. Raises PeerError."""
        config = self._config
        key = os.environ.get(config.key_variable, "") if config.key_variable else ""
        if config.key_variable and not key:
            raise ConfigError(f"{self._source}: key 'key_variable': the environment has no variable {config.key_variable}")
        end, cause = self._clock() + config.connect, ""
        while (left := end - self._clock()) > 0:
            try:
                # Neither compressed nor through a proxy: pictures do not get smaller, and the server is on the robot's network.
                connection = connect(
                    config.address,
                    compression=None,
                    max_size=LARGEST,
                    open_timeout=left,
                    close_timeout=_PAUSE,
                    ping_interval=None,  # openpi's server answers no ping while it computes
                    proxy=None,
                    additional_headers={"Authorization": f"Api-Key {key}"} if key else None,
                )
                # Whoever does not read must not keep `send` waiting longer than `recv`.
                self._socket = self._held.enter_context(connection)
                self._socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(config.timeout * 1000))
                metadata = unpack(self._socket.recv(timeout=max(end - self._clock(), _PAUSE)))
                self._answered = False
                return metadata if isinstance(metadata, dict) else {}
            except InvalidURI as error:
                raise ConfigError(f"{self._source}: key 'address': {first_line(error)}; write ws://host:port") from error
            except (*_UNREACHED, InputError) as error:
                cause = first_line(error)
                self.close()
                time.sleep(min(_PAUSE, max(end - self._clock(), 0)))
        raise PeerError(
            f"no policy server at {config.address} for {config.connect:g} s ({cause}): start openpi's scripts/serve_policy.py or "
            f"`python -m policy_node.serve` there, or set 'address' in {self._source}"
        )

    def ask(self, message: dict[str, Any]) -> Any:
        """The answer. A connection that was lost is made anew, once. Raises PeerError, InputError."""
        data = pack(message)
        for attempt in (0, 1):
            if self._socket is None:
                self.open()
            assert self._socket is not None
            limit = self._config.timeout if self._answered else self._config.first
            try:
                self._socket.send(data)
                answer = self._socket.recv(timeout=limit)
            except TimeoutError as error:
                self.close()  # else the late answer would be taken for the next one's
                raise PeerError(f"the policy server at {self._config.address} has not answered for {limit:g} s") from error
            except (ConnectionClosed, OSError) as error:
                self.close()
                if attempt:
                    raise PeerError(f"the policy server at {self._config.address} hangs up ({first_line(error)}); see its log") from error
                continue
            self._answered = True
            if isinstance(answer, str):
                raise PeerError(f"the policy server at {self._config.address} failed: {last_line(answer)}")
            return unpack(answer)
        raise AssertionError

    def close(self) -> None:
        self._socket = None
        self._held.close()
