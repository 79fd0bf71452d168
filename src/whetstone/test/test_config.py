"""Configuration: right input loads, every kind of wrong input is one line that names file, key and fix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whetstone import assets, config
from whetstone.errors import AssetError, ConfigError


@dataclass(frozen=True)
class Inner:
    size: int = field(metadata={"ge": 1, "le": 10})
    name: str = "x"

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("'name' cannot be 'bad'")


@dataclass(frozen=True)
class Outer:
    rate: float = field(metadata={"gt": 0, "lt": 100})
    inner: Inner
    kind: Literal["adam", "sgd"] = "adam"
    inners: tuple[Inner, ...] = ()
    pair: tuple[int, int] = (1, 2)
    limits: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    number_or_word: int | str = 0
    free: Any = None
    flag: bool = False
    file: Path = Path("a")


GOOD = {"rate": 2, "inner": {"size": 3}}


def refuse(data: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(Outer, data, "robots/r.yaml")
    text = str(caught.value)
    assert "\n" not in text and text.startswith("robots/r.yaml: ")
    return text


def test_right_input_becomes_the_dataclass() -> None:
    data = {
        **GOOD,
        "kind": "sgd",
        "inners": [{"size": 1}, {"size": 2, "name": "y"}],
        "pair": [3, 4],
        "limits": {"a": 1},
        "seed": None,
        "number_or_word": "w",
        "free": [1, {"b": 2}],
        "file": "b/c",
    }
    outer = config.parse(Outer, data, "f")
    assert outer == Outer(2.0, Inner(3), "sgd", (Inner(1), Inner(2, "y")), (3, 4), {"a": 1.0}, None, "w", [1, {"b": 2}], False, Path("b/c"))
    assert isinstance(outer.rate, float) and isinstance(outer.limits["a"], float)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rat": 1}, ["key 'rat' is unknown", "did you mean 'rate'?", "known: rate, inner"]),
        ({"zzz": 1}, ["key 'zzz' is unknown", "known: rate"]),
        ({"inner": {}}, ["key 'inner.size' is missing", "an integer"]),
        ({"inner": {"size": 3, "nam": "q"}}, ["key 'inner.nam' is unknown", "did you mean 'name'?"]),
        ({"inner": 3}, ["key 'inner' must be a mapping", "not an integer (3)"]),
        ({"inner": {"size": 0}}, ["key 'inner.size' must be at least 1, not 0"]),
        ({"inner": {"size": 11}}, ["at most 10, not 11"]),
        ({"inner": {"size": 1.5}}, ["an integer, not a number (1.5)"]),
        ({"inner": {"size": True}}, ["an integer, not true/false"]),
        ({"inner": {"size": 1, "name": "bad"}}, ["key 'inner': 'name' cannot be 'bad'"]),
        ({"rate": 0}, ["key 'rate' must be greater than 0"]),
        ({"rate": 100}, ["less than 100"]),
        ({"rate": "20 Hz"}, ["key 'rate' must be a number, not text ('20 Hz')"]),
        ({"rate": float("nan")}, ["finite"]),
        ({"rate": float("inf")}, ["finite"]),
        ({"rate": None}, ["a number, not empty"]),
        ({"kind": "adm"}, ["one of adam, sgd", "did you mean 'adam'?"]),
        ({"inners": {"size": 1}}, ["key 'inners' must be a list"]),
        ({"inners": [{"size": 1}, {"size": 99}]}, ["key 'inners[1].size'"]),
        ({"pair": [1]}, ["2 entries, not 1"]),
        ({"pair": [1, "b"]}, ["key 'pair[1]'"]),
        ({"limits": {"a": "b"}}, ["key 'limits.a' must be a number"]),
        ({"limits": {1: 2}}, ["must be text, not an integer (1)"]),
        ({"flag": 1}, ["true or false"]),
        ({"number_or_word": [1]}, ["an integer or text"]),
    ],
)
def test_wrong_input_names_key_and_fix(change: dict[str, Any], words: list[str]) -> None:
    text = refuse({**GOOD, **change})
    for word in words:
        assert word in text


def test_missing_key_at_the_top() -> None:
    assert "key 'rate' is missing" in refuse({"inner": {"size": 1}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rate", "inner", "size", "kind"]), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_anything_else_is_a_config_error_of_one_line(data: Any) -> None:
    try:
        config.parse(Outer, data, "f")
    except ConfigError as error:
        assert "\n" not in str(error)


def test_yaml_scalars_mean_what_they_say() -> None:
    text = "a: 1e-3\nb: on\nc: 12:30\nd: true\ne: 012\nf: 2020-01-01\ng:\nh: .5\ni: 0x10\nj: -3"
    expected = {"a": 1e-3, "b": "on", "c": "12:30", "d": True, "e": 12, "f": "2020-01-01", "g": None, "h": 0.5, "i": 16, "j": -3}
    assert config.parse_yaml(text, "f") == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: [1, 2", "f:2"),
        ("a: 1\nb: 2\na: 3", "f:3: not valid YAML: key 'a' is given twice"),
        ("a: 1\n b: 2", "f:2"),
        ("- 1\n- 2", "must be 'key: value' lines, not a list"),
        ("", "not empty"),
        ("a: !!python/object/apply:os.system ['true']", "f:1"),
        ("a: \x00", "not valid YAML"),
        ("? [1, 2]\n: 3", "f:1"),
    ],
)
def test_broken_yaml_names_file_and_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
        config.parse_yaml(text, "f")
    assert words in str(caught.value)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file"):
        config.load_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match=r"not UTF-8"):
        config.load_yaml(tmp_path / "b.yaml")


def test_find_lists_names_and_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config" / "robots").mkdir(parents=True)
    for name in ("franka", "so100"):
        (tmp_path / "config" / "robots" / f"{name}.yaml").write_text("name: x")
    monkeypatch.setenv("WHETSTONE_ROOT", str(tmp_path))
    assert config.available("robots") == ["franka", "so100"]
    assert config.find("robots", "so100") == tmp_path / "config" / "robots" / "so100.yaml"
    assert config.find("robots", str(tmp_path / "config/robots/so100.yaml")).is_file()
    with pytest.raises(ConfigError, match=r"unknown robot 'frnka'; did you mean 'franka'[?] known: franka, so100"):
        config.find("robots", "frnka")
    with pytest.raises(ConfigError, match=r"unknown robot '../robots/so100'"):
        config.find("robots", "../robots/so100")
    with pytest.raises(ConfigError, match=r"unknown policy 'x'; known: none"):
        config.find("policies", "x")
    with pytest.raises(AssetError, match=r"asset 'p.safetensors' is missing .*`make assets`"):
        assets.asset_path("p.safetensors")
    with pytest.raises(AssetError, match=r"inside the assets folder"):
        assets.asset_path("../config/robots/so100.yaml")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "p.safetensors").write_bytes(b"x")
    assert assets.asset_path("p.safetensors").read_bytes() == b"x"


def test_wrong_root_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHETSTONE_ROOT", str(tmp_path))
    with pytest.raises(ConfigError, match=r"WHETSTONE_ROOT"):
        config.root()


def test_installed_share_is_found_where_there_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "prefix" / "share" / "robot_bringup"
    (share / "config").mkdir(parents=True)
    module = tmp_path / "lib" / "config.py"
    monkeypatch.delenv("WHETSTONE_ROOT", raising=False)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path / 'prefix'}")
    monkeypatch.setattr(config, "__file__", str(module))
    assert config.root() == share
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    with pytest.raises(ConfigError, match=r"WHETSTONE_ROOT"):
        config.root()


def test_merge_goes_deep_and_leaves_its_input_alone() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert config.merge(base, {"a": {"c": [2]}, "e": 3}) == {"a": {"b": 1, "c": [2]}, "d": 2, "e": 3}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


def test_hash_follows_content_not_order() -> None:
    assert config.config_hash({"a": 1, "b": [1, 2]}) == config.config_hash({"b": (1, 2), "a": 1})
    assert config.config_hash({"a": 1}) != config.config_hash({"a": 2})
    assert len(config.config_hash(Inner(1))) == 12
    with pytest.raises(TypeError):
        config.config_hash({"a": object()})


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder config/robots of one's own."""
    folder = tmp_path / "config" / "robots"
    folder.mkdir(parents=True)
    monkeypatch.setenv("WHETSTONE_ROOT", str(tmp_path))
    (folder / "base.yaml").write_text("name: base\nlist: [1, 2]\nmap: {a: 1, b: {c: 2, d: 3}}\nextra: 1\n")
    return folder


def test_a_file_that_extends_another_holds_what_differs(family: Path) -> None:
    (family / "middle.yaml").write_text("extends: base\nname: middle\nlist: [3]\nmap: {b: {c: 4}, e: 5}\n")
    (family / "top.yaml").write_text("extends: middle\nname: top\nextra: null\nmap: {b: {d: null}}\n")
    assert config.load_extended("robots", "middle") == {
        "name": "middle",
        "list": [3],
        "map": {"a": 1, "b": {"c": 4, "d": 3}, "e": 5},
        "extra": 1,
    }
    top = config.load_extended("robots", "top")
    assert top == {"name": "top", "list": [3], "map": {"a": 1, "b": {"c": 4}, "e": 5}}
    assert top.source == "config/robots/top.yaml"
    assert [path.stem for path in config.bases("robots", "top")] == ["middle", "base"] and config.bases("robots", "base") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: bace\n", "config/robots/top.yaml: key 'extends': unknown robot 'bace'; did you mean 'base'?"),
        ("extends: [base]\n", "config/robots/top.yaml: key 'extends' must be the name of another file of config/robots, not a list"),
        ("extends: top\n", "key 'extends' goes round in a circle: top -> top"),
        (
            "extends: base\nmap: {f: null}\n",
            "config/robots/top.yaml: key 'map.f' is empty, to take it away, but there is none; known: a, b",
        ),
    ],
)
def test_what_cannot_be_extended_is_named(family: Path, text: str, said: str) -> None:
    (family / "top.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load_extended("robots", "top")
    assert said in str(caught.value)
