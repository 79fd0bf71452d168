"""A reward server for tests: the subset of the OpenAI-compatible API over a tiny Idefics3, and faults on demand.

Role: what vLLM and SGLang do to a request, as far as their sources say, in a thread of the test. Prompt, tokens and logits come from
transformers alone (chat template, processor, one whole pass), so that it shares no code with what it checks.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

Kind = Literal["vllm", "old vllm", "sglang"]
Fault = Callable[["Handler"], None]


class RewardServer(ThreadingHTTPServer):
    """kind: vllm knows logprob_token_ids, old vllm does not; sglang knows no request of vLLM's own and closes the user's turn unless
    `template` is put in the place of the model's. processed: tells log-probabilities behind allowed_token_ids; strips: writes tokens
    without their leading space, as with SentencePiece; reveals: the prompt's tokens; most: log-probabilities that may be asked for.

    faults: what happens to the next requests instead of an answer; seen: path, headers and body of all requests; broken: errors of
    the server itself; name: of the model.
    """

    daemon_threads = True

    def __init__(self, model: Any, processor: Any, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.processor = model, processor
        self.kind: Kind = "vllm"
        self.template: str | None = None
        self.processed, self.strips, self.reveals, self.most, self.name = False, False, True, 20, "tiny"
        self.faults: deque[Fault] = deque()
        self.seen: list[tuple[str, Any, Any]] = []
        self.broken: list[BaseException | None] = []
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what some tests are about; anything else is a fault of this file."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            self.broken.append(error)

    def reply(self, path: str, body: Any) -> tuple[int, Any]:
        tokenizer = self.processor.tokenizer
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": self.name}, {"id": "another"}]}
        if body["model"] != self.name:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if path == "/tokenize":
            tokens = tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
            return 200, {"tokens": tokens, "count": len(tokens), "max_model_len": 4096}
        if path != "/v1/chat/completions":
            return 404, {"detail": "Not Found"}
        if self.kind != "sglang" and body["top_logprobs"] > self.most:
            return 400, {"error": {"message": f"Requested {body['top_logprobs']} logprobs, greater than max allowed: {self.most}"}}
        return 200, self._chat(body)

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        pictures, parts = [], []
        for part in body["messages"][0]["content"]:
            if part["type"] == "image_url":
                head, data = part["image_url"]["url"].split(",")
                assert head == "data:image/png;base64"
                pictures.append(Image.open(io.BytesIO(base64.b64decode(data))))
                part = {"type": "image"}
            parts.append(part)
        theirs = self.kind != "sglang"
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=body["add_generation_prompt"] if theirs else True,
            continue_final_message=body["continue_final_message"] if theirs else False,
        )
        inputs = self.processor(text=[prompt], images=[pictures], return_tensors="pt")
        with torch.no_grad():
            logits = self.model(**inputs).logits[0, -1].double()
        raw = torch.log_softmax(logits, dim=-1)
        allowed = body.get("allowed_token_ids") if theirs else None
        if allowed:
            mask = torch.full_like(logits, -torch.inf)
            mask[allowed] = 0.0
            logits = logits + mask
        sampled = int(logits.argmax())
        told = torch.log_softmax(logits, dim=-1) if self.processed else raw
        wanted = body.get("logprob_token_ids") if self.kind == "vllm" else None
        listed = [sampled, *wanted] if wanted else told.topk(min(body["top_logprobs"], len(told))).indices.tolist()

        def entry(token: int) -> dict[str, Any]:
            as_id = theirs and body["return_tokens_as_token_ids"]
            text = self.processor.tokenizer.decode([token])
            word = f"token_id:{token}" if as_id else text.strip() if self.strips else text
            return {"token": word, "logprob": max(float(told[token]), -9999.0), "bytes": list(word.encode())}

        content = [{**entry(sampled), "top_logprobs": [entry(token) for token in listed]}]
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": ""}, "logprobs": {"content": content}}
        reply: dict[str, Any] = {"model": self.name, "choices": [choice]}
        tokens = inputs["input_ids"][0].tolist() if self.reveals else None
        if self.kind == "sglang" and body.get("return_prompt_token_ids"):
            choice["prompt_token_ids"] = tokens
        elif theirs:
            reply["system_fingerprint"] = "vllm-0-test"
            reply["prompt_token_ids"] = tokens if body.get("return_token_ids") else None
        return reply


class Handler(BaseHTTPRequestHandler):
    """One request: the next fault, or an answer."""

    server: RewardServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Not into the tests' output."""

    def _answer(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(data) if data else None
        self.server.seen.append((self.path, self.headers, body))
        if self.server.faults:
            self.close_connection = True
            return self.server.faults.popleft()(self)
        status, reply = self.server.reply(self.path, body)
        self.send(status, json.dumps(reply).encode())

    def send(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def says(status: int, body: bytes | dict[str, Any], length: int | None = None, **headers: str) -> Fault:
    """A reply of one's own. length: that it claims to have."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda handler: handler.send(status, data, length, **headers)


PATIENCE = 5.0
"""s after which the faults that last do end: a client that waits for them hears something else than silence."""


def hangs(handler: Handler) -> None:
    """Nothing comes for long."""
    handler.server.closing.wait(PATIENCE)
    handler.send(400, b"too late")


def trickles_headers(handler: Handler) -> None:
    """Never silent for long, not done for long."""
    handler.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nX: ")
    _trickle(handler)
    handler.wfile.write(b"\r\n\r\n")


def trickles_body(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    _trickle(handler)


def _trickle(handler: Handler) -> None:
    step = 0.02
    for _ in range(round(PATIENCE / step)):
        handler.wfile.write(b" ")
        if handler.server.closing.wait(step):
            return


def load(folder: Path) -> tuple[Any, Any]:
    """(model, processor) of a folder."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder)
