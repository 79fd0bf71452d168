"""Configuration: strict YAML into typed dataclasses.

Role: every YAML file is read here, once, against a dataclass. A wrong key, type or range is a ConfigError of one line
that names the file, the key and the fix. Also knows where config/ and assets/ are. Depends on PyYAML only.

A dataclass field may narrow its value through metadata: `ge`, `gt`, `le`, `lt` (numbers, or each number of a list).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from whetstone.errors import ConfigError

T = TypeVar("T")

_BOUNDS = {
    "ge": (lambda value, bound: value >= bound, "at least"),
    "gt": (lambda value, bound: value > bound, "greater than"),
    "le": (lambda value, bound: value <= bound, "at most"),
    "lt": (lambda value, bound: value < bound, "less than"),
}


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars (`1e-3` is a number, `on` and `12:30` are words) that refuses repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool)):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word or a number", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
# PyYAML reads an int that begins with 0 as octal; in YAML 1.2 it is decimal.
_StrictLoader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(node.value, 16) if node.value.startswith("0x") else int(node.value)
)


@cache
def _search_root(override: str | None, prefixes: str) -> Path:
    if override:
        path = Path(override).expanduser()
        if not (path / "config").is_dir():
            raise ConfigError(f"WHETSTONE_ROOT={override} has no folder 'config'; point it at a Whetstone checkout or unset it")
        return path
    here = Path(__file__).resolve()
    for folder in here.parents:
        if (folder / "config" / "robots").is_dir() and (folder / "src" / "whetstone").is_dir():
            return folder
    for prefix in filter(None, prefixes.split(os.pathsep)):
        share = Path(prefix) / "share" / "robot_bringup"
        if (share / "config").is_dir():
            return share
    raise ConfigError("no config folder found: source the workspace's setup file, or set WHETSTONE_ROOT to a Whetstone checkout")


def root() -> Path:
    """The folder that holds config/ and assets/: $WHETSTONE_ROOT, else the source checkout, else robot_bringup's share folder."""
    return _search_root(os.environ.get("WHETSTONE_ROOT"), os.environ.get("AMENT_PREFIX_PATH", ""))


def available(kind: str) -> list[str]:
    """Names that `find(kind, name)` knows, sorted."""
    return sorted(path.stem for path in (root() / "config" / kind).glob("*.yaml"))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a typing error most likely meant, or None."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """'unknown robot 'frankaa'; did you mean 'franka'? known: franka, so100' (for error messages)."""
    known = list(known)
    guess = nearest(word, known)
    hint = f"; did you mean '{guess}'?" if guess else ";"
    return f"unknown {what} '{word}'{hint} known: {', '.join(known) or 'none'}"


def find(kind: str, name: str) -> Path:
    """Path of config/<kind>/<name>.yaml. A name that ends in .yaml is taken as a path. Raises ConfigError with the known names."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"{name}: no such file")
        return path
    names = available(kind)
    if name not in names:
        raise ConfigError(unknown(f"{kind[:-3]}y" if kind.endswith("ies") else kind.removesuffix("s"), name, names))
    return root() / "config" / kind / f"{name}.yaml"


def show(path: str | os.PathLike[str]) -> str:
    """The path as errors show it: relative to the checkout where it lies inside."""
    try:
        return str(Path(path).resolve().relative_to(root().resolve()))
    except (ValueError, ConfigError):
        return str(path)


class Contents(dict[str, Any]):
    """What a YAML file holds. source: its name, so that whoever is handed the contents can say where an error is."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        super().__init__(data)
        self.source = source


def load_yaml(path: str | os.PathLike[str]) -> Contents:
    """Read one YAML file whose top level is a mapping. Raises ConfigError 'file:line: cause'."""
    source = show(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: is not UTF-8 text (byte {error.start})") from None
    return parse_yaml(text, source)


def source_of(data: Mapping[str, Any], default: str) -> str:
    """Name of the file that the data came from, as errors show it; default: where it came from none."""
    return data.source if isinstance(data, Contents) else default


def parse_yaml(text: str, source: str) -> Contents:
    """As load_yaml, from text."""
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {' '.join((error.problem or str(error)).split())}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())[:200] or 'nested too deeply'}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: the top level must be 'key: value' lines, not {_kind(data)}")
    return Contents(data, source)


def parse(cls: type[T], data: Any, source: str) -> T:
    """Build dataclass `cls` from `data` (what YAML gave). `source` names the file in errors. Raises ConfigError."""
    return _dataclass(cls, data, source, "")


def load(cls: type[T], kind: str, name: str) -> T:
    """find + load_extended + parse."""
    data = load_extended(kind, name)
    return parse(cls, data, data.source)


def load_extended(kind: str, name: str) -> Contents:
    """find + load_yaml. A file with the key `extends: <other name>` holds only what differs from that file: mappings are merged key by key,
    an empty value (null) takes a key away, everything else is replaced. Raises ConfigError."""
    return _extended(kind, name, ())


def bases(kind: str, name: str) -> list[Path]:
    """The files that config/<kind>/<name>.yaml extends, the nearest first; see load_extended. Raises ConfigError."""
    load_extended(kind, name)  # names what is wrong
    found = []
    while "extends" in (data := load_yaml(find(kind, name))):
        name = data["extends"]
        found.append(find(kind, name))
    return found


def _extended(kind: str, name: str, seen: tuple[Path, ...]) -> Contents:
    path = find(kind, name).resolve()
    data = load_yaml(path)
    if "extends" not in data:
        return data
    source, base = data.source, data.pop("extends")
    if not isinstance(base, str):
        raise _fail(source, "extends", f"must be the name of another file of config/{kind}, not {_kind(base)}")
    if path in seen:
        raise _fail(source, "extends", f"goes round in a circle: {' -> '.join(one.stem for one in (*seen[seen.index(path) :], path))}")
    try:
        under = _extended(kind, base, (*seen, path))
    except ConfigError as error:
        raise ConfigError(str(error) if "'extends'" in str(error) else f"{source}: key 'extends': {error}") from None
    return Contents(_over(under, data, source, ""), source)


def _over(base: Mapping[str, Any], over: Mapping[str, Any], source: str, prefix: str) -> dict[str, Any]:
    """As merge, but null takes a key away, which must be there."""
    result = dict(base)
    for key, value in over.items():
        name, old = _join(prefix, key), result.get(key)
        if value is None:
            if key not in result:
                raise ConfigError(
                    f"{source}: key '{name}' is empty, to take it away, but there is none; known: {', '.join(map(str, base))}"
                )
            del result[key]
        else:
            result[key] = _over(old, value, source, name) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A new dict: `over` on top of `base`, mappings merged key by key, everything else replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def config_hash(data: Any) -> str:
    """First 12 hex digits of the sha256 of `data` (dataclass, dict, list ...) as canonical JSON: equal content, equal hash."""
    text = json.dumps(_plain(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(data: Any) -> Any:
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {field.name: _plain(getattr(data, field.name)) for field in dataclasses.fields(data)}
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if hasattr(data, "tolist"):  # numpy
        return _plain(data.tolist())
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, Path):
        return str(data)
    raise TypeError(f"a {type(data).__name__} has no place in a configuration hash")


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    words = {bool: "true/false", int: "an integer", float: "a number", str: "text", list: "a list", tuple: "a list", dict: "a mapping"}
    for kind, word in words.items():
        if isinstance(value, kind):
            shown = "" if isinstance(value, (list, tuple, dict)) else f" ({value!r})"
            return word + shown
    return type(value).__name__


def _fail(source: str, key: str, message: str) -> ConfigError:
    return ConfigError(f"{source}: key '{key}' {message}" if key else f"{source}: {message}")


def _join(prefix: str, key: Any) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def _dataclass(cls: type[T], data: Any, source: str, prefix: str) -> T:
    if not isinstance(data, dict):
        raise _fail(source, prefix, f"must be a mapping of {cls.__name__} keys, not {_kind(data)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            guess = nearest(str(key), fields)
            hint = f"; did you mean '{guess}'?" if guess else ";"
            raise ConfigError(f"{source}: key '{_join(prefix, key)}' is unknown{hint} known: {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], source, _join(prefix, name), field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{source}: key '{_join(prefix, name)}' is missing; it must be {_expected(hints[name])}")
    try:
        return cls(**values)
    except ValueError as error:  # raised by __post_init__: conditions between fields
        where = f"{source}: key '{prefix}'" if prefix else source
        raise ConfigError(f"{where}: {error}") from None


def _expected(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return "anything"
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join("empty (null)" if argument is type(None) else _expected(argument) for argument in arguments)
    if origin in (list, tuple):
        if origin is tuple and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}: " + ", ".join(_expected(argument) for argument in arguments)
        return f"a list, each {_expected(arguments[0])}" if arguments else "a list"
    if origin is dict or hint is dict:
        return "a mapping"
    if dataclasses.is_dataclass(hint):
        return f"a mapping of {getattr(hint, '__name__', hint)} keys"
    return {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list", Path: "a path"}.get(hint, str(hint))


def _value(hint: Any, value: Any, source: str, key: str, limits: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        for option in arguments:
            if value == option and type(value) is type(option):
                return value
        words = [str(option) for option in arguments]
        guess = nearest(str(value), words)
        raise _fail(source, key, f"must be one of {', '.join(words)}, not {_kind(value)}" + (f"; did you mean '{guess}'?" if guess else ""))
    if origin in (Union, types.UnionType):
        return _union(hint, arguments, value, source, key, limits)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, source, key)  # type: ignore[arg-type]
    if origin in (list, tuple) or hint is list:
        return _sequence(hint, origin, arguments, value, source, key, limits)
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise _fail(source, key, f"must be a mapping, not {_kind(value)}")
        if not arguments:
            return value
        return {
            _value(arguments[0], name, source, f"{key} (name)", {}): _value(arguments[1], item, source, _join(key, name), limits)
            for name, item in value.items()
        }
    return _scalar(hint, value, source, key, limits)


def _union(hint: Any, arguments: tuple[Any, ...], value: Any, source: str, key: str, limits: Any) -> Any:
    if value is None:
        if type(None) in arguments:
            return None
        raise _fail(source, key, f"is empty; it must be {_expected(hint)}")
    options = [argument for argument in arguments if argument is not type(None)]
    if len(options) == 1:
        return _value(options[0], value, source, key, limits)
    for option in options:
        try:
            return _value(option, value, source, key, limits)
        except ConfigError:
            continue
    raise _fail(source, key, f"must be {_expected(hint)}, not {_kind(value)}")


def _sequence(hint: Any, origin: Any, arguments: tuple[Any, ...], value: Any, source: str, key: str, limits: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _fail(source, key, f"must be {_expected(hint)}, not {_kind(value)}")
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _fail(source, key, f"must have {len(arguments)} entries, not {len(value)}")
        pairs = enumerate(zip(arguments, value, strict=True))
        return tuple(_value(item_hint, item, source, f"{key}[{i}]", limits) for i, (item_hint, item) in pairs)
    items = [_value(arguments[0], item, source, f"{key}[{i}]", limits) for i, item in enumerate(value)] if arguments else list(value)
    return tuple(items) if origin is tuple else items


def _scalar(hint: Any, value: Any, source: str, key: str, limits: Any) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = float(value)
        if not math.isfinite(value):
            raise _fail(source, key, f"must be a finite number, not {value}")
    elif hint is int and isinstance(value, int) and not isinstance(value, bool):
        pass
    elif hint is Path and isinstance(value, str):
        value = Path(value)
    elif not (hint in (bool, str) and isinstance(value, hint)):
        if hint is type(None) and value is None:
            return None
        raise _fail(source, key, f"must be {_expected(hint)}, not {_kind(value)}")
    for name, (holds, words) in _BOUNDS.items():
        if name in limits and not holds(value, limits[name]):
            raise _fail(source, key, f"must be {words} {limits[name]}, not {value}")
    return value
