"""The client of policy servers against real sockets: openpi's messages, what a server may do wrong, our own server, the simulator."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from websockets.sync.server import ServerConnection, serve

from policy_node.remote import RemotePolicy
from policy_node.serve import PolicyServer
from policy_node.wire import pack, unpack
from robot_bringup.offline import run_episode
from robot_bringup.sim.simulation import Simulation
from whetstone.config import load_yaml, root
from whetstone.contracts import Observation, Policy
from whetstone.errors import ConfigError, InputError, PeerError
from whetstone.plugins import configured
from whetstone.profile import load_profile
from whetstone.task import load_task

FRANKA = load_profile("franka")
DROID = {
    "images": {"front": "observation/exterior_image_1_left", "wrist": "observation/wrist_image_left"},
    "size": [224, 224],
    "state": {"observation/joint_position": [0, 7], "observation/gripper_position": [7, 8]},
    "gripper": {"closed": 1.0, "open": 0.0},
    "horizon": 10,
    "execute": 5,
}
"""As openpi's DROID policies have it."""


def observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 255, (128, 160, 3), dtype=np.uint8) for camera in ("front", "wrist")}
    return Observation(0, images, np.append(rng.normal(0, 0.3, 7), 0.25).astype(np.float32))


@contextmanager
def serving(answer: Callable[[ServerConnection], None], port: int = 0) -> Iterator[int]:
    with serve(answer, "127.0.0.1", port, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def packed(message: dict[str, Any]) -> bytes:
    """openpi's form, written by hand."""

    def plain(value: Any) -> Any:
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}

    made = msgpack.packb(message, default=plain)
    assert made is not None
    return made


def raw(message: dict[bytes, Any]) -> bytes:
    made = msgpack.packb(message)
    assert made is not None
    return made


class OpenPI:
    """A server that does what openpi's does. seen: what it was asked."""

    def __init__(self, actions: Callable[[int], Any]) -> None:
        self.actions, self.seen, self.connections = actions, [], 0

    def __call__(self, socket: ServerConnection) -> None:
        self.connections += 1
        socket.send(packed({"policy": "pi0_fast_droid"}))
        for data in socket:
            self.seen.append(msgpack.unpackb(data))
            answer = self.actions(len(self.seen))
            if answer is None:
                socket.close()
                return
            socket.send(answer if isinstance(answer, str | bytes) else packed(answer))


def load(port: int, **given: Any) -> RemotePolicy:
    return RemotePolicy.load({"address": f"ws://127.0.0.1:{port}", "connect": 3.0, "timeout": 3.0, **given}, FRANKA)


def test_it_speaks_openpi_s_protocol() -> None:
    answer = np.linspace(-1, 1, 80).reshape(10, 8)
    server = OpenPI(lambda _: {"actions": answer, "server_timing": {"infer_ms": 3.0}})
    with serving(server) as port:
        policy = load(port, **DROID)
        assert isinstance(policy, Policy)
        policy.reset("put the red cube in the tray", 0, "sampled")
        found = policy.act(observation()).actions
        policy.close()
    assert found.shape == (10, 8) and (policy.spec.horizon, policy.spec.execute) == (10, 5)
    np.testing.assert_allclose(found[:, :7], answer[:, :7], atol=1e-6)
    np.testing.assert_allclose(found[:, 7], (1 - answer[:, 7]).clip(0, 1), atol=1e-6)
    asked = server.seen[0]
    assert set(asked) == {*DROID["images"].values(), *DROID["state"], "prompt"} and asked["prompt"] == "put the red cube in the tray"
    image = asked["observation/wrist_image_left"]
    assert (image[b"__ndarray__"], image[b"dtype"], image[b"shape"]) == (True, "|u1", [224, 224, 3])
    pixels = np.frombuffer(image[b"data"], np.uint8).reshape(224, 224, 3)
    assert not pixels[:22].any() and pixels[24:200].any() and not pixels[-22:].any(), "160x128 in 224x224: black above and below"
    state, gripper = (asked[name] for name in DROID["state"])
    np.testing.assert_allclose(np.frombuffer(state[b"data"], state[b"dtype"]), observation().proprioception[:7])
    np.testing.assert_allclose(np.frombuffer(gripper[b"data"], gripper[b"dtype"]), [0.75])


def test_a_lost_connection_is_made_anew_once() -> None:
    server = OpenPI(lambda count: None if count == 2 else {"actions": np.zeros((10, 8))})
    with serving(server) as port:
        policy = load(port, **DROID)
        policy.reset("go", 0, "sampled")
        for _ in range(3):
            assert policy.act(observation()).actions.shape == (10, 8)
        policy.close()
    assert (server.connections, len(server.seen)) == (2, 4)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ("Traceback ...\nValueError: no image 'left'", PeerError, "failed: ValueError: no image 'left'"),
        ({"action": np.zeros((10, 8))}, InputError, "without 'actions': action"),
        ({"actions": np.zeros((9, 8))}, InputError, r"shape \(9, 8\); this robot wants at least 10 rows"),
        ({"actions": np.zeros((10, 7))}, InputError, r"shape \(10, 7\).*of 8 numbers"),
        ({"actions": np.zeros(8)}, InputError, "must be"),
        (b"\xc1nonsense", InputError, "cannot be read"),
        (packed({"actions": 1}), InputError, "must be"),
        (None, PeerError, "hangs up"),
    ],
)
def test_a_bad_answer_is_one_line(answer: Any, kind: type[Exception], words: str) -> None:
    with serving(OpenPI(lambda _: answer)) as port:
        policy = load(port, **DROID)
        policy.reset("go", 0, "sampled")
        with pytest.raises(kind, match=words) as error:
            policy.act(observation())
        policy.close()
    assert "\n" not in str(error.value)


def test_deadlines_name_the_server() -> None:
    def silent(socket: ServerConnection) -> None:
        socket.send(packed({}))
        for _ in socket:
            pass

    with serving(silent) as port:
        policy = load(port, **DROID, first=0.3)
        policy.reset("go", 0, "sampled")
        with pytest.raises(PeerError, match=rf"127.0.0.1:{port} has not answered for 0.3 s"):
            policy.act(observation())
    began = time.monotonic()
    with pytest.raises(PeerError, match=rf"no policy server at ws://127.0.0.1:{port} for 0.5 s.*serve_policy.py"):
        load(port, **DROID, connect=0.5)
    assert time.monotonic() - began < 10
    with pytest.raises(ConfigError, match="'address'.*ws://host:port"):
        RemotePolicy.load({"address": "localhost:8000", **DROID}, FRANKA)
    with pytest.raises(ConfigError, match="no variable NOT_SET"):
        load(port, **DROID, key_variable="NOT_SET")


def test_what_does_not_fit_is_refused() -> None:
    with serving(OpenPI(lambda _: {})) as port:
        with pytest.raises(ConfigError, match="'horizon' is empty"):
            load(port)
        with pytest.raises(ConfigError, match="chunks have 10 rows"):
            load(port, **{**DROID, "execute": 11})
        with pytest.raises(ConfigError, match=r"'state.q' is \[0, 9\], but the state has 8 numbers"):
            load(port, **{**DROID, "state": {"q": [0, 9]}})
        policy = load(port, **DROID)
        assert policy.trainable_state() == {}
        with pytest.raises(ValueError, match="'w' is unknown"):
            policy.load_trainable_state({"w": np.zeros(1)})
        policy.close()


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(st.sampled_from(["u1", "i8", "f4", "f8", "?"]), arrays.array_shapes(max_dims=3, min_side=0)))
def test_arrays_travel(array: np.ndarray) -> None:
    found = unpack(pack({"a": array, "b": [1, "word", None]}))
    np.testing.assert_array_equal(found["a"], array)
    assert found["a"].dtype == array.dtype and found["b"] == [1, "word", None]


def test_objects_do_not_travel() -> None:
    with pytest.raises(ValueError, match="do not travel"):
        pack({"a": np.array([object()])})
    for dtype in ("|O", "O8", "V8", "<M8[s]", "nonsense"):
        with pytest.raises(InputError):
            unpack(raw({b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": dtype, b"shape": [1]}))
    with pytest.raises(InputError):
        unpack(raw({b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f8", b"shape": [1 << 40]}))


@contextmanager
def our_server() -> Iterator[tuple[Any, int]]:
    plugin, given = configured("whetstone.policies", "flow_vla")
    policy = plugin.load(given, FRANKA)
    with serving(PolicyServer(policy).answer) as port:
        yield policy, port


def test_our_own_server_gives_what_the_policy_gives_and_drives_the_simulator() -> None:
    task = replace(load_task("reach", "franka"), max_steps=20)
    with our_server() as (policy, port):
        remote = RemotePolicy.load({**load_yaml(root() / "config/policies/remote.yaml"), "address": f"ws://127.0.0.1:{port}"}, FRANKA)
        assert (remote.spec.horizon, remote.spec.execute) == (policy.spec.horizon, policy.spec.execute)
        sim = Simulation(FRANKA)
        there = [run_episode(sim, remote, task, 1, mode).rollout for mode in ("exploring", "greedy")]
        here = [run_episode(sim, policy, task, 1, mode).rollout for mode in ("exploring", "greedy")]
        sim.close()
        for one, other in zip(there, here, strict=True):
            np.testing.assert_allclose(one.actions, other.actions, atol=1e-6)
        with pytest.raises(PeerError, match="another robot is being served"):
            load(port, connect=0.5)
        with pytest.raises(InputError, match="no image 'wrist'"):
            PolicyServer(policy)._observation({"front": observation().images["front"], "state": np.zeros(8)})
        remote.close()
        time.sleep(0.1)
        with pytest.raises(ConfigError, match=r"has joints .*fer_joint1.*this robot's policy .*shoulder"):
            RemotePolicy.load({"address": f"ws://127.0.0.1:{port}"}, load_profile("so100"))


def test_the_command_says_what_is_wrong() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "policy_node.serve", "policy:=flow_vlaa", "robot:=franka"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "did you mean 'flow_vla'" in done.stderr and "Traceback" not in done.stderr
