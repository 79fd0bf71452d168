"""A model behind a server: log-probabilities of two answers to a question about images.

Role: which requests it takes (protocol.py) and how long they may last (client.py); whether the numbers are what they claim to be. Knows
nothing of rewards or ROS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reward_node.remote import protocol
from reward_node.remote.client import Client, Limit
from reward_node.remote.protocol import Answer
from reward_node.remote.settings import RemoteSettings
from whetstone.config import unknown
from whetstone.errors import AssetError, ConfigError, PeerError

_TAIL = 8
"""Tokens at the end of a prompt that tell whether its turn is open."""
_NOISE = 0.25
"""nat by which a log-probability may differ between two requests: they are computed in different batches, in bfloat16."""


class ServedModel:
    """answers: of the configuration; fingerprint: what the server says of its model and version, or empty."""

    def __init__(self, client: Client, settings: RemoteSettings, answers: Sequence[Answer], fingerprint: str = "") -> None:
        self.client, self.answers, self.fingerprint = client, answers, fingerprint
        self._settings = settings

    @classmethod
    def reach(cls, client: Client, settings: RemoteSettings, image: str, source: str) -> ServedModel:
        """The model of the configuration `source`, after a self-test with one image (a data URL) per frame.

        AssetError where the server is not there or does not do what is needed, ConfigError where it serves another model or closes the
        user's turn.
        """
        try:
            names = protocol.model_names(client.call("/v1/models", None, client.limit(settings.startup)))
            if names is None:
                raise PeerError(f"the server {client.base} lists no models at /v1/models: it is not OpenAI-compatible")
            if settings.model not in names:
                raise ConfigError(f"{source}: key 'model': {unknown('model', settings.model, names)} (those that {client.base} serves)")
            served = cls(client, settings, [_answer(client, settings, text) for text in (settings.answer, settings.contrary)])
            question = settings.prompt.replace("{instruction}", "move")
            reply = served._ask([image] * settings.frames, question, client.limit(settings.startup), show=True)
            if settings.check_prompt:
                _check_turn(protocol.prompt_tokens(reply), _tokens(client, settings, question), source)
        except PeerError as error:
            raise AssetError(f"{source}: {error}") from error
        served.fingerprint = protocol.fingerprint(reply)
        return served

    def log_probabilities(self, images: Sequence[str], question: str) -> list[float]:
        """Of the answers, nat, over the whole vocabulary, behind the images (data URLs) and the question, the user's turn left open.

        PeerError, within the time-out, where they cannot be had.
        """
        limit = self.client.limit(self._settings.timeout)
        found = self._found(self._ask(images, question, limit))
        values = [answer.among(found) for answer in self.answers]
        return [
            self._alone(images, question, limit, answer, min(found.values())) if value is None else value
            for answer, value in zip(self.answers, values, strict=True)
        ]

    def _alone(self, images: Sequence[str], question: str, limit: Limit, answer: Answer, least: float) -> float:
        """Of an answer that is not among the likeliest tokens, the last of which has the log-probability `least`."""
        value = answer.among(self._found(self._ask(images, question, limit, only=answer)))
        if value is None:
            raise PeerError(
                f"the reward server {self.client.base} tells no log-probability of '{answer.text}', only that it is below {least:.2f} nat: "
                f"it is not among the {self._settings.top} likeliest tokens; raise 'top' here and --max-logprobs there (vLLM)"
            )
        # Not the likeliest token, so below 1/2. Of what may be said where nothing else may, the probability is 1.
        if value > min(least, math.log(0.5)) + _NOISE:
            raise PeerError(
                f"the reward server {self.client.base} gives log-probabilities of what it may say, not of the model; "
                "start it with --logprobs-mode raw_logprobs (vLLM)"
            )
        return value

    def _ask(self, images: Sequence[str], question: str, limit: Limit, only: Answer | None = None, show: bool = False) -> Any:
        body = protocol.chat(self._settings.model, images, question, self.answers, self._settings.top, only, show)
        return self.client.call("/v1/chat/completions", body, limit)

    def _found(self, reply: Any) -> dict[str, float]:
        try:
            return protocol.log_probabilities(reply)
        except ValueError as error:
            raise PeerError(f"the reward server {self.client.base} {error}") from None


def _answer(client: Client, settings: RemoteSettings, text: str) -> Answer:
    tokens = _tokens(client, settings, text)
    if len(tokens) != 1:
        raise ConfigError(
            f"'{text}' is {len(tokens)} tokens in the served model's vocabulary, but must be one; set 'answer' and 'contrary'"
        )
    return Answer(text, tokens[0])


def _tokens(client: Client, settings: RemoteSettings, text: str) -> list[int]:
    body = {"model": settings.model, "prompt": text, "add_special_tokens": False}
    tokens = protocol.token_ids(client.call("/tokenize", body, client.limit(settings.startup)))
    if tokens is None:
        raise PeerError(f"the server {client.base} does not answer /tokenize as vLLM and SGLang do")
    return tokens


def _check_turn(prompt: list[int] | None, question: list[int], source: str) -> None:
    """ConfigError where the prompt does not end with the question: a closed turn costs TOPReward half of its rank correlation."""
    if prompt is None:
        raise ConfigError(
            f"{source}: the server does not show its prompt (return_token_ids), so whether the user's turn stays open is not known; "
            "use a newer server, or set 'check_prompt: false'"
        )
    tail = question[-_TAIL:]
    if prompt[-len(tail) :] != tail:
        raise ConfigError(
            f"{source}: the server closes the user's turn behind the question; vLLM leaves it open (continue_final_message), SGLang with a "
            "template of one's own (--chat-template): see the configuration"
        )
