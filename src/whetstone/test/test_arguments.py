"""key:=value command lines of the scripts: wrong words are one clear line."""

from __future__ import annotations

import pytest

from whetstone.arguments import at_least, boolean, expanded, integer, parse_arguments, ros_domain, seconds
from whetstone.errors import ConfigError

DEFAULTS = {"robot": "franka", "steps": "10"}


def test_defaults_and_given_values():
    assert parse_arguments(["steps:=3"], DEFAULTS) == {"robot": "franka", "steps": "3"}


@pytest.mark.parametrize(("word", "said"), [("robot", "not of the form key:=value"), ("robbot:=x", "did you mean 'robot'")])
def test_wrong_words_are_named(word, said):
    with pytest.raises(ConfigError, match=said):
        parse_arguments([word], DEFAULTS)


def test_what_is_no_integer_is_named():
    assert integer({"steps": "12"}, "steps") == 12
    with pytest.raises(ConfigError, match="steps:=many is not an integer"):
        integer({"steps": "many"}, "steps")


def test_what_is_too_little_is_named():
    assert at_least({"steps": "1"}, "steps", 1) == 1
    with pytest.raises(ConfigError, match="steps:=0 must be at least 1"):
        at_least({"steps": "0"}, "steps", 1)


def test_what_are_no_seconds_is_named():
    assert seconds({"start": ""}, "start") is None and seconds({"start": "1.5"}, "start") == 1.5
    for text, said in (("soon", "is not a number"), ("nan", "is not a number"), ("1e999", "is not a number"), ("-1", "must be at least 0")):
        with pytest.raises(ConfigError, match=f"start:={text} {said}"):
            seconds({"start": text}, "start")


def test_a_path_in_ones_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/bag") == tmp_path / "bag" and str(expanded("bag/~")) == "bag/~"
    with pytest.raises(ConfigError, match="there is no user 'nobody-here'"):
        expanded("~nobody-here/bag")


def test_what_is_neither_true_nor_false_is_named():
    assert boolean({"resume": "True"}, "resume") and not boolean({"resume": "false"}, "resume")
    with pytest.raises(ConfigError, match="resume:=maybe is neither true nor false"):
        boolean({"resume": "maybe"}, "resume")


def test_a_ros_domain_is_the_argument_s_else_the_environment_s(monkeypatch):
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    assert (ros_domain(""), ros_domain("232")) == (0, 232)
    monkeypatch.setenv("ROS_DOMAIN_ID", " 41 ")
    assert (ros_domain(""), ros_domain("7")) == (41, 7)
    monkeypatch.setenv("ROS_DOMAIN_ID", "300")
    with pytest.raises(ConfigError, match="environment variable ROS_DOMAIN_ID=300 must be an integer from 0 to 232"):
        ros_domain("")
    for wrong in ("233", "-1", "three", "\u00b2"):
        with pytest.raises(ConfigError, match=f"argument domain_id:={wrong} must be an integer"):
            ros_domain(wrong)
