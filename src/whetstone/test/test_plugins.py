"""Plug-ins: found by entry point, named with their neighbours where not."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from whetstone import plugins
from whetstone.errors import ConfigError


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("ordered", "collections:OrderedDict", "whetstone.rewards"),
        EntryPoint("no_module", "does.not.exist:X", "whetstone.rewards"),
        EntryPoint("no_class", "collections:Missing", "whetstone.rewards"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry for entry in entries if entry.group == group])


def test_loads_the_class() -> None:
    from collections import OrderedDict

    assert plugins.load_plugin("whetstone.rewards", "ordered") is OrderedDict


def test_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"reward plug-in 'orderd'; did you mean 'ordered'[?] known: no_class, no_module, ordered"):
        plugins.load_plugin("whetstone.rewards", "orderd")
    with pytest.raises(ConfigError, match=r"unknown policy plug-in 'x'; known: none"):
        plugins.load_plugin("whetstone.policies", "x")


@pytest.mark.parametrize("name", ["no_module", "no_class"])
def test_a_broken_plugin_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"reward plug-in '{name}' .* cannot be loaded"):
        plugins.load_plugin("whetstone.rewards", name)
