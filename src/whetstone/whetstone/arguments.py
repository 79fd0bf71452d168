"""Command lines of the form key:=value, as the launch files use them, for the training and evaluation scripts."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from whetstone.config import unknown
from whetstone.errors import ConfigError, WhetstoneError


def parse_arguments(arguments: list[str], defaults: dict[str, str]) -> dict[str, str]:
    """`defaults` with the given values. ConfigError for a word that is not key:=value and for an unknown key."""
    values = dict(defaults)
    for argument in arguments:
        key, separator, value = argument.partition(":=")
        if not separator:
            raise ConfigError(f"argument '{argument}' is not of the form key:=value; known keys: {', '.join(defaults)}")
        if key not in defaults:
            raise ConfigError(unknown("argument", key, list(defaults)))
        values[key] = value
    return values


def integer(values: dict[str, str], key: str) -> int:
    """The value of a key that wants an integer. Raises ConfigError naming it."""
    try:
        return int(values[key])
    except ValueError:
        raise ConfigError(f"argument {key}:={values[key]} is not an integer") from None


def seconds(values: Mapping[str, str], key: str) -> float | None:
    """The value of a key that wants seconds; empty: None. Raises ConfigError naming it."""
    try:
        found = float(values[key]) if values[key] else None
        if found is not None and not math.isfinite(found * 1e9):
            raise ValueError
    except ValueError:
        raise ConfigError(f"argument {key}:={values[key]} is not a number of seconds") from None
    if found is not None and found < 0:
        raise ConfigError(f"argument {key}:={values[key]} must be at least 0")
    return found


def at_least(values: dict[str, str], key: str, least: int) -> int:
    """The value of a key that wants an integer of so much or more. Raises ConfigError naming it."""
    value = integer(values, key)
    if value < least:
        raise ConfigError(f"argument {key}:={value} must be at least {least}")
    return value


def boolean(values: dict[str, str], key: str) -> bool:
    """The value of a key that wants true or false. Raises ConfigError naming it."""
    word = values[key].lower()
    if word not in ("true", "false"):
        raise ConfigError(f"argument {key}:={values[key]} is neither true nor false")
    return word == "true"


def ros_domain(given: str) -> int:
    """The value of domain_id:=; empty: $ROS_DOMAIN_ID, else 0. Raises ConfigError naming which of them is no domain."""
    word = given or os.environ.get("ROS_DOMAIN_ID", "").strip() or "0"
    if not word.isdecimal() or int(word) > 232:
        source = f"argument domain_id:={given}" if given else f"environment variable ROS_DOMAIN_ID={word}"
        raise ConfigError(f"{source} must be an integer from 0 to 232")
    return int(word)


def counts(values: dict[str, str], key: str, word: str, known: Sequence[str] = ()) -> dict[str, int]:
    """The value of a key that wants `word`=count,word=count; empty: none. ConfigError names the item of another form or name."""
    found = {}
    for item in values[key].split(",") if values[key] else []:
        name, _, count = item.partition("=")
        if not count.isdigit() or (known and name not in known):
            of = f" of {', '.join(known)}" if known else ""
            raise ConfigError(f"argument {key}:= wants {word}=count,{word}=count{of}; '{item}' is not of that form")
        found[name] = int(count)
    return found


def one_of(values: Mapping[str, str], words: Mapping[str, Sequence[str]]) -> None:
    """ConfigError where the value of a key is none of its words."""
    for key, known in words.items():
        if values[key] not in known:
            raise ConfigError(unknown(f"value of {key}", values[key], known))


def named(values: Mapping[str, str], key: str) -> dict[str, str]:
    """The value of a key that wants ours=theirs,ours=theirs; empty: none."""
    pairs = [item.partition("=") for item in values[key].split(",")] if values[key] else []
    if any(not name or not value for name, _, value in pairs):
        raise ConfigError(f"argument {key}:={values[key]} is not of the form ours=theirs,ours=theirs")
    return {name: value for name, _, value in pairs}


def expanded(text: str) -> Path:
    """The path with ~ and ~user replaced. Raises ConfigError where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text}: there is no user '{text[1:].split('/')[0]}'") from None


def spelled(values: Mapping[str, str], defaults: Mapping[str, str] | None = None, always: Sequence[str] = ()) -> str:
    """The arguments that give these values, as a file of figures must name them: those that differ from the defaults, and `always`."""
    usual = defaults or {}
    return " ".join(f"{key}:={value}" for key, value in values.items() if key in always or value != usual.get(key))


def run(main: Callable[[list[str]], None], help: str = "") -> None:
    """Call main with the command line; an error of ours is one line and exit status 2. help: what -h and --help print instead."""
    if help and any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(help, end="")
        return
    try:
        main(sys.argv[1:])
    except WhetstoneError as error:
        print(f"whetstone: {error}", file=sys.stderr)
        sys.exit(2)
