"""key:=value command lines of the scripts: wrong words are one clear line."""

from __future__ import annotations

import pytest

from whetstone.arguments import boolean, integer, parse_arguments
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


def test_what_is_neither_true_nor_false_is_named():
    assert boolean({"resume": "True"}, "resume") and not boolean({"resume": "false"}, "resume")
    with pytest.raises(ConfigError, match="resume:=maybe is neither true nor false"):
        boolean({"resume": "maybe"}, "resume")
