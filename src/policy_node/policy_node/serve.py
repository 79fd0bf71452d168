"""Serves a policy to `policy:=remote`: `python -m policy_node.serve policy:=FILE.yaml robot:=franka`.

Role: the other side of remote.py, without ROS, so that a policy can run in an environment of its own (another Python, another transformers)
or on another machine; openpi's clients can ask it too. One robot at a time. Depends on websockets and on what the policy needs.

An observation has an image for each camera under its name, "state" (joints in profile order, rad, then gripper opening) and "prompt"; the
answer "actions" is the policy's chunk. With "whetstone/begins" an episode begins, under "whetstone/seed" and in "whetstone/mode".
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from policy_node.wire import LARGEST, pack, unpack
from whetstone.contracts import Observation, Policy
from whetstone.errors import ConfigError, InputError, WhetstoneError
from whetstone.plugins import configured
from whetstone.profile import load_profile

_LOG = logging.getLogger("whetstone")
_USAGE = "usage: python -m policy_node.serve policy:=FILE.yaml robot:=franka [host:=0.0.0.0] [port:=8000] [device:=cpu]"


class PolicyServer:
    """A policy behind a socket."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._busy = threading.Lock()

    def open(self, host: str, port: int) -> Server:
        """Listening; `serve_forever` answers. port 0: any that is free."""
        return serve(self.answer, host, port, compression=None, max_size=LARGEST)

    @property
    def metadata(self) -> dict[str, Any]:
        spec = self._policy.spec
        names = ("policy_id", "horizon", "execute", "rate", "config_hash", "action_space")
        return {"whetstone": {name: getattr(spec, name) for name in names} | {"cameras": list(spec.cameras), "joints": list(spec.joints)}}

    def answer(self, socket: ServerConnection) -> None:
        """One connection, until it ends."""
        if not self._busy.acquire(blocking=False):
            socket.send("another robot is being served; start another server on another port")
            return
        try:
            socket.send(pack(self.metadata))
            instruction: str | None = None
            for data in socket:
                try:
                    seen = unpack(data)
                    told = str(seen.get("prompt", ""))
                    if seen.get("whetstone/begins", told != instruction):
                        self._policy.reset(told, int(seen.get("whetstone/seed", 0)), seen.get("whetstone/mode", "sampled"))
                        instruction = told
                    socket.send(pack({"actions": self._policy.act(self._observation(seen)).actions}))
                except WhetstoneError as error:
                    socket.send(str(error))
                except ConnectionClosed:
                    raise
                except Exception:  # whatever a policy raises is the client's to hear
                    _LOG.exception("the policy failed")
                    socket.send(traceback.format_exc())
        except ConnectionClosed:
            pass
        finally:
            self._busy.release()

    def _observation(self, seen: dict[str, Any]) -> Observation:
        spec = self._policy.spec
        images = {name: np.asarray(seen[name]) for name in spec.cameras if name in seen}
        for name in spec.cameras:
            if name not in images or images[name].ndim != 3 or images[name].dtype != np.uint8:
                raise InputError(f"no image '{name}' (height, width, 3) of uint8; the policy sees {', '.join(spec.cameras)}")
        state = np.asarray(seen.get("state", ()), np.float32)
        if state.shape != (len(spec.joints) + 1,):
            raise InputError(f"'state' has shape {state.shape}; it must be the positions of {', '.join(spec.joints)} and the opening")
        return Observation(0, images, state)


def main(arguments: list[str]) -> int:
    given = dict(argument.split(":=", 1) for argument in arguments if ":=" in argument)
    known = {"policy", "robot", "host", "port", "device"}
    try:
        if len(given) != len(arguments) or not given.keys() <= known or not {"policy", "robot"} <= given.keys():
            raise ConfigError(_USAGE)
        if not given.get("port", "8000").isdigit():
            raise ConfigError(f"port:={given['port']} is no number; {_USAGE}")
        plugin, settings = configured("whetstone.policies", given["policy"])
        policy = plugin.load(settings, load_profile(given["robot"]), given.get("device", "cpu"))
        with PolicyServer(policy).open(given.get("host", "0.0.0.0"), int(given.get("port", "8000"))) as server:
            print(f"serving {policy.spec.policy_id} on port {server.socket.getsockname()[1]}", flush=True)
            server.serve_forever()
    except (WhetstoneError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
