"""The configuration of the remote TOPReward: config/rewards/topreward_remote.yaml, typed.

Role: names, defaults, bounds, and what an address and the name of a key may look like. Does not depend on torch, ROS or a server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from reward_node.settings import ImageRewardSettings, hold
from reward_node.topreward.settings import Calibration


@dataclass(frozen=True)
class RetrySettings:
    """attempts: at a request, the first included; pause: s before the second attempt, twice as long before each further one; failures:
    requests in a row that failed, after which the server is left alone for `rest` s, then for twice as long each time, up to `longest`.
    Every pause is shortened at random by up to a half, so that several robots do not come back at once.
    """

    attempts: int = field(default=3, metadata={"ge": 1})
    pause: float = field(default=0.1, metadata={"gt": 0})
    failures: int = field(default=3, metadata={"ge": 1})
    rest: float = field(default=1.0, metadata={"gt": 0})
    longest: float = field(default=30.0, metadata={"gt": 0})


@dataclass(frozen=True, kw_only=True)
class RemoteSettings(ImageRewardSettings):
    """url: of the server, with or without /v1; model: the name under which it serves the model; key_variable: environment variable that
    holds the server's API key, or empty; timeout: s within which a score has come or is given up, attempts and pauses included; startup:
    the same of a request at the start, where the server may still be warming up; top: likeliest tokens to ask for; check_prompt: have the
    server show a prompt at the start and refuse it where its user turn is closed.

    cameras: side by side in one image; frames: in every prompt; prompt: text after them, holds {instruction}; answer, contrary: the tokens
    whose log-probabilities are read.
    """

    url: str
    model: str
    prompt: str
    key_variable: str | None = None
    timeout: float = field(default=2.0, metadata={"gt": 0})
    startup: float = field(default=60.0, metadata={"gt": 0})
    retry: RetrySettings = field(default_factory=RetrySettings)
    top: int = field(default=20, metadata={"ge": 1})
    check_prompt: bool = True
    frames: int = field(default=8, metadata={"ge": 8})
    answer: str = " True"
    contrary: str = " False"
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        super().__post_init__()
        hold("prompt", self.prompt)
        # Neither message repeats the value: it may be a secret.
        if self.key_variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise ValueError("key 'key_variable' must be the name of an environment variable, not the API key itself")
        parts = urlsplit(self.url)
        if "@" in parts.netloc:
            raise ValueError("key 'url' holds a user name or password; leave it out, and see 'key_variable'")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or not _has_port(self.url):
            raise ValueError(f"key 'url' must look like http://gpu-box:8000, not '{self.url}'")

    @property
    def base(self) -> str:
        """The address in front of /v1/models and /tokenize."""
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


def _has_port(url: str) -> bool:
    """Whether the port is a number in range, or there is none. The address is of printable ASCII: it becomes a line of the request."""
    try:
        return url.isascii() and url.isprintable() and " " not in url and urlsplit(url).port != 0
    except ValueError:
        return False
