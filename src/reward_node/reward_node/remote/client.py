"""JSON over HTTP with a deadline that holds.

Role: one request to one server: its attempts, its deadline, what its failures are called. Built on the standard library: the HTTP
clients that come with transformers have other names under other versions of Python, and their blocking calls know time-outs of single
operations only. When to try again: backoff.py; what is asked: protocol.py. Does not depend on torch or ROS.

The deadline is one for everything, name resolution and a reply that trickles included: an exchange runs in a thread of its own that is
left behind when the time is up, and ends by itself.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from reward_node.remote.backoff import Backoff
from reward_node.remote.settings import RetrySettings
from whetstone.errors import PeerError

LARGEST = 1 << 22
"""Bytes of a reply, at most."""
_ABANDONED = 8
"""Exchanges left behind that may still hang when another one is begun."""


@dataclass(frozen=True)
class Limit:
    """A deadline. seconds: it was set for; end: on `clock`, s."""

    seconds: float
    end: float
    clock: Callable[[], float]

    @property
    def left(self) -> float:
        return self.end - self.clock()


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes
    headers: Any


class _Passing(Exception):
    """A failure that may be none the next time. wait: s that the server asked to be left alone for."""

    def __init__(self, cause: str, wait: float = 0.0) -> None:
        super().__init__(cause)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the API key along to wherever a redirect points."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """base: address without a path of the API; key: for the header Authorization, or empty. For one caller at a time.

    counters: requests: sent, those that were sent again included; retries: of these, sent again; bytes_sent: of bodies.
    """

    def __init__(
        self,
        base: str,
        key: str,
        retry: RetrySettings,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base = base
        self.counters = {"requests": 0, "retries": 0, "bytes_sent": 0}
        self._key, self._clock, self._sleep = key, clock, sleep
        self._backoff = Backoff(retry, clock, seed)
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._threads: list[threading.Thread] = []

    def limit(self, seconds: float) -> Limit:
        """The deadline `seconds` from now."""
        return Limit(seconds, self._clock() + seconds, self._clock)

    def call(self, path: str, body: dict[str, Any] | None, limit: Limit) -> Any:
        """POST `body` as JSON (GET where it is None); returns what the reply's JSON says.

        PeerError, within the limit, where there is no usable reply. Connection errors, 429 and 5xx are tried again; other answers are not.
        """
        left = self._backoff.left
        if left > 0:
            raise PeerError(
                f"the reward server {self.base} is left alone for another {left:.1f} s after {self._backoff.failures} failures in a row "
                f"({self._backoff.cause})"
            )
        data = None if body is None else json.dumps(body).encode()
        try:
            reply = self._until_it_passes(path, data, limit)
        except _Passing as fault:
            cause = self._line(str(fault))
            self._backoff.failed(cause)
            raise PeerError(
                f"the reward server {self.base} did not answer within {limit.seconds:g} s ({cause}); start it, or set 'url'"
            ) from None
        self._backoff.succeeded()  # also where the reply is of no use: the server is there
        return self._meaning(reply)

    def _until_it_passes(self, path: str, data: bytes | None, limit: Limit) -> _Reply:
        fault = _Passing("no time left")
        for attempt in range(self._backoff.attempts):
            pause = max(self._backoff.pause(attempt), fault.wait)
            if pause >= limit.left:
                break
            if attempt:
                self._sleep(pause)
                self.counters["retries"] += 1
            try:
                return self._attempt(path, data, limit)
            except _Passing as error:
                fault = error
        raise fault

    def _attempt(self, path: str, data: bytes | None, limit: Limit) -> _Reply:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= _ABANDONED:
            raise _Passing(f"{len(self._threads)} earlier requests still hang")
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.base + path, data, headers)
        self.counters["requests"] += 1
        self.counters["bytes_sent"] += len(data or b"")
        results: SimpleQueue[_Reply | BaseException] = SimpleQueue()

        def exchange() -> None:
            try:
                results.put(_exchange(self._opener, request, limit))
            except BaseException as error:
                results.put(error)

        thread = threading.Thread(target=exchange, name="reward-request", daemon=True)
        self._threads.append(thread)
        thread.start()
        try:
            result = results.get(timeout=max(limit.left, 1e-3))
        except Empty:
            raise _Passing("no reply") from None
        if isinstance(result, BaseException):
            raise self._fault(result) from None
        if result.status == 429 or result.status >= 500:
            raise _Passing(f"HTTP {result.status}: {_words(result.body)}", _seconds(result.headers.get("Retry-After")))
        return result

    def _fault(self, error: BaseException) -> Exception:
        """What an exception of the exchange means."""
        if isinstance(error, PeerError):
            return PeerError(f"the reward server {self.base} {error}")
        while isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
            error = error.reason
        if isinstance(error, TimeoutError):
            return _Passing("no reply")
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, (OSError, http.client.HTTPException)) and not isinstance(error, ssl.SSLCertVerificationError):
            return _Passing(cause)
        return PeerError(f"the reward server {self.base} cannot be asked: {self._line(cause)}")

    def _meaning(self, reply: _Reply) -> Any:
        """The JSON of a reply that will not change when it is asked for again."""
        if 300 <= reply.status < 400:
            where = self._line(str(reply.headers.get("Location", "elsewhere")))
            raise PeerError(f"the reward server {self.base} redirects to {where}; set 'url' to the address that answers")
        if reply.status >= 400:
            hint = "; set 'key_variable' to the environment variable that holds its API key" if reply.status in (401, 403) else ""
            raise PeerError(
                f"the reward server {self.base} refused the request (HTTP {reply.status}: {self._line(_words(reply.body))}){hint}"
            )
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError):
            raise PeerError(f"the reward server {self.base} sent what is not JSON: '{self._line(_words(reply.body))}'") from None

    def _line(self, text: str) -> str:
        """One short line for a message, in which a server that repeats the API key does not give it away."""
        line = " ".join(text.split())
        if self._key:
            line = line.replace(self._key, "***")
        return line if len(line) <= 300 else f"{line[:300]} ..."


def _exchange(opener: urllib.request.OpenerDirector, request: urllib.request.Request, limit: Limit) -> _Reply:
    """In a thread of its own. PeerError where the reply is too large; else whatever urllib raises."""
    try:
        response: Any = opener.open(request, timeout=max(limit.left, 1e-3))
    except urllib.error.HTTPError as error:
        response = error  # a reply like others, of which `open` thinks too little
    with response:
        parts: list[bytes] = []
        size = 0
        while part := response.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                raise PeerError(f"sent more than {LARGEST >> 20} MiB in reply to one request")
            if limit.left <= 0:
                raise TimeoutError
        if response.length:
            raise ConnectionError("the reply broke off")
        return _Reply(response.status, b"".join(parts), response.headers)


def _words(body: bytes) -> str:
    """What the body of an error says: the message of OpenAI's, FastAPI's or another JSON, else its text."""
    try:
        said = json.loads(body)
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and said.get(name):
                said = said[name]
        return said if isinstance(said, str) else json.dumps(said)
    except (ValueError, RecursionError):
        return body[:1000].decode(errors="replace") or "no text"


def _seconds(retry_after: str | None) -> float:
    """Of the header Retry-After; 0 where it is missing or a date."""
    return float(retry_after) if re.fullmatch("[0-9]{1,9}", retry_after or "") and retry_after else 0.0
