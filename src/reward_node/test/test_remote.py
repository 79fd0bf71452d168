"""The remote TOPReward against a real HTTP server in this process, over a tiny random vision-language model, and against a faulty one."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_server import Fault, Kind, RewardServer, hangs, load, says, trickles_body, trickles_headers

from reward_node.remote import RemoteTOPReward, client, protocol
from reward_node.remote.backoff import Backoff
from reward_node.remote.client import Client
from reward_node.remote.settings import RetrySettings
from reward_node.topreward import TOPReward
from reward_node.vlm import random_models
from whetstone.config import find, load_yaml
from whetstone.contracts import RewardModel, RewardSample
from whetstone.errors import AssetError, ConfigError, InputError, PeerError
from whetstone.plugins import configured
from whetstone.profile import load_profile

SIZE = (32, 32)
PROFILE = load_profile("franka")
OPEN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
"""The template of random_models' Idefics3 without what ends a turn."""
RETRY = {"attempts": 2, "pause": 0.001, "failures": 100, "rest": 1.0, "longest": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.idefics3(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def parts(folder: Path) -> tuple[Any, Any]:
    return load(folder)


@pytest.fixture
def server(parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[RewardServer]:
    monkeypatch.setenv("no_proxy", "*")
    one = RewardServer(*parts)
    yield one
    one.close()
    assert not one.broken


def configuration(server: RewardServer, **changes: Any) -> dict[str, Any]:
    data = load_yaml(find("rewards", "topreward_remote"))
    return {**data, "url": server.url, "model": "tiny", "image_size": list(SIZE), "timeout": 30.0, "retry": RETRY, **changes}


def remote(server: RewardServer, **changes: Any) -> RemoteTOPReward:
    return RemoteTOPReward.load(configuration(server, **changes), PROFILE)


def local(folder: Path, **changes: Any) -> TOPReward:
    data = {**load_yaml(find("rewards", "topreward_qwen3_vl")), "model": str(folder), "image_size": list(SIZE), "dtype": "float32"}
    return TOPReward.load({**data, "prompt": load_yaml(find("rewards", "topreward_remote"))["prompt"], **changes}, PROFILE)


def frames(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{name: random.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for name in ("front", "wrist")} for _ in range(count)]


def chats(server: RewardServer) -> list[dict[str, Any]]:
    return [body for path, _, body in server.seen if path == "/v1/chat/completions"]


def assert_alike(one: list[RewardSample], other: list[RewardSample]) -> None:
    assert [sample.reason for sample in one] == [sample.reason for sample in other] == [""] * len(one)
    for name in ("log_true", "log_false", "raw", "margin", "progress", "completion", "total", "window"):
        assert [getattr(sample, name) for sample in one] == pytest.approx([getattr(sample, name) for sample in other], abs=1e-4), name


# Numbers.


@pytest.mark.parametrize(
    ("kind", "top", "requests"),
    [("vllm", 20, 1), ("vllm", 1, 1), ("old vllm", 400, 1), ("old vllm", 1, 3), ("sglang", 400, 1)],
)
def test_a_served_model_scores_like_a_local_one(server: RewardServer, folder: Path, kind: Kind, top: int, requests: int) -> None:
    """With the answers named, in the list, and each asked for alone because it is not in the list."""
    server.kind, server.most, server.template = kind, 400, OPEN if kind == "sglang" else None
    reward, here, clip = remote(server, top=top), local(folder), frames(5)
    assert isinstance(reward, RewardModel)
    for one in (reward, here):
        one.reset("a", "put the red cube in the tray", 0)
    before = len(chats(server))
    live = [reward.observe(images, stamp) for stamp, images in enumerate(clip)]
    assert len(chats(server)) - before == requests * len(clip)
    assert_alike(live, here.score_episode(clip, list(range(5))))
    assert len({sample.raw for sample in live}) == 5, "the images make no difference"
    reward.reset("b", "put the red cube in the tray", 0)
    assert_alike(reward.score_episode(clip, list(range(5))), live)


def test_words_that_look_alike_are_told_apart(server: RewardServer, folder: Path) -> None:
    server.strips = True
    reward, here, clip = remote(server), local(folder), frames(1)
    for one in (reward, here):
        one.reset("a", "move", 0)
    assert_alike([reward.observe(clip[0], 0)], [here.observe(clip[0], 0)])
    server.kind, server.template = "sglang", OPEN
    assert "tells no log-probability of ' True'" in reward.observe(clip[0], 1).reason


def test_several_cameras_are_one_image_and_every_prompt_has_as_many(server: RewardServer, folder: Path) -> None:
    reward, here = remote(server, cameras=["front", "wrist"]), local(folder, cameras=["front", "wrist"])
    for one in (reward, here):
        one.reset("a", "move", 0)
    clip = frames(3)
    assert_alike(reward.score_episode(clip, [0, 1, 2]), here.score_episode(clip, [0, 1, 2]))
    for body in chats(server):
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url"] * 8 + ["text"]
    assert reward.needs.cameras == ("front", "wrist") and reward.needs.images == 8


def test_what_scores_come_from(server: RewardServer) -> None:
    reward = remote(server)
    assert reward.provenance.model_id == "topreward_remote@tiny@127.0.0.1:vllm-0-test:remote"
    assert (reward.needs.memory, reward.needs.device) == (0, "")
    assert configured("whetstone.rewards", "topreward_remote")[0] is RemoteTOPReward
    sent = reward.counters["bytes_sent"]
    reward.reset("a", "move", 0)
    reward.observe(frames(1)[0], 0)
    # /v1/models, /tokenize for two answers and for the question's end, the prompt to be shown, one score.
    assert reward.counters == {"requests": 6, "retries": 0, "failures": 0, "bytes_sent": reward.counters["bytes_sent"]}
    assert reward.counters["bytes_sent"] - sent == len(json.dumps(chats(server)[-1]))


def test_an_answer_of_which_only_a_bound_is_known_has_no_score(server: RewardServer) -> None:
    server.kind, server.template = "sglang", OPEN
    reward = remote(server, top=1)
    sample = reward.observe(frames(1)[0], 7)
    assert not sample.valid and sample.stamp == 7 and math.isnan(sample.raw) and math.isnan(sample.total)
    assert "tells no log-probability of ' True', only that it is below -" in sample.reason and "raise 'top' here" in sample.reason


def test_log_probabilities_of_what_is_allowed_are_not_taken_for_the_models(server: RewardServer) -> None:
    server.kind, server.processed = "old vllm", True
    sample = remote(server, top=1).observe(frames(1)[0], 0)
    assert not sample.valid and "start it with --logprobs-mode raw_logprobs" in sample.reason


# The start.


def test_a_server_that_closes_the_turn_is_refused(server: RewardServer, folder: Path) -> None:
    server.kind = "sglang"
    with pytest.raises(ConfigError, match="topreward_remote.yaml: the server closes the user's turn"):
        remote(server, top=300)
    # What the check is for: it would have given other scores, without a word.
    closed, here, clip = remote(server, top=300, check_prompt=False), local(folder), frames(1)
    for one in (closed, here):
        one.reset("a", "move", 0)
    assert abs(closed.score_episode(clip, [0])[0].raw - here.score_episode(clip, [0])[0].raw) > 1e-2
    server.kind, server.reveals = "vllm", False
    with pytest.raises(ConfigError, match="does not show its prompt"):
        remote(server)


def test_what_is_wrong_at_the_start_is_named(server: RewardServer) -> None:
    with pytest.raises(
        ConfigError, match=r"key 'model': unknown model 'tinny'; did you mean 'tiny'\? known: tiny, another \(those that http"
    ):
        remote(server, model="tinny")
    with pytest.raises(ConfigError, match="' quite certainly' is [0-9]+ tokens in the served model's vocabulary"):
        remote(server, answer=" quite certainly")
    with pytest.raises(AssetError, match=r"refused the request \(HTTP 400: Requested 21 logprobs, greater than max allowed: 20\)"):
        remote(server, top=21)
    server.faults.append(says(200, {"data": []}))
    with pytest.raises(AssetError, match="lists no models at /v1/models: it is not OpenAI-compatible"):
        remote(server)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(AssetError, match=rf"yaml: the reward server {url} did not answer within 60 s \(Connection refused\); start it"):
            remote(server, url=url)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "gpu-box:8000"}, "key 'url' must look like http://gpu-box:8000, not 'gpu-box:8000'"),
        ({"url": "http://gpu box"}, "key 'url' must look like"),
        ({"url": "http://gpu-box:99999"}, "key 'url' must look like"),
        ({"url": "http://gpu-box?a=b"}, "key 'url' must look like"),
        ({"key_variable": "sk-secret"}, "key 'key_variable' must be the name of an environment variable"),
        ({"key_variable": "WHETSTONE_TEST_NO_KEY"}, "the environment variable that 'key_variable' names holds no API key"),
        ({"url": "http://me:secret@gpu-box"}, "key 'url' holds a user name or password"),
        ({"frames": 4}, "key 'frames' must be at least 8"),
        ({"prompt": "Is it done?"}, "key 'prompt' must hold {instruction}"),
        ({"cameras": []}, "key 'cameras' is empty"),
    ],
)
def test_a_wrong_configuration_is_named_and_no_secret_is_repeated(server: RewardServer, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        remote(server, **changes)
    assert message in str(error.value) and "secret" not in str(error.value)
    assert not server.seen


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_with_v1(server: RewardServer, path: str) -> None:
    remote(server, url=server.url + path)
    assert [path for path, _, _ in server.seen] == ["/v1/models", "/tokenize", "/tokenize", "/v1/chat/completions", "/tokenize"]


# The key.


def test_the_key_is_sent_and_never_shown(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHETSTONE_TEST_KEY", "sk-1234\n")
    reward = remote(server, key_variable="WHETSTONE_TEST_KEY")
    assert {headers["Authorization"] for _, headers, _ in server.seen} == {"Bearer sk-1234"}
    server.faults.append(says(401, {"error": {"message": "invalid key 'sk-1234'"}}))
    sample = reward.observe(frames(1)[0], 0)
    assert "HTTP 401: invalid key '***'" in sample.reason and "set 'key_variable'" in sample.reason
    server.faults.append(says(302, b"", Location=f"{server.url}/sk-1234"))
    seen = len(server.seen)
    sample = reward.observe(frames(1)[0], 1)
    assert "redirects to http" in sample.reason and "sk-1234" not in sample.reason
    assert len(server.seen) == seen + 1, "the key went where the redirect points"
    monkeypatch.setenv("WHETSTONE_TEST_KEY", "sk-12\n34")
    with pytest.raises(ConfigError, match="holds no API key"):
        remote(server, key_variable="WHETSTONE_TEST_KEY")


# Faults in a run.

NOT_A_NUMBER = b'{"choices": [{"logprobs": {"content": [{"token": "token_id:1", "logprob": NaN}]}}]}'


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (says(400, {"error": {"message": "too many images"}}), "refused the request (HTTP 400: too many images)"),
        (says(422, {"detail": [{"msg": "Field required"}]}), 'refused the request (HTTP 422: [{"msg": "Field required"}])'),
        (says(404, b"<html>no</html>"), "refused the request (HTTP 404: <html>no</html>)"),
        (says(200, b"<html>\nhello</html>"), "sent what is not JSON: '<html> hello</html>'"),
        (says(200, b"[" * 100_000), "sent what is not JSON"),
        (says(200, b"\xff\xfe\xfa"), "sent what is not JSON"),
        (says(200, {"choices": [{"message": {"content": "True"}}]}), "sent no log-probabilities"),
        (says(200, b"null"), "sent no log-probabilities"),
        (says(200, {"choices": [{"logprobs": {"content": [{"token": "a"}]}}]}), "in a form that is not OpenAI's"),
        (says(200, NOT_A_NUMBER), "gave a log-probability of 'token_id:1' that is not a number"),
        (says(200, NOT_A_NUMBER.replace(b"NaN", b"12.5")), "they add up to more than 1"),
        (says(200, NOT_A_NUMBER.replace(b"NaN", b"-9999.0")), "minus infinity"),
        (says(200, b" " * (client.LARGEST + 1)), "sent more than 4 MiB in reply to one request"),
    ],
)
def test_a_reply_of_no_use_costs_one_score_and_is_not_asked_for_again(server: RewardServer, fault: Fault, reason: str) -> None:
    reward = remote(server)
    reward.reset("a", "move", 0)
    server.faults.append(fault)
    before = dict(reward.counters)
    bad, good = (reward.observe(images, stamp) for stamp, images in enumerate(frames(2)))
    assert not bad.valid and math.isnan(bad.raw) and reason in bad.reason and server.url in bad.reason and "\n" not in bad.reason
    assert good.valid
    assert reward.counters["requests"] - before["requests"] == 2
    assert (reward.counters["retries"], reward.counters["failures"]) == (0, 1)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (says(503, b"overloaded"), "HTTP 503: overloaded"),
        (says(429, {"error": {"message": "slow down"}}, Retry_After="0"), "HTTP 429: slow down"),
        (says(200, b"{", length=100), "the reply broke off"),
        (lambda handler: None, "Remote end closed connection without response"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "nonsense"),
    ],
)
def test_what_may_pass_is_tried_again_as_often_as_configured(server: RewardServer, fault: Fault, cause: str) -> None:
    reward = remote(server)
    server.faults.append(fault)
    sample = reward.observe(frames(1)[0], 0)
    assert sample.valid and reward.counters["retries"] == 1 and reward.counters["failures"] == 0
    server.faults += [fault, fault]
    sample = reward.observe(frames(1)[0], 1)
    assert not sample.valid and f"the reward server {server.url} did not answer within 30 s ({cause}" in sample.reason
    assert reward.counters["retries"] == 2 and reward.counters["failures"] == 1
    assert reward.observe(frames(1)[0], 2).valid


def test_a_server_that_asks_for_more_patience_than_there_is_gets_none(server: RewardServer) -> None:
    reward = remote(server)
    server.faults.append(says(503, b"loading", Retry_After="3600"))
    assert "HTTP 503: loading" in reward.observe(frames(1)[0], 0).reason
    assert reward.counters["retries"] == 0


@pytest.mark.parametrize("fault", [hangs, trickles_headers, trickles_body])
def test_the_deadline_holds_whatever_comes(server: RewardServer, fault: Fault) -> None:
    reward = remote(server, timeout=0.3)
    server.faults.append(fault)
    sample = reward.observe(frames(1)[0], 0)
    # Whoever waits longer than that hears the end of it: HTTP 400.
    assert not sample.valid and "did not answer within 0.3 s (no reply)" in sample.reason


def test_requests_that_hang_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = threading.Event()
    monkeypatch.setattr(client, "_exchange", lambda *_: ends.wait())
    one = Client("http://gpu-box", "", RetrySettings(attempts=1, failures=100))
    try:
        for cause in ["no reply"] * 8 + ["8 earlier requests still hang"] * 2:
            with pytest.raises(PeerError, match=cause):
                one.call("/v1/models", None, one.limit(0.01))
        assert one.counters["requests"] == 8
    finally:
        ends.set()


def test_the_node_outlives_the_server_and_finds_it_again(server: RewardServer, parts: tuple[Any, Any]) -> None:
    reward = remote(server, retry={**RETRY, "failures": 2, "rest": 0.01, "longest": 0.02})
    reward.reset("a", "move", 0)
    clip = frames(3)
    assert reward.observe(clip[0], 0).valid
    port = server.server_address[1]
    server.close()
    down = [reward.observe(clip[1], stamp) for stamp in range(1, 5)]
    assert not any(sample.valid for sample in down) and "(Connection refused)" in down[0].reason
    back = RewardServer(*parts, port)
    try:
        found = next(sample for sample in (reward.observe(clip[2], stamp) for stamp in range(5, 100_000)) if sample.valid)
        # The frames meanwhile are in its window: the video went on.
        reward.reset("b", "move", 0)
        again = reward.score_episode([clip[0], *[clip[1]] * 4, *[clip[2]] * (found.stamp - 4)], list(range(found.stamp + 1)))[-1]
        assert found.raw == pytest.approx(again.raw, abs=1e-4)
    finally:
        back.close()


# Texts.


@pytest.mark.parametrize("text", ['say "hello"\n{instruction} {0}\t\\', "Lege den Würfel 把红色方块 🤖 ab", "x" * 2000, ""])
def test_any_text_arrives_as_it_is(server: RewardServer, text: str) -> None:
    reward = remote(server)
    reward.reset("a", text, 0)
    assert reward.observe(frames(1)[0], 0).valid
    assert chats(server)[-1]["messages"][0]["content"][-1]["text"] == reward.settings.prompt.replace("{instruction}", text)


def test_other_words_keep_the_frames(server: RewardServer, folder: Path) -> None:
    reward, here, clip = remote(server), local(folder), frames(4)
    for one in (reward, here):
        one.reset("a", "move", 0)
        one.score_episode(clip[:3], [0, 1, 2])
        one.tell("put the red cube in the tray")
    assert_alike([reward.observe(clip[3], 3)], [here.observe(clip[3], 3)])


@pytest.mark.parametrize("text", ["move \ud83e", "x" * 10_000])
def test_what_is_no_instruction_is_named_and_not_sent(server: RewardServer, text: str) -> None:
    reward = remote(server)
    sent = len(server.seen)
    with pytest.raises(InputError, match="the instruction"):
        reward.reset("a", text, 0)
    with pytest.raises(InputError, match="camera front: no image"):
        reward.observe({}, 0)
    assert len(server.seen) == sent
    reward.reset("b", "move", 0)
    assert reward.observe(frames(1)[0], 0).valid


# Parts.


class Clock:
    """Stands still unless somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_pauses_double_and_are_cut_at_random_but_repeatably() -> None:
    def pauses(seed: int) -> list[float]:
        backoff = Backoff(RetrySettings(pause=1.0), Clock(), seed)
        return [backoff.pause(attempt) for attempt in range(6)]

    assert pauses(0)[0] == 0.0
    for attempt, pause in enumerate(pauses(0)[1:]):
        assert 0.5 * 2**attempt <= pause <= 2**attempt
    assert pauses(0) == pauses(0) != pauses(1)


def test_the_breaker_opens_rests_longer_each_time_and_closes() -> None:
    clock = Clock()
    backoff = Backoff(RetrySettings(attempts=4, failures=2, rest=1.0, longest=8.0), clock)
    backoff.failed("a")
    assert backoff.left == 0.0 and backoff.attempts == 4
    rests = []
    for _ in range(2000):  # beyond what a float could double
        backoff.failed("b")
        rests.append(backoff.left)
    for count, rest in enumerate(rests):
        assert 0.5 * min(2.0 ** min(count, 9), 8.0) <= rest <= 8.0
    assert rests[0] <= 1.0 and backoff.attempts == 1 and backoff.cause == "b"
    clock.now += backoff.left
    assert backoff.left == 0.0
    backoff.succeeded()
    assert backoff.attempts == 4 and backoff.left == 0.0


def test_an_open_breaker_asks_nothing_until_it_has_rested(server: RewardServer) -> None:
    clock = Clock()
    one = Client(server.url, "", RetrySettings(attempts=1, failures=1, rest=4.0), 0, clock, clock.sleep)
    server.faults.append(says(500, b"out of memory"))
    with pytest.raises(PeerError, match="HTTP 500: out of memory"):
        one.call("/v1/models", None, one.limit(5.0))
    with pytest.raises(PeerError, match=r"is left alone for another [234]\.\d s after 1 failures in a row \(HTTP 500: out of memory\)"):
        one.call("/v1/models", None, one.limit(5.0))
    assert one.counters["requests"] == 1
    clock.now += 4.0
    assert one.call("/v1/models", None, one.limit(5.0))["data"]


def test_only_failures_in_a_row_open_the_breaker(server: RewardServer) -> None:
    clock = Clock()
    one = Client(server.url, "", RetrySettings(attempts=1, failures=2), 0, clock, clock.sleep)
    for _ in range(3):
        server.faults.append(says(500, b""))
        with pytest.raises(PeerError, match="HTTP 500"):
            one.call("/v1/models", None, one.limit(5.0))
        assert one.call("/v1/models", None, one.limit(5.0))["data"]
    assert one.counters["requests"] == 6


def test_pauses_end_with_the_deadline(server: RewardServer) -> None:
    clock = Clock()
    one = Client(server.url, "", RetrySettings(attempts=50, pause=1.0), 0, clock, clock.sleep)
    server.faults += [says(503, b"")] * 50
    with pytest.raises(PeerError, match=r"did not answer within 10 s \(HTTP 503: no text\)"):
        one.call("/v1/models", None, one.limit(10.0))
    assert 2 <= len(clock.slept) <= 5 and sum(clock.slept) < 10.0
    assert one.counters["retries"] == len(clock.slept) == one.counters["requests"] - 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "logprobs", "content", "token", "logprob", "top_logprobs", "prompt_token_ids", "tokens", "data"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(reply=JSON, entry=JSON, others=JSON)
def test_no_reply_is_taken_for_numbers_that_it_does_not_hold(reply: Any, entry: Any, others: Any) -> None:
    if isinstance(entry, dict) and isinstance(others, list):
        entry = {**entry, "top_logprobs": others}
    for one in (reply, {"choices": [{"logprobs": {"content": [entry]}}]}):
        for read in (protocol.prompt_tokens, protocol.token_ids, protocol.model_names, protocol.fingerprint):
            read(one)
        try:
            found = protocol.log_probabilities(one)
        except ValueError:
            continue
        assert found and all(-9999.0 < value <= 1e-3 for value in found.values())
        assert sum(map(math.exp, found.values())) <= 1.0 + 1e-3
