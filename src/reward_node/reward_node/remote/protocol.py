"""The part of the OpenAI-compatible API that a reward needs, as data: what is asked, and what a reply says.

Role: pure; sends nothing (client.py) and decides nothing (served.py). Does not depend on torch or ROS.

The score is log p(answer) behind a user turn that is left open, over the whole vocabulary. /v1/chat/completions gives it as the
log-probability of the first generated token:

- `continue_final_message` with `add_generation_prompt: false` leaves the last message open, the user's too: vLLM hands both to
  transformers' chat template. SGLang knows them for the assistant's turn only; it needs a chat template that closes no turn.
- `logprob_token_ids` (vLLM since pull request 43463) names the tokens: one request, exact however unlikely they are. Servers that do not
  know it ignore it and list the `top_logprobs` likeliest tokens instead (vLLM allows as many as --max-logprobs, 20).
- `allowed_token_ids` (vLLM) lets only the answer be generated. With --logprobs-mode raw_logprobs, the default, the log-probabilities are
  those before that restriction, so that the generated token's own is exact. With processed_logprobs it is 0.
- `return_tokens_as_token_ids` (vLLM) tells " True" from "True" in vocabularies where both are written alike.
- temperature 0 and penalties of none: a server's generation_config would otherwise bring its own, which SGLang lets into the
  log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_NOTHING = -9999.0
"""What vLLM writes for a log-probability that it lacks or that is minus infinity; SGLang writes less."""
_ROUNDING = 1e-3
"""By which a sum of probabilities may exceed 1."""


@dataclass(frozen=True)
class Answer:
    """text: of the token, with its leading space; token: its id."""

    text: str
    token: int

    def among(self, found: dict[str, float]) -> float | None:
        """Its log-probability, or None where the reply does not name it."""
        return found.get(f"token_id:{self.token}", found.get(self.text))


def chat(
    model: str, images: Sequence[str], text: str, answers: Sequence[Answer], top: int, only: Answer | None = None, show: bool = False
) -> dict[str, Any]:
    """The body of a request for one token behind `images` (data URLs) and `text`.

    answers: tokens to be told of; top: likeliest tokens to list; only: the one token that may come; show: the prompt's tokens as well.
    """
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "max_tokens": 1,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": True,
        "top_logprobs": top,
        "return_tokens_as_token_ids": True,
    }
    if only is None:
        body["logprob_token_ids"] = [answer.token for answer in answers]
    else:
        body["allowed_token_ids"] = [only.token]
    if show:
        body["return_token_ids"] = True  # vLLM
        body["return_prompt_token_ids"] = True  # SGLang
    return body


def log_probabilities(reply: Any) -> dict[str, float]:
    """Token -> log-probability, nat, at the first generated position. ValueError, in words for a user, where there is none."""
    first = _at(reply, "choices", 0, "logprobs", "content", 0)
    if not isinstance(first, dict):
        raise ValueError("sent no log-probabilities; it must know 'logprobs' and 'top_logprobs' in /v1/chat/completions")
    found: dict[str, float] = {}
    others = first.get("top_logprobs")
    for entry in [first, *(others if isinstance(others, list) else [])]:
        token, value = _at(entry, "token"), _number(_at(entry, "logprob"))
        if not isinstance(token, str) or value is None:
            raise ValueError("sent log-probabilities in a form that is not OpenAI's (token, logprob)")
        if math.isnan(value):
            raise ValueError(f"gave a log-probability of {token[:40]!r} that is not a number")
        if value > _NOTHING:
            found[token] = value
    if not found:
        raise ValueError("sent a log-probability of minus infinity and no other")
    if max(found.values()) > _ROUNDING or sum(map(math.exp, found.values())) > 1.0 + _ROUNDING:
        raise ValueError("sent what are no log-probabilities: they add up to more than 1; start it with --logprobs-mode raw_logprobs")
    return found


def prompt_tokens(reply: Any) -> list[int] | None:
    """The ids of the prompt that the server made of a request with `show`, or None where it does not say."""
    # vLLM puts them beside the choices, SGLang into each.
    for tokens in (_at(reply, "prompt_token_ids"), _at(reply, "choices", 0, "prompt_token_ids")):
        if isinstance(tokens, list):
            return tokens
    return None


def token_ids(reply: Any) -> list[int] | None:
    """Of /tokenize."""
    tokens = _at(reply, "tokens")
    return tokens if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens) else None


def model_names(reply: Any) -> list[str] | None:
    """Of /v1/models."""
    models = _at(reply, "data")
    names = [_at(model, "id") for model in models] if isinstance(models, list) else []
    return names if names and all(isinstance(name, str) for name in names) else None


def fingerprint(reply: Any) -> str:
    """What stands for the server's version, settings and model (vLLM), or nothing."""
    found = _at(reply, "system_fingerprint")
    return found[:64] if isinstance(found, str) else ""


def _number(value: Any) -> float | None:
    """JSON's true is an int in Python, and its integers have no end."""
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    except OverflowError:
        return math.inf


def _at(value: Any, *path: str | int) -> Any:
    """What lies at the end of the path, or None."""
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and len(value) > step else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value
